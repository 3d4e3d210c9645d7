"""Layouts of published data sets: recognized by file name, header or the values of the first lines."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fcf_jax.data.formats.columns import Order, Positions
from fcf_jax.data.formats.evidence import looks_like
from fcf_jax.data.formats.names import plain
from fcf_jax.data.formats.separators import WHITESPACE, inferred_separator, split_fields

Form = Literal["table", "json-lines", "item-lists", "counted-lists", "blocks", "impressions"]

_ENDINGS = ("", ".gz", ".bz2", ".xz")
_FEWEST_LENGTHS = 3  # lists differ in length; in a table with a missing field, lines have two lengths
_NO_DATA = re.compile(
    r"(readme|licen[cs]e|citation|about).*|.*\.(md|pdf|html?|md5|sha\d*|png|jpe?g)", re.IGNORECASE
)
_PARTS = re.compile(r"(?i)(.*[._-])?(train|training|valid|validation|val|dev|test|testing)\d?([._-].*)?")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Published format of a data set.

    Attributes:
        files: Patterns of the files that make up the data set.
        form: How a file holds interactions: a line for each ("table"), an object for each ("json-lines"), a
            user and items in each line ("item-lists"), a count and items of one user in each line
            ("counted-lists"), blocks under an item ("blocks"), or MIND's sessions ("impressions").
        separator: Between fields; `WHITESPACE` for runs of blanks; None if files differ in it.
        num_fields: Fields of each line; None if lines differ in it.
        header: All names of the columns, in the first line.
        names: Names, plain or in lower case, that tell this layout from others.
        kinds: Kind of each field of files without a header; see `evidence`.
        columns: Order of the columns without a header; None: user, item, strength, timestamp.
        unrated: Numbers that mean "seen, not rated".
        skips_bad_lines: Whether lines without a user and returns (negative quantities) are part of the
            format, and skipped.
        has_quotes: Whether double quotes enclose fields.
    """

    files: tuple[str, ...] = ()
    form: Form = "table"
    separator: str | None = None
    num_fields: int | None = None
    header: tuple[str, ...] | None = None
    names: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    columns: Positions | None = None
    unrated: tuple[float, ...] = ()
    skips_bad_lines: bool = False
    has_quotes: bool = True

    @property
    def order(self) -> Order | None:
        """Order of the columns of files without a header; None if it must be inferred."""
        if self.columns is not None:
            return Order(self.columns, "")
        is_usual = self.header is None and self.num_fields is not None
        return Order(Positions(*range(self.num_fields or 2)), "") if is_usual else None

    def has_file(self, name: str) -> bool:
        """Return True if a file of this name, compressed or not, can belong to the data set."""
        return any(fnmatch.fnmatchcase(name, pattern + end) for pattern in self.files for end in _ENDINGS)

    def files_in(self, folder: Path) -> list[Path]:
        """Return its files in a folder, compressed or not, in their order; empty unless all are there."""
        found = [
            sorted(file for end in _ENDINGS for file in folder.glob(pattern + end) if file.is_file())
            for pattern in self.files
        ]
        return [file for files in found for file in files] if found and all(found) else []

    def matches(self, lines: Sequence[str]) -> bool:
        """Return True if a file that starts with these lines, at least one, can have this layout."""
        if self.form != "table":
            return _FORMS[self.form](lines)
        separator = inferred_separator(lines) if self.separator is None else self.separator
        rows = [split_fields(line, separator, has_quotes=self.has_quotes) for line in lines]
        if self.header is not None:
            return tuple(rows[0]) == self.header
        if self.names:
            return self.names <= {*map(plain, rows[0]), *map(str.lower, rows[0])}
        if self.kinds:
            rows = rows[:-1] or rows  # the last line may be truncated
            columns = list(zip(*rows, strict=False))
            return {len(row) for row in rows} == {len(self.kinds)} and all(
                looks_like(kind, values) for kind, values in zip(self.kinds, columns, strict=True)
            )
        return len(rows[0]) == self.num_fields and looks_like("number", rows[0])


def _are_json(lines: Sequence[str]) -> bool:
    return lines[0].lstrip().startswith(("{", "[{")) or lines[0].strip() == "["


def _are_blocks(lines: Sequence[str]) -> bool:
    return re.fullmatch(r"\d+:", lines[0].strip()) is not None


def _are_item_lists(lines: Sequence[str]) -> bool:
    rows = _whole_numbers(lines)
    return len({len(row) for row in rows}) >= _FEWEST_LENGTHS and _are_distinct(rows)


