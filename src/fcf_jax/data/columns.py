"""Take an unknown table apart: separator, header, and which column means what."""

import dataclasses
import io
from collections.abc import Sequence
from typing import NamedTuple

WHITESPACE = ""  # as a separator: any run of spaces or tabs
_SEPARATORS = ("::", "\t", ";", "|", ",")  # a comma last: it may stand inside text or be a decimal sign
_SNIFFED_BYTES = 65536
_SNIFFED_LINES = 20

_COMMON_NAMES = {
    "user": ("user", "users", "userid", "uid", "customerid", "reviewerid"),
    "item": (
        "item",
        "items",
        "itemid",
        "movieid",
        "artistid",
        "productid",
        "asin",
        "isbn",
        "songid",
        "trackid",
        "bookid",
    ),
    "strength": (
        "rating",
        "strength",
        "strengths",
        "weight",
        "count",
        "value",
        "values",
        "score",
        "plays",
        "playcount",
        "views",
    ),
    "timestamp": ("timestamp", "timestamps", "time", "unixreviewtime"),
}


class Columns(NamedTuple):
    """Where to find what: a column's name or 0-based number; None = a common name; "" = there is none."""

    user: str | int | None = None
    item: str | int | None = None
    strength: str | int | None = None
    timestamp: str | int | None = None


