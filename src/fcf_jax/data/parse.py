"""Parsing of one text file into columns, exact or with the number of the line at fault.

`_parse_fast` uses pandas on well-formed files and returns None for anything irregular. `_parse_lines` is the
reference: a loop over the lines that finds the first bad line and what is wrong with it. Both return the same
columns.
"""

import bz2
import codecs
import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np

from fcf_jax.data.dialect import Dialect
from fcf_jax.data.evidence import event_word
from fcf_jax.data.layouts import layout_of_name
from fcf_jax.data.separators import QUOTING_SEPARATORS, WHITESPACE

if TYPE_CHECKING:
    import pandas as pd

BadLinePolicy = Literal["error", "skip"]

MAX_STRENGTH = float(np.finfo(np.float32).max)

_MAX_SECONDS = 2.0**63  # int64
# RuntimeError: a zip archive with a password; ValueError: a truncated bzip2 stream.
_DAMAGED = (EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)


class Text(NamedTuple):
    """Content of a text file, decompressed.

    Attributes:
        content: UTF-8 without a byte order mark.
        encoding: Encoding of the file: "utf-8", "utf-16" or "latin-1".
        file_name: Name of the file, or of the member of a zip archive.
    """

    content: bytes
    encoding: str
    file_name: str


class Table(NamedTuple):
    """Rows of one file.

    Attributes:
        users: Labels, integers or strings.
        items: Labels, integers or strings.
        strengths: float64; None if there are none.
        timestamps: int64, seconds; None if there are none.
        num_skipped: Malformed lines that were skipped.
        names: Name of the column of each kind, if columns have names and types.
    """

    users: np.ndarray
    items: np.ndarray
    strengths: np.ndarray | None
    timestamps: np.ndarray | None
    num_skipped: int = 0
    names: Mapping[str, str] | None = None


def read_text(path: Path) -> Text:
    """Read a text file, decompressed and as UTF-8.

    Compression and UTF-16 are recognized by the first bytes, not by the file name. Text that is not valid
    UTF-8 is read as latin-1, which has a character for every byte.

    Raises:
        ValueError: For a truncated or damaged archive, or a zip archive with several files of which not
            exactly one has a known name.
    """
    content, file_name = _decompressed(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Text(content.decode("utf-16", errors="replace").encode(), "utf-16", file_name)
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        if not content.isascii():  # saves decoding, and its memory, for most files
            content.decode()
    except UnicodeDecodeError:
        return Text(content.decode("latin-1").encode(), "latin-1", file_name)
    return Text(content, "utf-8", file_name)


def _decompressed(path: Path) -> tuple[bytes, str]:
    data = path.read_bytes()
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data), path.name
        if data.startswith(b"BZh"):
            return bz2.decompress(data), path.name
        if data.startswith(b"PK\x03\x04"):
            return _unzipped(data)
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: truncated or damaged archive ({one_line(error)}); fetch it again"
        ) from error
    except LookupError as error:
        raise ValueError(f"{path}: {error}; unpack it and set data.path") from error
    return data, path.name


def _unzipped(data: bytes) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/")]
        known = [name for name in members if layout_of_name(Path(name).name) != "generic"]
        chosen = members if len(members) == 1 else known
        if len(chosen) != 1:
            raise LookupError(
                f"expected one data file in the archive, found {', '.join(members[:10]) or 'nothing'}"
            )
        return archive.read(chosen[0]), Path(chosen[0]).name