def are_lists(parts: Sequence[Sequence[str]]) -> bool:
    """Return True if the first lines of the parts of a split show a user and items in each line.

    Args:
        parts: First lines of each part, complete.
    """
    rows = [[line.split() for line in lines] for lines in parts]
    lengths = {len(row) for part in rows for row in part}
    are_whole = all(looks_like("whole", row) for part in rows for row in part)
    return are_whole and len(lengths) >= _FEWEST_LENGTHS and all(map(_are_distinct, rows))


def _are_distinct(rows: Sequence[Sequence[str]]) -> bool:
    """Return True if each user has one line, with each item once."""
    return len({row[0] for row in rows}) == len(rows) and all(len(set(r[1:])) == len(r) - 1 for r in rows)


def _are_counted_lists(lines: Sequence[str]) -> bool:
    rows = _whole_numbers(lines)
    has_lists = len({len(row) for row in rows}) > 1
    return has_lists and all(int(row[0]) == len(row) - 1 for row in rows)


def _are_impressions(lines: Sequence[str]) -> bool:
    rows = [line.split("\t") for line in lines]
    return all(len(row) == 5 and re.fullmatch(r"(\S+-[01]( |$))+", row[4].strip()) for row in rows)


def _whole_numbers(lines: Sequence[str]) -> list[list[str]]:
    """Return the fields of complete lines, or nothing if one is no whole number."""
    rows = [line.split() for line in lines[:-1] or lines]
    return rows if all(looks_like("whole", row) for row in rows) else []


_FORMS = {
    "json-lines": _are_json,
    "item-lists": _are_item_lists,
    "counted-lists": _are_counted_lists,
    "blocks": _are_blocks,
    "impressions": _are_impressions,
}

_MOVIELENS_HEADER = ("userId", "movieId", "rating", "timestamp")

LAYOUTS: Mapping[str, Layout] = {
    "movielens-100k": Layout(("u.data",), separator="\t", num_fields=4),
    "movielens-1m": Layout(("ratings.dat",), separator="::", num_fields=4),  # and 10M
    "movielens-latest": Layout(
        ("ratings.csv",), separator=",", num_fields=4, header=_MOVIELENS_HEADER
    ),  # and 20M, 25M, 32M
    "lastfm-2k": Layout(
        ("user_artists.dat",), separator="\t", num_fields=3, header=("userID", "artistID", "weight")
    ),
    "lastfm-360k": Layout(
        ("usersha1-artmbid-artname-plays.tsv",),
        separator="\t",
        kinds=("sha1", "uuid_or_empty", "text", "whole"),
        columns=Positions(0, 2, 3),  # by name: many artists have no MusicBrainz id
        has_quotes=False,
    ),
    "lastfm-lightgcn": Layout(("data1.txt", "test1.txt"), separator="\t", num_fields=3),  # train, test
    "filmtrust": Layout(("ratings.txt",), separator=WHITESPACE, num_fields=3),
    "ciaodvd": Layout(("Ciao.rating",), separator=",", num_fields=4),
    "amazon-video": Layout(("Video.txt",), separator=WHITESPACE, num_fields=2),
    "bookcrossing": Layout(
        ("BX[-_]Book[-_]Ratings.csv",), names=frozenset(("userid", "isbn", "bookrating")), unrated=(0.0,)
    ),
    "bookcrossing-kaggle": Layout(
        ("Ratings.csv",), names=frozenset(("userid", "isbn", "bookrating")), unrated=(0.0,)
    ),
    "kaggle-anime": Layout(
        ("rating.csv",), names=frozenset(("userid", "animeid", "rating")), unrated=(-1.0, 0.0)
    ),
    "steam-200k": Layout(
        ("steam-200k.csv",),
        separator=",",
        kinds=("whole", "text", "bought_or_played", "number", "number"),
        columns=Positions(0, 1, 3),
    ),
    "online-retail": Layout(
        ("online_retail*.csv", "Online Retail*.csv"),
        names=frozenset(("stockcode", "quantity", "customerid")),
        skips_bad_lines=True,
    ),
    "recbole": Layout(("*.inter",), separator="\t", names=frozenset(("user_id:token", "item_id:token"))),
    "retailrocket": Layout(("events.csv",), names=frozenset(("visitorid", "event", "itemid"))),
    "foursquare-tsmc2014": Layout(
        ("dataset_TSMC2014_*.txt",),
        separator="\t",
        kinds=("whole", "object_id", "text", "text", "number", "number", "number", "time"),
        columns=Positions(0, 1, None, 7),
        has_quotes=False,
    ),
    "snap-checkins": Layout(  # Gowalla, Brightkite
        ("*_totalCheckins.txt",),
        separator="\t",
        kinds=("whole", "time", "number", "number", "text"),
        columns=Positions(0, 4, None, 1),
        has_quotes=False,
    ),
    "netflix-prize": Layout(("combined_data_*.txt",), "blocks"),
    "mind": Layout(("behaviors.tsv",), "impressions"),
    "lightgcn": Layout(("train.txt", "test.txt"), "item-lists"),  # a published split
    "citeulike": Layout(("users.dat",), "counted-lists"),
    "yelp": Layout(("yelp_academic_dataset_review.json",), "json-lines"),
    "json-lines": Layout((), "json-lines"),
    "item-lists": Layout((), "item-lists"),
    "counted-lists": Layout((), "counted-lists"),
}
PUBLISHED_SPLITS = ("lastfm-lightgcn", "lightgcn")  # of two files: training and test set
LAYOUT_NAMES = ("auto", "generic", *LAYOUTS)


