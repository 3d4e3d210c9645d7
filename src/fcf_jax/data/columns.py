"""Layouts of text tables: the published ones by name, others inferred from their first lines."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

WHITESPACE = ""  # the separator that means any run of spaces or tabs

_SEPARATORS = ("::", "\t", ";", "|", ",")  # comma last: it may be part of a text or a decimal comma
_SNIFFED_BYTES = 65536
_SNIFFED_LINES = 20
_MAX_UNNAMED = 4  # columns without a header whose order is taken as user, item, strength, timestamp
_COMMON_NAMES = {
    "user": ("user", "users", "userid", "uid", "customerid", "reviewerid"),
    "item": ("item", "items", "itemid", "movieid", "artistid", "productid", "asin", "isbn", "songid",
             "trackid", "bookid"),
    "strength": ("rating", "strength", "strengths", "weight", "count", "value", "values", "score", "plays",
                 "playcount", "views"),
    "timestamp": ("timestamp", "timestamps", "time", "unixreviewtime"),
}  # fmt: skip


class Columns(NamedTuple):
    """Columns of a table: a name, a 0-based number, or None to look for a common name.

    Attributes:
        user: User ids.
        item: Item ids.
        strength: Counts or ratings; "" if there are none, and every strength is 1.
        timestamp: In seconds; "" if there are none.
    """

    user: str | int | None = None
    item: str | int | None = None
    strength: str | int | None = None
    timestamp: str | int | None = None


class Positions(NamedTuple):
    """0-based column numbers.

    Attributes:
        user: User ids.
        item: Item ids.
        strength: Strengths; None if there are none.
        timestamp: Timestamps; None if there are none.
    """

    user: int
    item: int
    strength: int | None = None
    timestamp: int | None = None


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Syntax of a text table.

    Attributes:
        separator: Between fields; `WHITESPACE` for runs of blanks.
        num_fields: Fields of each line.
        has_header: Whether the first line names the columns.
        columns: Where to find users, items, strengths and timestamps.
    """

    separator: str
    num_fields: int
    has_header: bool
    columns: Positions


@dataclasses.dataclass(frozen=True)
class Layout:
    """Published format of a data set, with columns in the order user, item, strength, timestamp.

    Attributes:
        files: Files that make up the data set.
        separator: Between fields; `WHITESPACE` for runs of blanks.
        num_fields: Fields of each line.
        header: Names of the columns in the first line; None if there is no header.
    """

    files: tuple[str, ...]
    separator: str
    num_fields: int
    header: tuple[str, ...] | None = None

    @property
    def dialect(self) -> Dialect:
        """Syntax of its files."""
        positions = Positions(*range(self.num_fields))
        return Dialect(self.separator, self.num_fields, self.header is not None, positions)

    def matches(self, first_line: str) -> bool:
        """Return True if a file that starts with this line can have this layout."""
        fields = _split(first_line, self.separator)
        if self.header is not None:
            return tuple(fields) == self.header
        return len(fields) == self.num_fields and all(_is_number(field) for field in fields)


_MOVIELENS_HEADER = ("userId", "movieId", "rating", "timestamp")

LAYOUTS: Mapping[str, Layout] = {
    "movielens-100k": Layout(("u.data",), "\t", 4),
    "movielens-1m": Layout(("ratings.dat",), "::", 4),  # and 10M
    "movielens-latest": Layout(("ratings.csv",), ",", 4, _MOVIELENS_HEADER),  # and 20M, 25M, 32M
    "lastfm-2k": Layout(("user_artists.dat",), "\t", 3, ("userID", "artistID", "weight")),
    "lastfm-lightgcn": Layout(("data1.txt", "test1.txt"), "\t", 3),  # a published split: train, test
    "filmtrust": Layout(("ratings.txt",), WHITESPACE, 3),
    "ciaodvd": Layout(("Ciao.rating",), ",", 4),
    "amazon-video": Layout(("Video.txt",), WHITESPACE, 2),
}
LAYOUT_NAMES = ("auto", "generic", *LAYOUTS)


