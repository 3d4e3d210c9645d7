"""From the bytes of one text file to columns, exactly or with the number of the line at fault.

Two ways to the same columns: `_parse_fast` hands well-formed files to the C parser of pandas and returns None
at the first oddity; `_parse_lines` is the reference, a plain loop that knows the number of every line and
explains what is wrong with it.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from fcf_jax.data.columns import WHITESPACE, Dialect
from fcf_jax.data.decoding import one_line

BadLinePolicy = Literal["error", "skip"]
BAD_LINE_POLICIES: tuple[BadLinePolicy, ...] = ("error", "skip")

MAX_STRENGTH = float(np.finfo(np.float32).max)
_MAX_SECONDS = 2.0**63  # int64
_QUOTED = ("\t", ";", "|", ",")  # separators in whose files double quotes enclose a field
_CORRECT = 'correct or remove the line, or set data.on_bad_line = "skip"'


class Table(NamedTuple):
    """One file's rows: labels (integers or strings), strengths (float64), timestamps (int64, seconds)."""

    users: np.ndarray
    items: np.ndarray
    strengths: np.ndarray | None
    timestamps: np.ndarray | None
    num_skipped: int = 0


def parse_text(
    data: bytes, dialect: Dialect, path: Path, *, on_bad_line: BadLinePolicy, implicit: bool
) -> Table:
    """Parse a whole text file.

    Args:
        data: UTF-8.
        dialect: How to take it apart.
        path: For messages.
        on_bad_line: "error", or "skip" to leave out and count lines that cannot be read.
        implicit: Whether a negative strength is an error (it is never skipped: it is well-formed, but not
            implicit feedback).

    Raises:
        ValueError: FILE:LINE, what is wrong there, and the remedy.
    """
    table = _parse_fast(data, dialect)
    if table is None or (implicit and table.strengths is not None and bool((table.strengths < 0).any())):
        return _parse_lines(data, dialect, path, on_bad_line=on_bad_line, implicit=implicit)
    return table


def _parse_fast(data: bytes, dialect: Dialect) -> Table | None:
    """Parse with pandas; None if anything is out of the ordinary."""
    columns = dialect.columns
    try:
        frame = _read_csv(data, dialect)
        as_text = [p for p in columns[:2] if not _is_integer_or_text(frame[p])]
        if as_text:  # such as 1.0, True or 2**64: the exact text is the label
            frame = _read_csv(data, dialect, as_text)
    except (ValueError, OverflowError, pd.errors.ParserWarning):
        return None
    users, items = _labels(frame[columns.user]), _labels(frame[columns.item])
    strengths = None if columns.strength is None else _finite(frame[columns.strength], MAX_STRENGTH)
    timestamps = None if columns.timestamp is None else _finite(frame[columns.timestamp], _MAX_SECONDS)
    odd_strengths = strengths is None and columns.strength is not None
    odd_timestamps = timestamps is None and columns.timestamp is not None
    if users is None or items is None or odd_strengths or odd_timestamps:
        return None
    if not _is_rectangular(data, dialect, len(users)):
        return None
    return Table(
        users,
        items,
        None if strengths is None else strengths.astype(np.float64),
        None if timestamps is None else whole_seconds(timestamps),
    )


def _read_csv(data: bytes, dialect: Dialect, as_text: Sequence[int] = ()) -> dict[int, pd.Series]:
    # "::" is read as ":" with an empty field between; _is_rectangular notices a lone ":".
    stride = max(len(dialect.separator), 1)
    wanted = {p: stride * p for p in dialect.columns if p is not None}
    frame = pd.read_csv(
        io.BytesIO(data),
        sep=dialect.separator[:1] or r"\s+",
        header=0 if dialect.has_header else None,
        names=range(stride * (dialect.num_fields - 1) + 1),
        # With usecols pandas ignores surplus fields, and _is_rectangular must count them.
        usecols=sorted(wanted.values()) if _is_countable(data, dialect) else None,
        dtype={wanted[p]: str for p in as_text},
        engine="c",
        index_col=False,
        na_filter=False,
        low_memory=False,
        skipinitialspace=True,
        quoting=csv.QUOTE_MINIMAL if dialect.separator in _QUOTED else csv.QUOTE_NONE,
    )
    return {p: cast(pd.Series, frame[name]) for p, name in wanted.items()}


def _is_countable(data: bytes, dialect: Dialect) -> bool:
    """Whether counting separators says how many fields there are: not if quotes may hide some."""
    return dialect.separator != WHITESPACE and b'"' not in data


def _is_rectangular(data: bytes, dialect: Dialect, num_rows: int) -> bool:
    """Whether there are as many separators as rows of `num_fields` fields have."""
    if not _is_countable(data, dialect):
        return True
    num_lines = num_rows + dialect.has_header
    per_line = len(dialect.separator) * (dialect.num_fields - 1)
    return data.count(dialect.separator[:1].encode()) == per_line * num_lines


def _is_integer_or_text(column: pd.Series) -> bool:
    return column.dtype.kind in "iu" or isinstance(column.dtype, pd.StringDtype)


