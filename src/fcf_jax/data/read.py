"""Readers of interactions: the files of published data sets, or any table of users and items."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fcf_jax.data.columnar import SUFFIXES, read_columnar, read_frame
from fcf_jax.data.columns import (
    LAYOUTS,
    Columns,
    Dialect,
    find_files,
    first_lines,
    infer_dialect,
    layout_of_name,
)
from fcf_jax.data.interactions import Interactions
from fcf_jax.data.parse import BadLinePolicy, Table, parse_text, read_text
from fcf_jax.data.rows import DuplicatePolicy, check_duplicate_policy, encode_labels

if TYPE_CHECKING:
    import pandas as pd

_COMMON_NAMES = Columns()


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """Counts of what was read: num_rows = interactions + duplicates_merged + zeros_dropped.

    Attributes:
        files: Files that were read.
        layout: The layout found; "generic" for other text tables, "npz", "parquet", or "frame"
            for a DataFrame.
        encoding: "utf-8", "utf-16", "latin-1" for text that is not valid UTF-8, "binary" otherwise.
        num_rows: Well-formed rows.
        duplicates_merged: Rows merged into another row of the same user and item.
        zeros_dropped: Pairs of strength zero, which implicit feedback treats as unobserved.
        bad_lines_skipped: Malformed lines, only with on_bad_line="skip".
    """

    files: tuple[str, ...]
    layout: str
    encoding: str
    num_rows: int
    duplicates_merged: int
    zeros_dropped: int
    bad_lines_skipped: int


class _Request(NamedTuple):
    layout: str
    columns: Columns
    separator: str | None
    on_bad_line: BadLinePolicy
    implicit: bool


class _Loaded(NamedTuple):
    table: Table
    layout: str
    encoding: str


def read_interactions(
    path: "str | PathLike[str] | pd.DataFrame",
    *,
    layout: str = "auto",
    columns: Columns = _COMMON_NAMES,
    separator: str | None = None,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
) -> tuple[Interactions, ReadReport]:
    """Read interactions from a file, the folder of a published data set, or a pandas DataFrame.

    Reads text (CSV, TSV, `::`, blanks; plain, gzip, bzip2 or zip), Parquet and NPZ. Users and items are
    numbered by their sorted labels, so the result does not depend on the order of the lines.

    Args:
        path: A file, a folder such as ml-1m/, or a DataFrame, whose columns are recognized as a file's are.
        layout: A name in `LAYOUTS`; "auto" recognizes one by file name and first line; "generic" infers the
            format from the content only.
        columns: Which columns to read; see `Columns`.
        separator: One character, "::" or "whitespace"; None infers it.
        duplicates: How to merge repeated pairs, see `Interactions.from_arrays`.
        on_bad_line: What to do with a line with missing fields or a number that is not finite: "error", or
            "skip" to omit and count it.
        implicit: Whether strengths are counts: zeros are dropped and counted, and a negative strength is an
            error. False keeps both.

    Returns:
        The interactions with their original labels, and what was merged, dropped and skipped.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: In one line, with the file, the line number where there is one, the fault and the remedy.

    Example:
        >>> columns = Columns(user="listener", item="song", strength="plays")
        >>> interactions, report = read_interactions("plays.csv", columns=columns)
    """
    _check_policies(duplicates, on_bad_line)
    if layout in LAYOUTS and columns != Columns():
        raise ValueError(f'layout {layout} has fixed columns; set data.layout = "generic" to choose others')
    request = _Request(layout, columns, separator, on_bad_line, implicit)
    is_path = isinstance(path, str | PathLike)
    files = find_files(Path(path), layout) if is_path else []
    loaded = [_load(file, request) for file in files] if is_path else [_loaded_frame(path, request)]
    path = path if is_path else "DataFrame"
    table = _concatenated(path, [part.table for part in loaded])
    try:
        merged = Interactions.from_labels(
            table.users, table.items, table.strengths, timestamps=table.timestamps, duplicates=duplicates
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    kept = merged.drop_zeros() if implicit else merged
    return kept, ReadReport(
        files=tuple(str(file) for file in files),
        layout=loaded[0].layout,
        encoding=", ".join(sorted({part.encoding for part in loaded})),
        num_rows=len(table.users),
        duplicates_merged=len(table.users) - merged.num_interactions,
        zeros_dropped=merged.num_interactions - kept.num_interactions,
        bad_lines_skipped=table.num_skipped,
    )


def read_published_split(
    path: str | PathLike[str],
    *,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
) -> tuple[Interactions, Interactions]:
    """Read a data set published as a training and a test file (LightGCN's Last.fm).

    Args:
        path: The folder.
        duplicates: As in `read_interactions`, within each file.
        on_bad_line: As in `read_interactions`.
        implicit: As in `read_interactions`.

    Returns:
        (train, test), both over the users and items of both files, with the same ids.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: As `read_interactions`, and for a folder without a published split.
    """
    _check_policies(duplicates, on_bad_line)
    files = find_files(Path(path), "auto")
    if len(files) != 2:
        raise ValueError(
            f"{path}: expected the folder of a published split, got {files[0].name}; split it yourself"
        )
    request = _Request("auto", Columns(), None, on_bad_line, implicit)
    tables = [_load(file, request).table for file in files]
    both = _concatenated(path, tables)
    user_ids, user_labels = encode_labels(both.users, kind="user")
    item_ids, item_labels = encode_labels(both.items, kind="item")
    num_train = len(tables[0].users)
    parts = []
    for table, rows in zip(tables, (slice(None, num_train), slice(num_train, None)), strict=True):
        part = Interactions.from_arrays(
            user_ids[rows],
            item_ids[rows],
            table.strengths,
            timestamps=table.timestamps,
            user_labels=user_labels,
            item_labels=item_labels,
            duplicates=duplicates,
        )
        parts.append(part.drop_zeros() if implicit else part)
    return parts[0], parts[1]


def _check_policies(duplicates: str, on_bad_line: str) -> None:
    check_duplicate_policy(duplicates)
    if on_bad_line not in ("error", "skip"):
        raise ValueError(f'expected data.on_bad_line "error" or "skip", got {on_bad_line!r}; choose one')


def _load(path: Path, request: _Request) -> _Loaded:
    if path.suffix in SUFFIXES:
        table = read_columnar(
            path, request.columns, on_bad_line=request.on_bad_line, implicit=request.implicit
        )
        return _Loaded(table, path.suffix.removeprefix("."), "binary")
    text = read_text(path)
    layout, dialect = _layout_and_dialect(path, text.file_name, text.content, request)
    table = parse_text(
        text.content, dialect, path, on_bad_line=request.on_bad_line, implicit=request.implicit
    )
    return _Loaded(table, layout, text.encoding)


def _loaded_frame(frame: "pd.DataFrame", request: _Request) -> _Loaded:
    if request.layout in LAYOUTS or request.separator is not None:
        raise ValueError("DataFrame: expected no layout or separator, which are of text; leave them out")
    table = read_frame(frame, request.columns, on_bad_line=request.on_bad_line, implicit=request.implicit)
    return _Loaded(table, "frame", "binary")


def _layout_and_dialect(path: Path, file_name: str, content: bytes, request: _Request) -> tuple[str, Dialect]:
    line_number, lines = first_lines(content)
    if not lines:
        raise ValueError(f"{path}: expected interactions, found an empty file; choose another data.path")
    candidate = request.layout if request.layout in LAYOUTS else layout_of_name(file_name)
    is_chosen = request.layout == "generic" or request.columns != Columns() or request.separator is not None
    if candidate in LAYOUTS and not is_chosen:
        if LAYOUTS[candidate].matches(lines[0]):
            return candidate, LAYOUTS[candidate].dialect
        if request.layout != "auto":
            raise ValueError(
                f"{path}:{line_number}: expected a line of layout {candidate}, got {lines[0][:60]!r}; "
                'set data.layout = "generic" or correct the line'
            )
    return "generic", infer_dialect(f"{path}:{line_number}", lines, request.columns, request.separator)


def _concatenated(path: str | PathLike[str], tables: Sequence[Table]) -> Table:
    num_skipped = sum(table.num_skipped for table in tables)
    if not any(len(table.users) for table in tables):
        skipped = f" ({num_skipped} bad lines skipped)" if num_skipped else ""
        raise ValueError(f"{path}: expected interactions, found none{skipped}; choose another data.path")
    if len(tables) == 1:
        return tables[0]
    return Table(
        users=_joined_labels([table.users for table in tables]),
        items=_joined_labels([table.items for table in tables]),
        strengths=_joined([table.strengths for table in tables]),
        timestamps=_joined([table.timestamps for table in tables]),
        num_skipped=num_skipped,
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None


def _joined_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len({part.dtype for part in parts}) > 1:  # int64 with uint64 would become float64
        parts = [part.astype(str).astype(object) for part in parts]
    return np.concatenate(parts)