def one_line(error: Exception) -> str:
    """Return the message of an exception without line breaks, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def parse_text(
    content: bytes, dialect: Dialect, path: Path, *, on_bad_line: BadLinePolicy, implicit: bool
) -> Table:
    """Parse the content of a text file.

    Args:
        content: UTF-8.
        dialect: Syntax of the file.
        path: For messages.
        on_bad_line: "error", or "skip" to omit and count malformed lines, negative strengths among them.
        implicit: Whether a negative strength is an error.

    Raises:
        ValueError: With FILE:LINE, the fault and the remedy.
    """
    table = _parse_fast(content, dialect)
    if table is None or (implicit and _has_negative(table.strengths, dialect)):
        return _parse_lines(content, dialect, path, on_bad_line=on_bad_line, implicit=implicit)
    return table


def _has_negative(strengths: np.ndarray | None, dialect: Dialect) -> bool:
    """Return True if there is a negative strength, apart from numbers that mean "not rated"."""
    if strengths is None:
        return False
    return bool(((strengths < 0) & ~np.isin(strengths, dialect.unrated)).any())


def _parse_fast(content: bytes, dialect: Dialect) -> Table | None:
    """Parse with pandas; return None for anything irregular."""
    import pandas as pd

    columns = dialect.columns
    try:
        frame = _read_csv(content, dialect)
        # Labels such as 1.0, True or 2**64 are read again as text: the exact text is the label.
        dtypes = {p: frame[p].dtype for p in (columns.user, columns.item)}
        as_text = [p for p, d in dtypes.items() if d.kind not in "iu" and not isinstance(d, pd.StringDtype)]
        if as_text:
            frame = _read_csv(content, dialect, as_text)
    except (ValueError, OverflowError, pd.errors.ParserWarning):
        return None
    users, items = _labels(frame[columns.user]), _labels(frame[columns.item])
    strengths = None if columns.strength is None else _strengths(frame[columns.strength], dialect)
    timestamps = None if columns.timestamp is None else _finite(frame[columns.timestamp], _MAX_SECONDS)
    has_bad_strength = strengths is None and columns.strength is not None
    has_bad_timestamp = timestamps is None and columns.timestamp is not None
    if users is None or items is None or has_bad_strength or has_bad_timestamp:
        return None
    if not _is_rectangular(content, dialect, len(users)):
        return None
    return Table(
        users,
        items,
        None if strengths is None else strengths.astype(np.float64),
        None if timestamps is None else whole_seconds(timestamps),
    )


def _read_csv(content: bytes, dialect: Dialect, as_text: Sequence[int] = ()) -> dict[int, "pd.Series"]:
    import pandas as pd

    # "::" is read as ":" with an empty field between; _is_rectangular finds a single ":".
    stride = max(len(dialect.separator), 1)
    wanted = {p: stride * p for p in dialect.columns if p is not None}
    frame = pd.read_csv(
        io.BytesIO(content),
        sep=dialect.separator[:1] or r"\s+",
        header=0 if dialect.has_header else None,
        names=range(stride * (dialect.num_fields - 1) + 1),
        # With usecols pandas ignores surplus fields, so _is_rectangular must be able to count them.
        usecols=sorted(wanted.values()) if _is_countable(content, dialect) else None,
        dtype={wanted[p]: str for p in as_text},
        engine="c",
        index_col=False,
        na_filter=False,
        low_memory=False,
        skipinitialspace=True,
        quoting=csv.QUOTE_MINIMAL if _has_quotes(dialect) else csv.QUOTE_NONE,
    )
    return {p: cast("pd.Series", frame[name]) for p, name in wanted.items()}


def _has_quotes(dialect: Dialect) -> bool:
    return dialect.has_quotes and dialect.separator in QUOTING_SEPARATORS


def _is_countable(content: bytes, dialect: Dialect) -> bool:
    """Return True if separators can be counted: none is part of a quoted field or of a run of blanks."""
    return dialect.separator != WHITESPACE and not (_has_quotes(dialect) and b'"' in content)


def _is_rectangular(content: bytes, dialect: Dialect, num_rows: int) -> bool:
    """Return False if the number of separators shows that a line has too many or too few fields."""
    if not _is_countable(content, dialect):
        return True
    num_lines = num_rows + dialect.has_header
    per_line = len(dialect.separator) * (dialect.num_fields - 1)
    return content.count(dialect.separator[:1].encode()) == per_line * num_lines


def _labels(column: "pd.Series") -> np.ndarray | None:
    """Return the labels; None if one is empty."""
    if column.dtype.kind in "iu":
        return column.to_numpy()
    stripped = column.str.strip()
    return None if (stripped == "").any() else stripped.to_numpy(dtype=object)


def _strengths(column: "pd.Series", dialect: Dialect) -> np.ndarray | None:
    """Return the numbers, or the weights of events; None if there is anything else."""
    if not dialect.weights:
        return _finite(column, MAX_STRENGTH)
    weights = {word: dialect.weights.get(event_word(str(word)), np.nan) for word in column.unique()}
    return _finite(column.map(weights).astype(np.float64), MAX_STRENGTH)


def _finite(column: "pd.Series", limit: float) -> np.ndarray | None:
    """Return the numbers; None if one is not a number or its magnitude is not below the limit."""
    if column.dtype.kind not in "iuf":
        return None
    numbers = column.to_numpy()
    return numbers if bool((np.abs(numbers.astype(np.float64)) < limit).all()) else None


def _parse_lines(
    content: bytes, dialect: Dialect, path: Path, *, on_bad_line: BadLinePolicy, implicit: bool
) -> Table:
    """Parse line by line: slow and exact, with line numbers for messages."""
    rows: list[list[str]] = []
    num_skipped = 0
    for line, fields in _numbered_records(content, dialect, path):
        problem = _problem(fields, dialect, implicit=implicit)
        if problem and on_bad_line == "error":
            raise ValueError(
                f'{path}:{line}: {problem}; correct or remove the line, or set data.on_bad_line = "skip"'
            )
        if problem:
            num_skipped += 1
            continue
        rows.append(fields)
    return _table_of(rows, dialect, num_skipped)


def _numbered_records(content: bytes, dialect: Dialect, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped fields) of every record, without blank lines and the header."""
    text = io.StringIO(content.decode(), newline=None)
    if _has_quotes(dialect):
        records = _quoted_records(text, dialect.separator, path)
    else:
        separator = None if dialect.separator == WHITESPACE else dialect.separator
        records = ((number, line.split(separator)) for number, line in enumerate(text, start=1))
    stripped = ((number, [field.strip() for field in fields]) for number, fields in records)
    filled = ((number, fields) for number, fields in stripped if fields not in ([], [""]))
    if dialect.has_header:
        next(filled, None)
    return filled


