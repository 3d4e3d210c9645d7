"""Readers of interactions: the files of published data sets, or any table of users and items."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fcf_jax.data.csr import compressed
from fcf_jax.data.formats.columns import Columns
from fcf_jax.data.formats.evidence import meaning_of
from fcf_jax.data.formats.layouts import LAYOUTS, find_files
from fcf_jax.data.formats.load import Loaded, Request, load_all, load_frame
from fcf_jax.data.formats.table import BadLinePolicy, Table
from fcf_jax.data.interactions import Interactions
from fcf_jax.data.labels import joined_labels
from fcf_jax.data.rows import DuplicatePolicy, Rows, check_duplicate_policy, checked_rows, encode_labels

if TYPE_CHECKING:
    import pandas as pd

_BY_NAME = Columns()
_SHOWN_ROWS = 5


class Appearance(NamedTuple):
    """Labels in the order in which they first appear in the data: another numbering of users and items.

    Attributes:
        users: Labels of the users.
        items: Labels of the items.
    """

    users: np.ndarray
    items: np.ndarray


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """How files were understood, and counts: num_rows = interactions + duplicates_merged + zeros_dropped.

    Attributes:
        files: Files that were read.
        layout: The layout found; "generic" for other text tables, "npz", "parquet", or "frame"
            for a DataFrame.
        encoding: "utf-8", "utf-16", "latin-1" for text that is not valid UTF-8, "binary" otherwise.
        num_rows: Well-formed rows.
        duplicates_merged: Rows merged into another row of the same user and item.
        zeros_dropped: Pairs of strength zero, which implicit feedback treats as unobserved.
        bad_lines_skipped: Lines that cannot be read, with on_bad_line="skip" and in layouts that have some.
        labels_merged: Ids that are another id but for the blanks around them, and were merged with it.
        unrated: Rows of strength "seen, not rated": 1 as implicit feedback, left out of explicit ratings.
        columns: Column taken as "user", "item", "strength" and "timestamp", by name or number.
        why: How columns without names were told apart, or why one was left out; "" if that is plain.
        first_rows: User, item, strength and seconds of the first rows; None for what the file has not.
        appearance: Users and items in the order of their first rows.
    """

    files: tuple[str, ...]
    layout: str
    encoding: str
    num_rows: int
    duplicates_merged: int
    zeros_dropped: int
    bad_lines_skipped: int
    labels_merged: int = 0
    unrated: int = 0
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    why: str = ""
    first_rows: tuple[tuple[str, str, float | None, int | None], ...] = ()
    appearance: Appearance | None = dataclasses.field(default=None, repr=False, compare=False)


def read_interactions(
    path: "str | PathLike[str] | pd.DataFrame",
    *,
    layout: str = "auto",
    columns: Columns = _BY_NAME,
    separator: str | None = None,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
    strength_values: Mapping[Any, float | str] | None = None,
) -> tuple[Interactions, ReadReport]:
    """Read interactions from a file, the folder of a published data set, or a pandas DataFrame.

    Files are text (CSV, TSV, `::`, blanks; plain, gzip, bzip2 or zip), JSON lines, lists of items, Parquet or
    NPZ. Users and items are numbered by their sorted labels, so the result does not depend on the order of
    the lines.

    Args:
        path: A file, a folder such as ml-1m/, or a DataFrame, whose columns are recognized as a file's are.
        layout: A name in `LAYOUTS`; "auto" recognizes one by file name and first lines; "generic" reads a
            table whose format is inferred.
        columns: Which columns to read; see `Columns`.
        separator: One character, "::" or "whitespace"; None infers it.
        duplicates: How to merge repeated pairs, see `Interactions.from_arrays`.
        on_bad_line: What to do with a line with missing fields, a number that is not finite, or a negative
            strength in implicit feedback: "error", or "skip" to omit and count it.
        implicit: Whether strengths are counts: zeros are dropped and counted, and a negative strength cannot
            be read. False keeps both.
        strength_values: What words and special numbers of the strength column stand for, such as {"view": 1,
            "buy": 4} for a column of events, or {-1: "seen"} for "seen, not rated", which is strength 1 as
            implicit feedback and left out of explicit ratings. None: what is known of the layout, and
            `evidence.EVENT_WEIGHTS`.

    Returns:
        The interactions with their original labels, and what was merged, dropped and skipped.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: In one line, with the file, the line number where there is one, the fault and the remedy.

    Example:
        >>> columns = Columns(user="listener", item="song", strength="plays")
        >>> interactions, report = read_interactions("plays.csv", columns=columns)
    """
    check_policies(duplicates, on_bad_line)
    if layout in LAYOUTS and LAYOUTS[layout].num_fields is not None and columns != _BY_NAME:
        raise ValueError(f'layout {layout} has fixed columns; set data.layout = "generic" to choose others')
    request = Request(
        layout,
        columns,
        separator,
        on_bad_line,
        implicit,
        *meaning_of(strength_values),
    )
    is_path = isinstance(path, str | PathLike)
    files = find_files(Path(path), layout) if is_path else []
    loaded = load_all(Path(path), files, request) if is_path else [load_frame(path, request)]
    path = path if is_path else "DataFrame"
    table = concatenated(path, [part.table for part in loaded])
    loaded = [part._replace(table=None) for part in loaded]  # so that its columns are freed when sorted
    report = report_of(files, loaded, table)
    try:
        rows, labels = _rows_of(table)
        del table
        report = dataclasses.replace(report, appearance=_appearance(rows, *labels))
        merged = _interactions(rows, *labels, duplicates)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    kept = merged.drop_zeros() if implicit else merged
    return kept, counted(report, [merged], [kept])


def report_of(files: Sequence[Path], loaded: Sequence[Loaded], table: Table) -> ReadReport:
    """Return the report of what was read, before anything is merged or dropped."""
    return ReadReport(
        files=tuple(str(file) for file in files),
        layout=loaded[0].layout,
        encoding=", ".join(sorted({part.encoding for part in loaded})),
        num_rows=len(table.users),
        duplicates_merged=0,
        zeros_dropped=0,
        bad_lines_skipped=table.num_skipped,
        labels_merged=table.users.num_merged + table.items.num_merged,
        unrated=sum(part.num_unrated for part in loaded),
        columns=loaded[0].columns,
        why=loaded[0].why,
        first_rows=_first_rows(table),
    )


def counted(report: ReadReport, merged: Sequence[Interactions], kept: Sequence[Interactions]) -> ReadReport:
    """Return the report with the counts of what was merged, and of what was dropped then."""
    num_merged, num_kept = (sum(part.num_interactions for part in parts) for parts in (merged, kept))
    return dataclasses.replace(
        report, duplicates_merged=report.num_rows - num_merged, zeros_dropped=num_merged - num_kept
    )


def _first_rows(table: Table) -> tuple[tuple[str, str, float | None, int | None], ...]:
    count = min(_SHOWN_ROWS, len(table.users))
    absent = [None] * count
    return tuple(
        zip(
            map(str, table.users[:count].tolist()),
            map(str, table.items[:count].tolist()),
            absent if table.strengths is None else table.strengths[:count].tolist(),
            absent if table.timestamps is None else table.timestamps[:count].tolist(),
            strict=True,
        )
    )


def _rows_of(table: Table) -> tuple[Rows, tuple[np.ndarray, np.ndarray]]:
    """Return the rows, and the labels of their users and items."""
    users, user_labels = encode_labels(table.users, kind="user")
    items, item_labels = encode_labels(table.items, kind="item")
    rows = checked_rows(
        users,
        items,
        table.strengths,
        table.timestamps,
        num_users=len(user_labels),
        num_items=len(item_labels),
    )
    return rows, (user_labels, item_labels)


def _appearance(rows: Rows, user_labels: np.ndarray, item_labels: np.ndarray) -> Appearance:
    return Appearance(
        user_labels[_by_first_row(rows.user_ids, len(user_labels))],
        item_labels[_by_first_row(rows.item_ids, len(item_labels))],
    )


def _by_first_row(ids: np.ndarray, num_ids: int) -> np.ndarray:
    """Return the ids in the order of their first rows; every id has one."""
    first = np.zeros(num_ids, np.int32)
    first[ids[::-1]] = np.arange(len(ids) - 1, -1, -1, dtype=np.int32)  # the last assignment stays
    return np.argsort(first, kind="stable")


def _interactions(
    rows: Rows, user_labels: np.ndarray, item_labels: np.ndarray, duplicates: DuplicatePolicy
) -> Interactions:
    csr = compressed(rows, num_users=len(user_labels), num_items=len(item_labels), duplicates=duplicates)
    return Interactions(
        csr.indptr,
        csr.item_ids,
        csr.strengths,
        len(item_labels),
        timestamps=csr.timestamps,
        user_labels=user_labels,
        item_labels=item_labels,
    )


def check_policies(duplicates: str, on_bad_line: str) -> None:
    """Refuse an unknown policy for duplicates or bad lines."""
    check_duplicate_policy(duplicates)
    if on_bad_line not in ("error", "skip"):
        raise ValueError(f'expected data.on_bad_line "error" or "skip", got {on_bad_line!r}; choose one')


def concatenated(path: str | PathLike[str], tables: Sequence[Table]) -> Table:
    """Return the rows of several tables in one.

    Raises:
        ValueError: If there is no row.
    """
    num_skipped = sum(table.num_skipped for table in tables)
    if not any(len(table.users) for table in tables):
        skipped = f" ({num_skipped} bad lines skipped)" if num_skipped else ""
        raise ValueError(f"{path}: expected interactions, found none{skipped}; choose another file")
    if len(tables) == 1:
        return tables[0]
    return Table(
        users=joined_labels([table.users for table in tables]),
        items=joined_labels([table.items for table in tables]),
        strengths=_joined([table.strengths for table in tables]),
        timestamps=_joined([table.timestamps for table in tables]),
        num_skipped=num_skipped,
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None