def _labels(column: pd.Series) -> np.ndarray | None:
    """Return the labels, None if one is empty."""
    if column.dtype.kind in "iu":
        return column.to_numpy()
    stripped = column.str.strip()
    return None if (stripped == "").any() else stripped.to_numpy(dtype=object)


def _finite(column: pd.Series, limit: float) -> np.ndarray | None:
    """Return the numbers, None if one is not a number or not within the limit."""
    if column.dtype.kind not in "iuf":
        return None
    numbers = column.to_numpy()
    within = bool((np.abs(numbers.astype(np.float64)) < limit).all())
    return numbers if within else None


def _parse_lines(
    data: bytes, dialect: Dialect, path: Path, *, on_bad_line: BadLinePolicy, implicit: bool
) -> Table:
    """Parse line by line; slow, exact, and able to say where."""
    rows: list[list[str]] = []
    num_skipped = 0
    for line, fields in _numbered_records(data, dialect, path):
        problem = _problem(fields, dialect)
        if problem and on_bad_line == "error":
            raise ValueError(f"{path}:{line}: {problem}; {_CORRECT}")
        if problem:
            num_skipped += 1
            continue
        if implicit:
            _refuse_negative(fields, dialect, f"{path}:{line}")
        rows.append(fields)
    return _table_of(rows, dialect, num_skipped)


def _refuse_negative(fields: list[str], dialect: Dialect, where: str) -> None:
    strength = dialect.columns.strength
    if strength is not None and float(fields[strength]) < 0:
        raise ValueError(
            f"{where}: expected a strength >= 0 for implicit feedback, got {fields[strength]}; "
            "remove the line or treat the data as explicit ratings"
        )


def _numbered_records(data: bytes, dialect: Dialect, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, bare fields) of every record that is not blank, the header left out."""
    text = io.StringIO(data.decode(), newline=None)
    if dialect.separator in _QUOTED:
        records = _quoted_records(csv.reader(text, delimiter=dialect.separator, skipinitialspace=True), path)
    else:
        split = None if dialect.separator == WHITESPACE else dialect.separator
        records = ((number, line.split(split)) for number, line in enumerate(text, start=1))
    filled = ((number, [field.strip() for field in fields]) for number, fields in records)
    filled = ((number, fields) for number, fields in filled if fields not in ([], [""]))
    if dialect.has_header:
        next(filled, None)
    return filled


def _quoted_records(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    first_line = 1
    try:
        for fields in reader:
            yield first_line, fields
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{first_line}: {one_line(error)}; close the quotes or remove the line"
        ) from error


def _problem(fields: list[str], dialect: Dialect) -> str | None:
    """Say what is wrong with one record, if anything."""
    user, item, strength, timestamp = dialect.columns
    if len(fields) != dialect.num_fields:
        separator = repr(dialect.separator) if dialect.separator else "blanks"
        return f"expected {dialect.num_fields} fields separated by {separator}, got {len(fields)}"
    if not fields[user] or not fields[item]:
        return f"expected a user and an item id, got {fields[user][:40]!r} and {fields[item][:40]!r}"
    if strength is not None and not _is_within(fields[strength], MAX_STRENGTH):
        return f"expected a finite number as strength, got {fields[strength][:40]!r}"
    if timestamp is not None and not _is_within(fields[timestamp], _MAX_SECONDS):
        return f"expected a timestamp in seconds, got {fields[timestamp][:40]!r}"
    return None


def _is_within(text: str, limit: float) -> bool:
    try:
        return "_" not in text and abs(float(text)) < limit  # False for NaN
    except ValueError:
        return False


def _table_of(rows: list[list[str]], dialect: Dialect, num_skipped: int) -> Table:
    user, item, strength, timestamp = dialect.columns
    strengths = timestamps = None
    if strength is not None:
        strengths = np.array([float(fields[strength]) for fields in rows], np.float64)
    if timestamp is not None:
        timestamps = np.array([_seconds_of(fields[timestamp]) for fields in rows], np.int64)
    users, items = ([fields[p] for fields in rows] for p in (user, item))
    return Table(labels_of(users), labels_of(items), strengths, timestamps, num_skipped)


def _seconds_of(text: str) -> int:
    return int(text) if text.isdigit() else math.floor(float(text))


def labels_of(texts: list[str]) -> np.ndarray:
    """Return 64-bit integers if every text is one (007 is 7), else the texts themselves."""
    if all(
        len(text) <= 20 and text.isascii() and text.removeprefix("-").removeprefix("+").isdigit()
        for text in texts
    ):
        numbers = [int(text) for text in texts]
        low, high = min(numbers, default=0), max(numbers, default=0)
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return np.array(numbers, dtype)
    return np.array(texts, dtype=object)


def whole_seconds(timestamps: np.ndarray) -> np.ndarray:
    """Return timestamps as int64, fractions of a second cut off."""
    return (np.floor(timestamps) if timestamps.dtype.kind == "f" else timestamps).astype(np.int64)