def find_files(path: Path, layout: str) -> list[Path]:
    """Find the files to read.

    Args:
        path: A file, or the folder of a data set.
        layout: One of `LAYOUT_NAMES`.

    Returns:
        The path itself if it is a file; the files of the layout, or of the first layout that is complete in
        the folder; otherwise the only file of the folder.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: For an unknown layout, or a folder with several files and no complete layout.
    """
    if layout not in LAYOUT_NAMES:
        raise ValueError(
            f"expected data.layout to be one of {', '.join(LAYOUT_NAMES)}, got {layout!r}; choose one"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; set data.path to a data file or its folder")
    if path.is_file():
        return [path]
    candidates = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]] if layout in LAYOUTS else []
    for candidate in candidates:
        files = [path / file for file in candidate.files]
        if all(file.is_file() for file in files):
            return files
    return [_only_file(path, layout)]


def _only_file(folder: Path, layout: str) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if len(files) == 1 and layout not in LAYOUTS:
        return files[0]
    found = ", ".join(file.name for file in files[:10]) or "nothing"
    wanted = " and ".join(LAYOUTS[layout].files) if layout in LAYOUTS else "the files of a known layout"
    raise ValueError(f"{folder}: expected {wanted}, found {found}; set data.path to one file")


def layout_of_name(file_name: str) -> str:
    """Return the layout with a file of this name, with or without .gz or .bz2; otherwise "generic"."""
    file_name = file_name.removesuffix(".gz").removesuffix(".bz2")
    return next((name for name, layout in LAYOUTS.items() if file_name in layout.files), "generic")


def first_lines(data: bytes) -> tuple[int, list[str]]:
    """Return the number of the first line that is not blank, and up to 20 such lines from there on."""
    text = data[:_SNIFFED_BYTES].decode("utf-8", errors="ignore")
    lines = list(enumerate(io.StringIO(text, newline=None), start=1))
    if len(data) > _SNIFFED_BYTES:
        lines = lines[:-1]  # may be incomplete
    filled = [(number, line.rstrip("\n")) for number, line in lines if line.strip()][:_SNIFFED_LINES]
    return (filled[0][0] if filled else 1), [line for _, line in filled]


def infer_dialect(where: str, lines: Sequence[str], columns: Columns, separator: str | None) -> Dialect:
    """Infer separator, header and columns from the first lines of a file.

    The first line is a header if a common column name is in it, if `columns` has names, or if none of its
    fields is a number. If `columns` has numbers for user and item, it is a header only if it has a common
    name, or text where a strength or timestamp should be. Without a header, two to four columns are user,
    item, strength, timestamp.

    Args:
        where: FILE:LINE of the first line, for messages.
        lines: First lines, at least one.
        columns: Columns that the caller chose.
        separator: One character, "::", or "whitespace" or " " for runs of blanks; None to infer it.

    Raises:
        ValueError: For a single column, or a required column that is not found; lists those found.
    """
    separator = _inferred_separator(lines) if separator is None else _checked_separator(separator)
    fields = _split(lines[0], separator)
    if len(fields) < 2:
        raise ValueError(
            f"{where}: expected a user and an item column, got one column ({_shown(fields)}); "
            "separate the columns with commas or tabs"
        )
    has_header = _is_header(fields, columns)
    locate = named_positions if has_header else _numbered_positions
    return Dialect(separator, len(fields), has_header, locate(where, fields, columns))


def _inferred_separator(lines: Sequence[str]) -> str:
    complete = lines[:-1] or lines  # the last line may be truncated
    for separator in _SEPARATORS:
        counts = {line.count(separator) for line in complete}
        if len(counts) == 1 and 0 not in counts:
            return separator
    return next((separator for separator in _SEPARATORS if separator in lines[0]), WHITESPACE)


def _checked_separator(separator: str) -> str:
    if separator in (WHITESPACE, " ", "whitespace"):
        return WHITESPACE
    if separator != "::" and len(separator) != 1:
        raise ValueError(
            f'expected a separator of one character, "::" or "whitespace", got {separator!r}; change it'
        )
    return separator