class Positions(NamedTuple):
    """0-based column numbers; None where there is no such column."""

    user: int
    item: int
    strength: int | None
    timestamp: int | None


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How to take one text file apart."""

    separator: str
    num_fields: int
    has_header: bool
    columns: Positions


def first_records(data: bytes) -> tuple[int, list[str]]:
    """Return the line number of the first line that is not blank, and the first few such lines."""
    text = data[:_SNIFFED_BYTES].decode("utf-8", errors="ignore")
    lines = list(enumerate(io.StringIO(text, newline=None), start=1))
    if len(data) > _SNIFFED_BYTES:
        lines = lines[:-1]  # cut in the middle
    filled = [(number, line.rstrip("\n")) for number, line in lines if line.strip()][:_SNIFFED_LINES]
    return (filled[0][0] if filled else 1), [line for _, line in filled]


def split_line(line: str, separator: str) -> list[str]:
    """Split one line into bare fields; quotes around a field are removed."""
    fields = line.split() if separator == WHITESPACE else line.split(separator)
    return [field.strip().strip('"') for field in fields]


def sniff_dialect(
    where: str, lines: Sequence[str], columns: Columns, separator: str | None = None
) -> Dialect:
    """Work out separator, header and columns from the first lines of a file.

    A first line without any number, or with a common column name in it, is a header. Where the caller numbers
    user and item, it is one only if a common name or a strength that is no number says so. Without a header,
    two to four columns are user, item, strength, timestamp.

    Args:
        where: FILE:LINE of the first line, for messages.
        lines: The first lines, at least one.
        columns: What the caller knows; None is looked up among common names.
        separator: None to find out; "whitespace" or " " for runs of blanks.

    Raises:
        ValueError: When there is one column only, or a needed column is not found; the columns found are
            listed.
    """
    separator = _sniff_separator(lines) if separator is None else _named_separator(separator)
    fields = split_line(lines[0], separator)
    if len(fields) < 2:
        raise ValueError(
            f"{where}: expected a user and an item column, got one column ({_shown(fields)}); "
            "separate the columns with commas or tabs"
        )
    has_header = _is_header(fields, columns)
    positions = resolve_columns(where, fields, columns) if has_header else _positions(where, fields, columns)
    return Dialect(separator, len(fields), has_header, positions)


def _sniff_separator(lines: Sequence[str]) -> str:
    complete = lines[:-1] or lines  # the last line may be truncated
    for separator in _SEPARATORS:
        counts = {line.count(separator) for line in complete}
        if len(counts) == 1 and 0 not in counts:
            return separator
    return next((separator for separator in _SEPARATORS if separator in lines[0]), WHITESPACE)


def _named_separator(separator: str) -> str:
    if separator in (WHITESPACE, " ", "whitespace"):
        return WHITESPACE
    if separator != "::" and len(separator) != 1:
        raise ValueError(
            f'expected a separator of one character, "::" or "whitespace", got {separator!r}; change it'
        )
    return separator


def _is_header(fields: Sequence[str], columns: Columns) -> bool:
    common = {name for names in _COMMON_NAMES.values() for name in names}
    if any(_plain(field) in common for field in fields):
        return True
    if _is_numbered(columns.user) and _is_numbered(columns.item):
        values = [column for column in (columns.strength, columns.timestamp) if _is_numbered(column)]
        return any(not is_number(field) for i, field in enumerate(fields) if str(i) in map(str, values))
    named = any(column not in (None, "") and not _is_numbered(column) for column in columns)
    return named or not any(is_number(field) for field in fields)


def _is_numbered(column: str | int | None) -> bool:
    return str(column).isdigit()


def resolve_columns(where: str, names: Sequence[str], columns: Columns) -> Positions:
    """Find the positions of user, item, strength and timestamp among the column names.

    Args:
        where: FILE or FILE:LINE, for messages.
        names: All column names, in order.
        columns: What the caller knows; None is looked up among common names.

    Raises:
        ValueError: For a column that is not there, or could be meant but is not known; the columns found are
            listed.
    """
    positions = Positions(
        user=_required(where, names, "user", columns.user),
        item=_required(where, names, "item", columns.item),
        strength=_optional(where, names, "strength", columns.strength),
        timestamp=_optional(where, names, "timestamp", columns.timestamp),
    )
    unknown = [name for position, name in enumerate(names) if position not in positions]
    if positions.strength is None and columns.strength is None and unknown:
        raise ValueError(
            f"{where}: no strength column recognized among {_shown(names)}; "
            'set data.strength_column to its name, or to "" if there is none'
        )
    return positions


def _required(where: str, names: Sequence[str], kind: str, column: str | int | None) -> int:
    position = _common(names, kind) if column is None else _given(where, names, kind, column)
    if position is None:
        raise ValueError(
            f"{where}: no {kind} column recognized among {_shown(names)}; set data.{kind}_column"
        )
    return position


def _optional(where: str, names: Sequence[str], kind: str, column: str | int | None) -> int | None:
    if column == "":
        return None
    return _common(names, kind) if column is None else _given(where, names, kind, column)


def _common(names: Sequence[str], kind: str) -> int | None:
    plain = [_plain(name) for name in names]
    return next((plain.index(name) for name in _COMMON_NAMES[kind] if name in plain), None)


def _given(where: str, names: Sequence[str], kind: str, column: str | int) -> int:
    return list(names).index(str(column)) if column in names else _numbered(where, names, kind, column)


def _numbered(where: str, fields: Sequence[str], kind: str, column: str | int) -> int:
    number = int(column) if str(column).isdigit() else len(fields)
    if number >= len(fields):
        raise ValueError(
            f"{where}: {kind} column {column!r} not found among {_shown(fields)}; "
            f"set data.{kind}_column to a name or a number from 0 to {len(fields) - 1}"
        )
    return number


def _positions(where: str, fields: Sequence[str], columns: Columns) -> Positions:
    """Without a header: the numbered columns, the others in the order user, item, strength, timestamp."""
    known_order = len(fields) <= len(Columns._fields)
    if not known_order and None in columns[:3]:
        raise ValueError(
            f"{where}: cannot tell {len(fields)} columns apart without a header ({_shown(fields)}); "
            "set data.user_column, data.item_column and data.strength_column to 0-based numbers"
        )
    claimed = {str(column) for column in columns}
    free = [position for position in range(len(fields)) if known_order and str(position) not in claimed]
    user, item, strength, timestamp = [_or_default(column, i, free) for i, column in enumerate(columns)]
    return Positions(
        user=_numbered(where, fields, "user", user),
        item=_numbered(where, fields, "item", item),
        strength=None if strength == "" else _numbered(where, fields, "strength", strength),
        timestamp=None if timestamp == "" else _numbered(where, fields, "timestamp", timestamp),
    )


def _or_default(column: str | int | None, default: int, free: Sequence[int]) -> str | int:
    if column is not None:
        return column
    return default if default in free else ""


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def is_number(text: str) -> bool:
    """Whether Python reads this text as a float."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(fields: Sequence[str]) -> str:
    return ", ".join(field[:40] for field in fields[:20])
