"""One file of interactions, in whatever form it is, as a `Table`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fcf_jax.data.formats.columnar import SUFFIXES, read_columnar, read_frame
from fcf_jax.data.formats.columns import Columns, Positions
from fcf_jax.data.formats.dialect import Dialect, infer_dialect
from fcf_jax.data.formats.evidence import Meaning
from fcf_jax.data.formats.json_lines import read_json_lines
from fcf_jax.data.formats.layouts import (
    LAYOUTS,
    PUBLISHED_SPLITS,
    Layout,
    are_lists,
    are_parts,
    parts_remedy,
    recognized,
)
from fcf_jax.data.formats.lists import read_counted_lists, read_impressions, read_item_lists, rows_of_blocks
from fcf_jax.data.formats.parse import parse_text
from fcf_jax.data.formats.separators import first_lines
from fcf_jax.data.formats.table import BadLinePolicy, Table
from fcf_jax.data.formats.text import read_text

if TYPE_CHECKING:
    import pandas as pd

_BLOCK_ROWS = Dialect(",", 4, has_header=False, columns=Positions(1, 0, 2, 3))
_LISTS = {
    "item-lists": (read_item_lists, {"user": "first of each line", "item": "the rest of the line"}),
    "counted-lists": (
        read_counted_lists,
        {"user": "line number from 0", "item": "all but the first of a line"},
    ),
    "impressions": (read_impressions, {"user": "column 1", "item": "history and clicked impressions"}),
}


class Request(NamedTuple):
    """What the caller asked for; see `read_interactions`.

    Attributes:
        layout: Of the file, or "auto" or "generic".
        columns: Chosen columns.
        separator: Between columns; None to infer it.
        on_bad_line: What to do with a line that cannot be read.
        implicit: Whether strengths are counts.
        weights: Strength of each kind of event; empty: those of `evidence.EVENT_WEIGHTS`.
        unrated: Numbers that mean "seen, not rated"; None: those of the layout.
    """

    layout: str = "auto"
    columns: Columns = Columns()
    separator: str | None = None
    on_bad_line: BadLinePolicy = "error"
    implicit: bool = True
    weights: Mapping[str, float] = {}
    unrated: tuple[float, ...] | None = None


class Loaded(NamedTuple):
    """Rows of one file, and how they were understood.

    Attributes:
        table: Rows; those of the kind "seen, not rated" have strength 1, or are left out of ratings.
        layout: Name of the layout; "generic", "npz", "parquet" or "frame".
        encoding: Of the file.
        columns: Columns of users, items, strengths and times, by kind: a name, or "column" and its number.
        why: How columns without names were told apart, or why one was left out.
        num_unrated: Rows of the kind "seen, not rated".
    """

    table: Table
    layout: str
    encoding: str
    columns: Mapping[str, str]
    why: str
    num_unrated: int


def load_all(path: Path, files: Sequence[Path], request: Request) -> list[Loaded]:
    """Read the files of one data set, all in the layout of the first.

    Args:
        path: The file or folder that holds them.
        files: From `find_files`.
        request: What the caller asked for.

    Raises:
        ValueError: As `load`, and for parts of a split in no published layout.
    """
    first = load(files[0], request)
    layout = LAYOUTS.get(first.layout, Layout())
    if are_parts(files) and first.layout not in PUBLISHED_SPLITS:
        raise ValueError(parts_remedy(path, files))
    if layout.form != "table":  # some of the others may be too short to show it
        request = request._replace(layout=first.layout)
    return [first, *(load(file, request) for file in files[1:])]


def load_parts(files: Sequence[Path], request: Request) -> list[Loaded]:
    """Read the parts of a published split: all as lists of items if their first lines show lists.

    A short file alone may not show it.

    Args:
        files: Training set, test set and perhaps validation set.
        request: What the caller asked for.

    Raises:
        ValueError: As `load`.
    """
    is_free = request.layout == "auto" and request.separator is None and request.columns == Columns()
    if is_free and are_lists([_head_of(file) for file in files if file.suffix not in SUFFIXES]):
        request = request._replace(layout="item-lists")
    return [load(file, request) for file in files]


def _head_of(file: Path) -> list[str]:
    return first_lines(read_text(file).head)[1]


def load(path: Path, request: Request) -> Loaded:
    """Read one file.

    Raises:
        ValueError: In one line, with the file, the line number where there is one, the fault and the remedy.
    """
    if path.suffix in SUFFIXES:
        return _load_columnar(path, request)
    text = read_text(path)
    number, lines = first_lines(text.head)
    if not lines:
        raise ValueError(f"{path}: expected interactions, found an empty file; choose another file")
    where = f"{path}:{number}"
    name = _layout_of(where, text.file_name, lines, request)
    layout = LAYOUTS.get(name, Layout())
    if layout.form in _LISTS:
        read, columns = _LISTS[layout.form]
        _refuse_columns(where, name, request.columns)
        return Loaded(read(text.blocks(), path, request.on_bad_line), name, text.encoding, columns, "", 0)
    unrated = layout.unrated if request.unrated is None else request.unrated
    on_bad_line = "skip" if layout.skips_bad_lines else request.on_bad_line
    options = {"on_bad_line": on_bad_line, "implicit": request.implicit}
    if layout.form == "json-lines":
        bare = Dialect("", 0, True, Positions(0, 0), weights=request.weights, unrated=unrated)
        table, dialect = read_json_lines(text, request.columns, bare, **options)
    else:
        dialect = dataclasses.replace(_dialect_of(where, name, lines, layout, request), unrated=unrated)
        blocks = rows_of_blocks(text.blocks()) if layout.form == "blocks" else text.blocks()
        table = parse_text(blocks, dialect, path, num_lines=text.num_lines + 1, **options)
    table, num_unrated = _without_unrated(table, unrated, implicit=request.implicit)
    return Loaded(table, name, text.encoding, _named(dialect), dialect.why, num_unrated)


def _layout_of(where: str, file_name: str, lines: Sequence[str], request: Request) -> str:
    if request.layout == "generic" or (request.layout == "auto" and request.separator is not None):
        return "generic"
    if request.layout == "auto":
        return recognized(file_name, lines)
    is_list = LAYOUTS[request.layout].form in _LISTS  # a few lists cannot be told from a table
    if not is_list and not LAYOUTS[request.layout].matches(lines):
        raise ValueError(
            f"{where}: expected a line of layout {request.layout}, got {lines[0][:60]!r}; "
            'set data.layout = "generic" or correct the line'
        )
    return request.layout


def _dialect_of(where: str, name: str, lines: Sequence[str], layout: Layout, request: Request) -> Dialect:
    if layout.form == "blocks":
        _refuse_columns(where, name, request.columns)
        left_out = {kind: None for kind in ("strength", "timestamp") if getattr(request.columns, kind) == ""}
        return dataclasses.replace(_BLOCK_ROWS, columns=_BLOCK_ROWS.columns._replace(**left_out))
    if request.columns == Columns() and layout.separator is not None and layout.num_fields is not None:
        return Dialect(
            layout.separator,
            layout.num_fields,
            layout.header is not None,
            Positions(*range(layout.num_fields)),
            names=layout.header or (),
        )
    return infer_dialect(
        where,
        lines,
        request.columns,
        layout.separator if request.separator is None else request.separator,
        order=layout.order,
        weights=request.weights,
        has_quotes=layout.has_quotes,
    )


def _refuse_columns(where: str, name: str, columns: Columns) -> None:
    if any(column not in (None, "") for column in columns):
        raise ValueError(
            f'{where}: layout {name} has fixed columns; set data.layout = "generic" to choose others'
        )


def _without_unrated(table: Table, unrated: tuple[float, ...], *, implicit: bool) -> tuple[Table, int]:
    """Give "seen, not rated" the strength 1 as implicit feedback; drop it from ratings. Return its count."""
    if not unrated or table.strengths is None:
        return table, 0
    chosen = np.isin(table.strengths, np.array(unrated, table.strengths.dtype))
    if implicit:
        return table._replace(strengths=np.where(chosen, np.float32(1), table.strengths)), int(chosen.sum())
    return _rows(table, ~chosen), int(chosen.sum())


def _rows(table: Table, mask: np.ndarray) -> Table:
    columns = (table.users, table.items, table.strengths, table.timestamps)
    return table._replace(
        **{
            name: None if column is None else column[mask]
            for name, column in zip(table._fields, columns, strict=False)
        }
    )


def _named(dialect: Dialect) -> Mapping[str, str]:
    """Return the columns that were taken, by kind, with their names or numbers."""
    return {
        kind: dialect.names[position] if dialect.names else f"column {position}"
        for kind, position in dialect.columns._asdict().items()
        if position is not None
    }


def _load_columnar(path: Path, request: Request) -> Loaded:
    table = read_columnar(
        path,
        request.columns,
        on_bad_line=request.on_bad_line,
        implicit=request.implicit,
        meaning=Meaning(request.weights, request.unrated),
    )
    return _of_named_columns(table, path.suffix.removeprefix("."), request)


def load_frame(frame: "pd.DataFrame", request: Request) -> Loaded:
    """Take the interactions of a DataFrame.

    Raises:
        ValueError: With "DataFrame: row N" (0-based), the fault and the remedy; for a layout or separator.
    """
    if request.layout in LAYOUTS or request.separator is not None:
        raise ValueError("DataFrame: expected no layout or separator, which are of text; leave them out")
    table = read_frame(
        frame,
        request.columns,
        on_bad_line=request.on_bad_line,
        implicit=request.implicit,
        meaning=Meaning(request.weights, request.unrated),
    )
    return _of_named_columns(table, "frame", request)


def _of_named_columns(table: Table, layout: str, request: Request) -> Loaded:
    columns = table.names or {}
    table, num_unrated = _without_unrated(table, request.unrated or (), implicit=request.implicit)
    return Loaded(table, layout, "binary", columns, "", num_unrated)