def _quoted_records(text: Iterable[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, delimiter=separator, skipinitialspace=True)
    first_line = 1
    try:
        for fields in reader:
            yield first_line, fields
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{first_line}: {one_line(error)}; close the quotes or remove the line"
        ) from error


def _problem(fields: list[str], dialect: Dialect, *, implicit: bool) -> str | None:
    """Return what is wrong with a record, or None."""
    columns = dialect.columns
    if len(fields) != dialect.num_fields:
        separator = repr(dialect.separator) if dialect.separator else "blanks"
        return f"expected {dialect.num_fields} fields separated by {separator}, got {len(fields)}"
    user, item = fields[columns.user], fields[columns.item]
    if not user or not item:
        return f"expected a user and an item id, got {user[:40]!r} and {item[:40]!r}"
    if columns.strength is not None:
        problem = strength_problem(fields[columns.strength], dialect, implicit)
        if problem:
            return problem
    if columns.timestamp is not None and not _is_within(fields[columns.timestamp], _MAX_SECONDS):
        return f"expected a timestamp in seconds, got {fields[columns.timestamp][:40]!r}"
    return None


def strength_problem(text: str, dialect: Dialect, implicit: bool) -> str | None:
    """Return what is wrong with the text of a strength, or None."""
    if dialect.weights:
        known = ", ".join(dialect.weights)
        is_known = event_word(text) in dialect.weights
        return None if is_known else f"expected one of {known} (data.strength_values), got {text[:40]!r}"
    if not _is_within(text, MAX_STRENGTH):
        return f"expected a finite number as strength, got {text[:40]!r}"
    if implicit and float(text) < 0 and float(text) not in dialect.unrated:
        return (
            f"expected a strength >= 0 for implicit feedback, got {text}; set data.feedback = explicit for "
            "ratings, data.strength_values if it means seen, not rated"
        )
    return None


def _is_within(text: str, limit: float) -> bool:
    try:
        return "_" not in text and abs(float(text)) < limit  # False for NaN
    except ValueError:
        return False


def _table_of(rows: list[list[str]], dialect: Dialect, num_skipped: int) -> Table:
    columns = dialect.columns
    strengths = timestamps = None
    if columns.strength is not None:
        texts = [fields[columns.strength] for fields in rows]
        strengths = np.array([strength_of(text, dialect) for text in texts], np.float64)
    if columns.timestamp is not None:
        timestamps = np.array([_seconds_of(fields[columns.timestamp]) for fields in rows], np.int64)
    users = labels_of([fields[columns.user] for fields in rows])
    items = labels_of([fields[columns.item] for fields in rows])
    return Table(users, items, strengths, timestamps, num_skipped)


def strength_of(text: str, dialect: Dialect) -> float:
    """Return the strength that a text stands for, if `strength_problem` finds nothing wrong with it."""
    return dialect.weights[event_word(text)] if dialect.weights else float(text)


def _seconds_of(text: str) -> int:
    return int(text) if text.isdigit() else math.floor(float(text))


def labels_of(texts: list[str]) -> np.ndarray:
    """Return 64-bit integers if every text is an integer (007 is 7), otherwise the texts."""
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
    """Return timestamps as int64, rounded down."""
    return (np.floor(timestamps) if timestamps.dtype.kind == "f" else timestamps).astype(np.int64)
