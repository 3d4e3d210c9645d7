"""JSON lines (Yelp, Amazon reviews): an object for each interaction, or one array of such objects.

A block whose objects all have the same types is parsed as a whole, any other object by object. Both give the
same rows.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fcf_jax.data.formats.careful import Fields, TakenRows, strength_problem
from fcf_jax.data.formats.columns import Columns, left_out, named_positions
from fcf_jax.data.formats.dialect import Dialect, event_weights
from fcf_jax.data.formats.regular import Pieces, pieces_of
from fcf_jax.data.formats.table import BadLinePolicy, Table
from fcf_jax.data.formats.text import Text, num_line_breaks

_SAMPLED = 20
_IDS = (frozenset({str}), frozenset({int}))  # kinds of ids and times

_Numbered = tuple[int, Any]  # a line, and the value on it; None if it is no JSON


def read_json_lines(
    text: Text, columns: Columns, dialect: Dialect, *, on_bad_line: BadLinePolicy, implicit: bool
) -> tuple[Table, Dialect]:
    """Read the values of four keys of each object; the others are ignored.

    Args:
        text: The file.
        columns: Keys that the caller chose; the others are found by their names.
        dialect: Weights of events and numbers that mean "not rated".
        on_bad_line: What to do with a line that is no object or lacks an id or a number.
        implicit: Whether a negative strength is an error.

    Returns:
        The rows, and the dialect with the names of the keys.

    Raises:
        ValueError: With FILE:LINE, the fault and the remedy; for keys that are not found.
    """
    is_array = text.head.lstrip().startswith(b"[")
    values = _members(text) if is_array else _lines(text.head, 1)
    sample = [value for _, value in itertools.islice(values, _SAMPLED) if isinstance(value, dict)]
    dialect = _with_keys(f"{text.path}:1", sample, columns, dialect)
    rows = TakenRows(dialect, text.path, on_bad_line)
    parser = _Parser(dialect, rows, implicit=implicit)
    if is_array:
        parser.add_values(_members(text))
    else:
        for block in text.blocks():
            parser.add(block)
    return rows.finish(), dialect


def _with_keys(
    where: str, sample: Sequence[Mapping[str, Any]], columns: Columns, dialect: Dialect
) -> Dialect:
    """Return the dialect with the keys of the first objects and what they mean."""
    names = tuple(dict.fromkeys(key for row in sample for key in row))
    if not names:
        raise ValueError(f"{where}: expected an object in JSON; correct the line")
    texts = [[_text(row.get(name)) for name in names] for row in sample]
    positions = named_positions(where, names, columns, texts, dialect.weights)
    return dataclasses.replace(
        dialect,
        columns=positions,
        names=names,
        num_fields=len(names),
        weights=event_weights(texts, positions, dialect.weights),
        why=left_out(names, columns, positions),
    )


def _members(text: Text) -> Iterator[_Numbered]:
    """Yield the members of an array, numbered from 1 on."""
    try:
        members = json.loads(text.content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{text.path}: expected an array of objects in JSON: {error}; correct the file"
        ) from None
    yield from enumerate(members, start=1)


def _lines(block: bytes, first_line: int) -> Iterator[_Numbered]:
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


class _Parser:
    """Rows so far, and where the next block starts."""

    def __init__(self, dialect: Dialect, rows: TakenRows, *, implicit: bool) -> None:
        self._dialect = dialect
        self._rows = rows
        self._implicit = implicit
        self._keys = [None if position is None else dialect.names[position] for position in dialect.columns]
        strength = frozenset({str}) if dialect.weights else frozenset({int, float})
        self._kinds = (_IDS, _IDS, (strength,), _IDS)
        self._line = 1

    def add(self, block: bytes) -> None:
        """Parse whole lines."""
        pieces = self._regular(block)
        if pieces is None:
            self.add_values(_lines(block, self._line))
        else:
            self._rows.add_pieces(pieces)
        self._line += num_line_breaks(block)

    def add_values(self, values: Iterable[_Numbered]) -> None:
        """Take the values of keys from objects, one by one."""
        self._rows.add([self._fields(number, value) for number, value in values])

    def _regular(self, block: bytes) -> Pieces | None:
        """Return the rows of a block, or None unless all its objects are regular."""
        import pyarrow as pa

        lines = [line for line in map(bytes.strip, block.split(b"\n")) if line]
        try:
            rows = json.loads(b"[" + b",".join(lines) + b"]")  # half the time of one by one
            columns = [None if key is None else [row[key] for row in rows] for key in self._keys]
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        is_whole = all(line.startswith(b"{") and line.endswith(b"}") for line in lines)
        if not rows or not is_whole or len(rows) != len(lines):
            return None
        if any(not _is_regular(column, kinds) for column, kinds in zip(columns, self._kinds, strict=True)):
            return None
        positions = zip(self._dialect.columns, columns, strict=True)
        try:
            arrays = {str(position): pa.array(column) for position, column in positions if column is not None}
        except (pa.ArrowException, OverflowError):  # integers beyond 64 bits, or beside fractions beyond 53
            return None
        texts = [self._dialect.columns.user, self._dialect.columns.item]
        texts += [self._dialect.columns.strength] if self._dialect.weights else []
        for position in texts:
            arrays[str(position)] = arrays[str(position)].cast(pa.string()).dictionary_encode()
        return pieces_of(pa.table(arrays), self._dialect, self._implicit)

    def _fields(self, number: int, value: Any) -> Fields:
        if not isinstance(value, dict):
            return Fields(number, problem=f"expected an object in JSON, got {_text(value)[:40]!r}")
        user, item, strength, time = ("" if key is None else _text(value.get(key)) for key in self._keys)
        for kind, key, text in zip(("a user", "an item"), self._keys, (user, item), strict=False):
            if not text.strip() or isinstance(value.get(key), bool | dict | list):
                return Fields(number, problem=f"expected {kind} id, got {text[:40]!r}")
        problem = ""
        if self._dialect.columns.strength is not None:
            problem = strength_problem(strength.strip(), self._dialect, implicit=self._implicit)
        return Fields(number, user, item, strength, time, problem)


def _is_regular(column: Sequence[Any] | None, kinds: Sequence[frozenset[type]]) -> bool:
    """Return True for a column whose values are all of one of these kinds."""
    found = frozenset(map(type, column or ()))
    return any(found <= kind for kind in kinds)


def _text(value: Any) -> str:
    """Return a value as the text that a table would have; "" for null."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
