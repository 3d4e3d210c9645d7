"""Regular blocks of a text table, parsed by Arrow. Whatever is irregular in any way is left to `parse`."""

import codecs
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.arrow import compute, memory_pool
from fcf_jax.data.formats.dialect import Dialect
from fcf_jax.data.formats.evidence import event_word
from fcf_jax.data.formats.records import QUOTING_SEPARATORS, WHITESPACE, has_blank_before_quote
from fcf_jax.data.formats.table import MAX_STRENGTH
from fcf_jax.data.formats.timestamps import to_seconds

if TYPE_CHECKING:
    import pyarrow as pa

_UNUSED = (b"\x1f", b"\x1e", b"\x01")  # one of them replaces "::", as Arrow separates by single bytes
_MARK = "\x1alast row"


class Pieces(NamedTuple):
    """Columns of some rows, as `TableBuilder.add` takes them."""

    users: "pa.Array"
    items: "pa.Array"
    strengths: np.ndarray | None
    timestamps: npt.NDArray[np.int64] | None


def parse_regular(block: bytes, dialect: Dialect, *, implicit: bool) -> Pieces | None:
    """Parse a block of whole lines without a header, or return None unless every line is regular.

    Args:
        block: UTF-8.
        dialect: Syntax of the file.
        implicit: Whether a negative strength is irregular.
    """
    import pyarrow as pa

    content, delimiter = _prepared(block, dialect)
    if not delimiter or b"\0" in content or content.startswith(codecs.BOM_UTF8):  # which Arrow drops
        return None
    has_quotes = _has_quotes(content, dialect)
    if has_quotes:
        content += _last_row(content, delimiter, dialect)
    for type_of_times in _types_of_times(content, delimiter, dialect):
        try:
            table = _read(content, delimiter, dialect, type_of_times)
        except pa.ArrowException:
            continue
        rows = _without_last_row(table, dialect) if has_quotes else table
        return None if rows is None else pieces_of(rows, dialect, implicit)
    return None


def _prepared(block: bytes, dialect: Dialect) -> tuple[bytes, str]:
    """Return the block with one byte as separator, and this separator; "" where there is none."""
    separator = dialect.separator
    if _has_quotes(block, dialect) and b' "' in block and has_blank_before_quote(block.decode(), separator):
        return block, ""
    if separator == WHITESPACE and _has_quotes(block, dialect):
        return block, ""
    if separator == WHITESPACE:
        return _single_blanks(block)
    if len(separator.encode()) == 1:
        return block, separator
    unused = next((byte for byte in _UNUSED if byte not in block), b"")
    return block.replace(separator.encode(), unused) if unused else block, unused.decode()


def _last_row(content: bytes, delimiter: str, dialect: Dialect) -> bytes:
    """Return a row that is found as such only if no quotes are open before it: Arrow closes them silently."""
    fields = ["0"] * dialect.num_fields
    fields[dialect.columns.user] = fields[dialect.columns.item] = _MARK
    return (b"" if content.endswith((b"\n", b"\r")) else b"\n") + delimiter.join(fields).encode() + b"\n"


def _without_last_row(table: "pa.Table", dialect: Dialect) -> "pa.Table | None":
    """Return the table without the row of `_last_row`; None if that is not the last."""
    import pyarrow as pa

    end = len(table) - 1
    columns = {name: table[name].combine_chunks().slice(0, end) for name in table.column_names}
    for position in (dialect.columns.user, dialect.columns.item):
        labels = table[str(position)].combine_chunks()
        last = len(labels.dictionary) - 1
        if labels.indices[end].as_py() != last or labels.dictionary[last].as_py() != _MARK:
            return None
        columns[str(position)] = pa.DictionaryArray.from_arrays(
            labels.indices.slice(0, end), labels.dictionary.slice(0, last)
        )
    return pa.table(columns)


