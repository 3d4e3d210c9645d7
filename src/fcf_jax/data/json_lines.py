"""JSON lines (Yelp, Amazon reviews): an object for each interaction, or one array of such objects."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcf_jax.data.columns import Columns, named_positions
from fcf_jax.data.dialect import Dialect, weights_of
from fcf_jax.data.labels import labels_of
from fcf_jax.data.parse import strength_of, strength_problem
from fcf_jax.data.table import BadLinePolicy, Table
from fcf_jax.data.timestamps import EXPECTED, to_seconds

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
    )
    return _table(_records(content, path, dialect, on_bad_line, implicit), dialect), dialect


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
    """Yield user, item, strength and time of each object; None for one that is skipped."""
    keys = [None if position is None else dialect.names[position] for position in dialect.columns]
    for number, row in _objects(content, path, on_bad_line):
        values = None if row is None else [None if key is None else row.get(key) for key in keys]
        problem = "expected an object" if values is None else _problem(values, dialect, implicit)
        if problem and on_bad_line == "error":
            raise ValueError(f"{path}:{number}: {problem}; {_SKIP}")
        yield None if problem else values


def _problem(values: list[Any], dialect: Dialect, implicit: bool) -> str | None:
    """Return what is wrong with user, item and strength, or None."""
    for kind, value in zip(("user", "item"), values[:2], strict=True):
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            return f"expected a {kind} id, got {_text(value)[:40]!r}"
    if dialect.columns.strength is None:
        return None
    return strength_problem(_text(values[2]), dialect, implicit)


def _table(records: Iterator[list[Any] | None], dialect: Dialect) -> Table:
    rows: list[list[Any]] = []
    num_skipped = 0
    for record in records:
        if record is None:
            num_skipped += 1
        else:
            rows.append(record)
    users, items, strengths, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    has_strengths, has_times = dialect.columns.strength is not None, dialect.columns.timestamp is not None
    return Table(
        labels_of([str(user).strip() for user in users]),
        labels_of([str(item).strip() for item in items]),
        np.array([strength_of(_text(r), dialect) for r in strengths], np.float64) if has_strengths else None,
        _seconds(times) if has_times else None,
        num_skipped,
    )


def _seconds(times: tuple[Any, ...]) -> np.ndarray:
    seconds = to_seconds([_text(time) for time in times])
    if seconds.missing.any():
        time = times[int(seconds.missing.argmax())]
        raise ValueError(
            f'expected {EXPECTED}, got {_text(time)[:40]!r}; data.timestamp_column = "" leaves times out'
        )
    return seconds.values


def _text(value: Any) -> str:
    """Return a value as the text that a table would have; "" for null."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