def find_files(path: Path, layout: str) -> list[Path]:
    """Find the files to read.

    Args:
        path: A file, or the folder of a data set.
        layout: One of `LAYOUT_NAMES`.

    Returns:
        The path itself if it is a file; the files of the layout, or of the first layout that is complete in
        the folder; otherwise the only data file of the folder.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: For an unknown layout, or a folder with several files and no complete layout.
    """
    if layout not in LAYOUT_NAMES:
        raise ValueError(
            f"expected data.layout to be one of {', '.join(LAYOUT_NAMES)}, got {layout!r}; choose one"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a data file or its folder")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(
            f"{path}: expected a file or folder, got a pipe or device, which can be read only once; "
            "write its content to a file"
        )
    candidates = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]] if layout in LAYOUTS else []
    for candidate in candidates:
        if files := candidate.files_in(path):
            return files
    return [_only_file(path, layout)]


def _only_file(folder: Path, layout: str) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    data = [file for file in files if holds_data(file.name)]
    has_own_files = layout in LAYOUTS and LAYOUTS[layout].files
    if len(data) == 1 and not has_own_files:
        return data[0]
    if are_parts(data):
        raise ValueError(parts_remedy(folder, data))
    found = ", ".join(file.name for file in files[:10]) or "nothing"
    wanted = " and ".join(LAYOUTS[layout].files) if has_own_files else "the files of a known layout"
    raise ValueError(f"{folder}: expected {wanted}, found {found}; set data.path to one file")


def holds_data(file_name: str) -> bool:
    """Return False for the name of a description, license or picture beside the data."""
    return not file_name.startswith(".") and _NO_DATA.fullmatch(file_name) is None


def are_parts(files: Sequence[Path]) -> bool:
    """Return True if files are named like the parts of a split."""
    return sum(_PARTS.fullmatch(file.name) is not None for file in files) > 1


def parts_remedy(folder: Path, files: Sequence[Path]) -> str:
    """Return the message for a folder that holds a split in a form of its own."""
    parts = [file.name for file in files if _PARTS.fullmatch(file.name)]
    parts.sort(key=lambda name: ("train" not in name.lower(), "negative" in name.lower(), name))
    return (
        f"{folder}: expected one file of interactions, found the parts of a split ({', '.join(parts)}); set "
        f"data.path to {folder / parts[0]}, which is then split anew, or join the parts into one file first; "
        "data.train_path and data.test_path keep them apart (config published-split)"
    )


def layout_of_name(file_name: str) -> str:
    """Return the first layout with a file of this name, compressed or not; otherwise "generic"."""
    return next((name for name, layout in LAYOUTS.items() if layout.has_file(file_name)), "generic")


def recognized(file_name: str, lines: Sequence[str]) -> str:
    """Return the layout that file name and lines, or lines alone, show; "generic" if none does."""
    by_name = [name for name, layout in LAYOUTS.items() if layout.has_file(file_name)]
    by_lines = [name for name, layout in LAYOUTS.items() if _is_telling(layout)]
    return next((name for name in (*by_name, *by_lines) if LAYOUTS[name].matches(lines)), "generic")


def _is_telling(layout: Layout) -> bool:
    """Return True if the first lines suffice to recognize the layout, whatever the name of the file."""
    is_bare_form = layout.form != "table" and not layout.files
    return bool(layout.names or layout.kinds) or is_bare_form or layout.form in ("blocks", "impressions")