def _types_of_times(content: bytes, delimiter: str, dialect: Dialect) -> tuple[str, ...]:
    """Return the types to try for the column of timestamps, judged by the first line."""
    position = dialect.columns.timestamp
    if position is None:
        return ("string",)
    fields = content[: content.find(b"\n")].split(delimiter.encode())
    is_integer = len(fields) > position and fields[position].strip(b' "\r').isdigit()
    is_hexadecimal = any(x in content and b"0" + x in content for x in (b"x", b"X"))  # integers of Arrow's
    return ("int64", "string") if is_integer and not is_hexadecimal else ("string",)


def _has_quotes(block: bytes, dialect: Dialect) -> bool:
    return dialect.has_quotes and dialect.separator in QUOTING_SEPARATORS and b'"' in block


def _single_blanks(block: bytes) -> tuple[bytes, str]:
    for other, blank in ((b"\t", b" "), (b"\r", b"\n")):
        block = block.replace(other, blank)
    while b"  " in block:
        block = block.replace(b"  ", b" ")
    return block.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" "), " "


def _read(content: bytes, delimiter: str, dialect: Dialect, type_of_times: str) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    columns = dialect.columns
    label = pa.dictionary(pa.int32(), pa.string())
    types = {columns.user: label, columns.item: label}
    if columns.strength is not None:
        types[columns.strength] = label if dialect.weights else pa.float64()
    if columns.timestamp is not None:
        types[columns.timestamp] = pa.type_for_alias(type_of_times)
    has_quotes = _has_quotes(content, dialect)
    return csv.read_csv(
        pa.py_buffer(content),
        csv.ReadOptions(
            column_names=[str(position) for position in range(dialect.num_fields)],
            block_size=len(content) + 1,
        ),
        csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if has_quotes else False,
            newlines_in_values=has_quotes,
        ),
        csv.ConvertOptions(
            check_utf8=False,
            column_types={str(position): kind for position, kind in types.items()},
            include_columns=[str(position) for position in types],
            null_values=[],
        ),
        memory_pool(),
    )


def pieces_of(table: "pa.Table", dialect: Dialect, implicit: bool) -> Pieces | None:
    """Return the columns of rows, or None unless every row is regular.

    Args:
        table: Columns named by their positions; ids, and events, as dictionaries of texts.
        dialect: Syntax of the file.
        implicit: Whether a negative strength is irregular.
    """
    columns = dialect.columns
    users, items = (_labels(table, position) for position in (columns.user, columns.item))
    if users is None or items is None:
        return None
    strengths = timestamps = None
    if columns.strength is not None:
        strengths = _strengths(table, columns.strength, dialect)
        if not _are_regular(strengths, dialect.unrated, implicit):
            return None
    if columns.timestamp is not None:
        timestamps, missing = to_seconds(table[str(columns.timestamp)])
        if missing.any():
            return None
    return Pieces(users, items, strengths, timestamps)


def _labels(table: "pa.Table", position: int) -> "pa.Array | None":
    """Return the column in one piece; None if a label is empty."""
    column = table[str(position)].combine_chunks()
    labels = column.dictionary
    is_empty = compute().or_(compute().utf8_is_space(labels), compute().equal(labels, ""))
    return None if compute().any(is_empty).as_py() else column


def _strengths(table: "pa.Table", position: int, dialect: Dialect) -> np.ndarray:
    column = table[str(position)]
    if not dialect.weights:
        return column.to_numpy()
    words = column.combine_chunks()
    weights = [dialect.weights.get(event_word(word.strip()), np.nan) for word in words.dictionary.to_pylist()]
    return np.array(weights, np.float64)[words.indices.to_numpy()]


def _are_regular(strengths: np.ndarray, unrated: Iterable[float], implicit: bool) -> bool:
    if not (np.abs(strengths) < MAX_STRENGTH).all():  # also NaN
        return False
    return not implicit or not ((strengths < 0) & ~np.isin(strengths, list(unrated))).any()