def _split(line: str, separator: str) -> list[str]:
    fields = line.split() if separator == WHITESPACE else line.split(separator)
    return [field.strip().strip('"') for field in fields]


def _is_header(fields: Sequence[str], columns: Columns) -> bool:
    common = {name for names in _COMMON_NAMES.values() for name in names}
    if any(_plain(field) in common for field in fields):
        return True
    if _is_digits(columns.user) and _is_digits(columns.item):
        values = {str(column) for column in (columns.strength, columns.timestamp)}
        return any(not _is_number(field) for i, field in enumerate(fields) if str(i) in values)
    has_names = any(column not in (None, "") and not _is_digits(column) for column in columns)
    return has_names or not any(_is_number(field) for field in fields)


def named_positions(where: str, names: Sequence[str], columns: Columns) -> Positions:
    """Find the columns of a table whose columns have names.

    Args:
        where: FILE or FILE:LINE, for messages.
        names: All column names, in order.
        columns: Columns that the caller chose.

    Raises:
        ValueError: For a chosen column that does not exist, or when no user or item column is found, or no
            strength column among further columns; lists those found.
    """
    positions = Positions(
        user=_required(where, names, "user", columns.user),
        item=_required(where, names, "item", columns.item),
        strength=_named(where, names, "strength", columns.strength),
        timestamp=_named(where, names, "timestamp", columns.timestamp),
    )
    has_others = len(names) > len(set(positions) - {None})
    if positions.strength is None and columns.strength is None and has_others:
        raise ValueError(
            f"{where}: no strength column recognized among {_shown(names)}; "
            'set data.strength_column to its name, or to "" if there is none'
        )
    return positions


def _required(where: str, names: Sequence[str], kind: str, column: str | int | None) -> int:
    position = _named(where, names, kind, column)
    if position is None:
        raise ValueError(
            f"{where}: no {kind} column recognized among {_shown(names)}; set data.{kind}_column"
        )
    return position


def _named(where: str, names: Sequence[str], kind: str, column: str | int | None) -> int | None:
    if column == "":
        return None
    if column is None:
        plain = [_plain(name) for name in names]
        return next((plain.index(name) for name in _COMMON_NAMES[kind] if name in plain), None)
    return list(names).index(str(column)) if column in names else _numbered(where, names, kind, column)


def _numbered(where: str, fields: Sequence[str], kind: str, column: str | int) -> int:
    number = int(column) if _is_digits(column) else len(fields)
    if number >= len(fields):
        raise ValueError(
            f"{where}: {kind} column {column!r} not found among {_shown(fields)}; "
            f"set data.{kind}_column to a name or a number from 0 to {len(fields) - 1}"
        )
    return number


def _numbered_positions(where: str, fields: Sequence[str], columns: Columns) -> Positions:
    """Find the columns of a table without a header: those given by number, the others by their order."""
    is_known_order = len(fields) <= _MAX_UNNAMED
    if not is_known_order and None in (columns.user, columns.item, columns.strength):
        raise ValueError(
            f"{where}: cannot tell {len(fields)} columns apart without a header ({_shown(fields)}); "
            "set data.user_column, data.item_column and data.strength_column to 0-based numbers"
        )
    taken = {str(column) for column in columns}
    free = [i for i in range(len(fields)) if is_known_order and str(i) not in taken]
    by_order = [i if i in free else "" for i in range(len(columns))]
    user, item, strength, timestamp = (
        default if column is None else column for column, default in zip(columns, by_order, strict=True)
    )
    return Positions(
        user=_numbered(where, fields, "user", user),
        item=_numbered(where, fields, "item", item),
        strength=None if strength == "" else _numbered(where, fields, "strength", strength),
        timestamp=None if timestamp == "" else _numbered(where, fields, "timestamp", timestamp),
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_digits(column: str | int | None) -> bool:
    return str(column).isdigit()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(fields: Sequence[str]) -> str:
    return ", ".join(field[:40] for field in fields[:20])
