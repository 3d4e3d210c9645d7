"""Read interactions from the official files of known data sets, or from any table of users and items."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcf_jax.data.assemble import DUPLICATE_POLICIES, DuplicatePolicy, encode_labels
from fcf_jax.data.columnar import SUFFIXES, read_columnar
from fcf_jax.data.columns import Columns, Dialect, first_records, sniff_dialect
from fcf_jax.data.decoding import read_bytes, to_utf8
from fcf_jax.data.interactions import Interactions
from fcf_jax.data.layouts import LAYOUTS, dialect_of, find_files, layout_of_name, matches
from fcf_jax.data.parse import BAD_LINE_POLICIES, BadLinePolicy, Table, parse_text


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """What became of the rows: num_rows = interactions + duplicates_merged + zeros_dropped.

    Attributes:
        files: What was read.
        layout: The layout found, "generic" for an unknown table.
        encoding: "utf-8"; "latin-1" when the text was not valid UTF-8; "utf-16"; "binary" for NPZ and
            Parquet.
        num_rows: Well-formed rows.
        duplicates_merged: Rows merged into another row of the same user and item.
        zeros_dropped: Pairs of strength zero, which are no interactions in implicit data.
        bad_lines_skipped: Lines that could not be read (only with on_bad_line="skip").
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
    path: str | PathLike[str],
    *,
    layout: str = "auto",
    user_column: str | int | None = None,
    item_column: str | int | None = None,
    strength_column: str | int | None = None,
    timestamp_column: str | int | None = None,
    separator: str | None = None,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
) -> tuple[Interactions, ReadReport]:
    """Read a file or the folder of a known data set.

    Text (CSV, TSV, `::`, blanks; also gzip, bzip2 or zip), Parquet and NPZ are read. Users and items are
    numbered by their sorted labels, so that the result does not depend on the order of the lines.

    Args:
        path: A file, or a folder such as ml-1m/.
        layout: A name in `LAYOUTS`; "auto" tells by file name and first line; "generic" looks at the content
            only.
        user_column: Name or 0-based number; None looks for a common name, or takes the order user, item,
            strength, timestamp.
        item_column: Likewise.
        strength_column: Likewise; "" = none, every strength is 1.
        timestamp_column: Likewise, in seconds; "" = none.
        separator: One character, "::" or "whitespace"; None finds out.
        duplicates: What to do with repeated pairs, see `Interactions.from_arrays`.
        on_bad_line: "error", or "skip" to leave out and count lines with missing fields or non-numeric or
            non-finite numbers.
        implicit: Strengths are counts: zeros are dropped and counted, a negative one is an error. False keeps
            both.

    Returns:
        The interactions with their original labels, and what was merged, dropped and skipped.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: In one line: FILE:LINE where a line is at fault, what is wrong, and the remedy.
    """
    columns = Columns(user_column, item_column, strength_column, timestamp_column)
    request = _checked(_Request(layout, columns, separator, on_bad_line, implicit), duplicates)
    _, files = find_files(Path(path), layout)
    loaded = [_load(file, request) for file in files]
    table = _concatenated([one.table for one in loaded])
    _refuse_empty(Path(path), table)
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
        encoding=", ".join(sorted({one.encoding for one in loaded})),
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
    """Read a data set that was published as training and test file (LightGCN's Last.fm).

    Args:
        path: The folder.
        duplicates: As in `read_interactions`, within each file.
        on_bad_line: As in `read_interactions`.
        implicit: As in `read_interactions`.

    Returns:
        (train, test) over the users and items of both, with the same ids.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: As `read_interactions`; or when the folder holds no published split.
    """
    request = _checked(_Request("auto", Columns(), None, on_bad_line, implicit), duplicates)
    layout, files = find_files(Path(path), "auto")
    if len(files) != 2:
        raise ValueError(
            f"{path}: expected the folder of a published split, got layout {layout}; split it yourself"
        )
    tables = [_load(file, request).table for file in files]
    both = _concatenated(tables)
    _refuse_empty(Path(path), both)
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


def _checked(request: _Request, duplicates: DuplicatePolicy) -> _Request:
    if request.on_bad_line not in BAD_LINE_POLICIES:
        raise ValueError(
            f'expected data.on_bad_line "error" or "skip", got {request.on_bad_line!r}; choose one'
        )
    if duplicates not in DUPLICATE_POLICIES:
        choices = ", ".join(DUPLICATE_POLICIES)
        raise ValueError(f"expected data.duplicates to be one of {choices}, got {duplicates!r}; choose one")
    if request.layout in LAYOUTS and request.columns != Columns():
        raise ValueError(
            f'layout {request.layout} has fixed columns; set data.layout = "generic" to choose others'
        )
    return request


def _load(path: Path, request: _Request) -> _Loaded:
    if path.suffix in SUFFIXES:
        table = read_columnar(
            path, request.columns, on_bad_line=request.on_bad_line, implicit=request.implicit
        )
        return _Loaded(table, path.suffix.removeprefix("."), "binary")
    data, name = read_bytes(path)
    data, encoding = to_utf8(data)
    layout, dialect = _dialect(path, name, data, request)
    table = parse_text(data, dialect, path, on_bad_line=request.on_bad_line, implicit=request.implicit)
    return _Loaded(table, layout, encoding)


def _dialect(path: Path, name: str, data: bytes, request: _Request) -> tuple[str, Dialect]:
    line_number, lines = first_records(data)
    if not lines:
        raise ValueError(f"{path}: expected interactions, found an empty file; choose another data.path")
    candidate = request.layout if request.layout in LAYOUTS else layout_of_name(name)
    told_otherwise = (
        request.layout == "generic" or request.columns != Columns() or request.separator is not None
    )
    if candidate in LAYOUTS and not told_otherwise:
        if matches(LAYOUTS[candidate], lines[0]):
            return candidate, dialect_of(LAYOUTS[candidate])
        if request.layout != "auto":
            raise ValueError(
                f"{path}:{line_number}: expected a line of layout {candidate}, got {lines[0][:60]!r}; "
                'set data.layout = "generic" or correct the line'
            )
    return "generic", sniff_dialect(f"{path}:{line_number}", lines, request.columns, request.separator)


def _refuse_empty(path: Path, table: Table) -> None:
    if len(table.users) == 0:
        skipped = f" ({table.num_skipped} bad lines skipped)" if table.num_skipped else ""
        raise ValueError(f"{path}: expected interactions, found none{skipped}; choose another data.path")


def _concatenated(tables: Sequence[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    return Table(
        users=_joined_labels([table.users for table in tables]),
        items=_joined_labels([table.items for table in tables]),
        strengths=_joined([table.strengths for table in tables]),
        timestamps=_joined([table.timestamps for table in tables]),
        num_skipped=sum(table.num_skipped for table in tables),
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None


def _joined_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    if len({part.dtype for part in parts}) == 1:
        return np.concatenate(parts)
    return np.concatenate(
        [part.astype(str).astype(object) for part in parts]
    )  # int64 with uint64 would become float64
