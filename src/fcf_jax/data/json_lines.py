"""JSON lines (Yelp, Amazon reviews): an object for each interaction, or one array of such objects."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcf_jax.data.columns import Columns, named_positions, unread_times
from fcf_jax.data.dialect import Dialect, weights_of
from fcf_jax.data.labels import labels_of
from fcf_jax.data.parse import strength_of, strength_problem
from fcf_jax.data.table import BadLinePolicy, Table
from fcf_jax.data.timestamps import EXPECTED, Seconds, to_seconds

_SAMPLED = 20
_SKIP = 'correct or remove the line, or set data.on_bad_line = "skip"'


def read_json_lines(
    content: bytes,
    path: Path,
    columns: Columns,
    dialect: Dialect,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
) -> tuple[Table, Dialect]:
    """Read the values of four keys of each object; the others are ignored.

    Args:
        content: UTF-8.
        path: For messages.
        columns: Keys that the caller chose; the others are found by their names.
        dialect: Weights of events and numbers that mean "not rated".
        on_bad_line: What to do with a line that is no object or lacks an id or a number.
        implicit: Whether a negative strength is an error.

    Returns:
        The rows, and the dialect with the names of the keys.

    Raises:
        ValueError: With FILE:LINE, the fault and the remedy; for keys that are not found.
    """
    sample = [row for _, row in itertools.islice(_objects(content, path, on_bad_line), _SAMPLED) if row]
    names = tuple(dict.fromkeys(key for row in sample for key in row))
    texts = [[_text(row.get(name)) for name in names] for row in sample]
    positions = named_positions(f"{path}:1", names, columns, texts)
    dialect = dataclasses.replace(
        dialect,
        columns=positions,
        names=names,
        num_fields=len(names),
        weights=weights_of(texts, positions.strength, dialect.weights),
        why=unread_times(names, columns, positions),
    )
    records = list(_records(content, path, dialect, on_bad_line, implicit))
    return _table(records, dialect, path, on_bad_line), dialect


def _objects(
    content: bytes, path: Path, on_bad_line: BadLinePolicy
) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield (line number, object) of each line; None for a line that is no object, if they are skipped."""
    if content.lstrip().startswith(b"["):
        yield from _members(content, path)
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) and on_bad_line == "error":
            shown = line[:40].decode(errors="ignore")
            raise ValueError(f"{path}:{number}: expected an object in JSON, got {shown!r}; {_SKIP}")
        yield number, row if isinstance(row, dict) else None


def _members(content: bytes, path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected an array of objects in JSON: {error}; correct the file") from None
    yield from ((number, row if isinstance(row, dict) else None) for number, row in enumerate(rows, start=1))


def _records(
    content: bytes, path: Path, dialect: Dialect, on_bad_line: BadLinePolicy, implicit: bool
) -> Iterator[list[Any] | None]:
    """Yield line number, user, item, strength and time of each object; None for one that is skipped."""
    keys = [None if position is None else dialect.names[position] for position in dialect.columns]
    for number, row in _objects(content, path, on_bad_line):
        values = None if row is None else [None if key is None else row.get(key) for key in keys]
        problem = "expected an object" if values is None else _problem(values, dialect, implicit)
        if problem and on_bad_line == "error":
            raise ValueError(f"{path}:{number}: {problem}; {_SKIP}")
        yield None if problem or values is None else [number, *values]


def _problem(values: list[Any], dialect: Dialect, implicit: bool) -> str | None:
    """Return what is wrong with user, item and strength, or None."""
    for kind, value in zip(("user", "item"), values[:2], strict=True):
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            return f"expected a {kind} id, got {_text(value)[:40]!r}"
    if dialect.columns.strength is None:
        return None
    return strength_problem(_text(values[2]), dialect, implicit)


def _table(
    records: list[list[Any] | None], dialect: Dialect, path: Path, on_bad_line: BadLinePolicy
) -> Table:
    rows = [record for record in records if record is not None]
    times = None
    if dialect.columns.timestamp is not None:
        seconds = to_seconds([_text(row[4]) for row in rows])
        _refuse_missing(rows, seconds, path, on_bad_line)
        rows = [row for row, is_missing in zip(rows, seconds.missing, strict=True) if not is_missing]
        times = seconds.values[~seconds.missing]
    strengths = None
    if dialect.columns.strength is not None:
        strengths = np.array([strength_of(_text(row[3]), dialect) for row in rows], np.float64)
    users, items = labels_of([str(row[1]) for row in rows]), labels_of([str(row[2]) for row in rows])
    return Table(users, items, strengths, times, len(records) - len(rows))


def _refuse_missing(rows: list[list[Any]], seconds: Seconds, path: Path, on_bad_line: BadLinePolicy) -> None:
    if on_bad_line == "error" and seconds.missing.any():
        number, *_, time = rows[int(seconds.missing.argmax())]
        raise ValueError(f"{path}:{number}: expected {EXPECTED}, got {_text(time)[:40]!r}; {_SKIP}")


def _text(value: Any) -> str:
    """Return a value as the text that a table would have; "" for null."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
