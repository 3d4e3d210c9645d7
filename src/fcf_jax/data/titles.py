"""Titles of items, from the file that a published data set has beside its interactions."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class TitleFile(NamedTuple):
    """Table of items with their titles.

    Attributes:
        name: Of the file.
        beside: Files of interactions in the same folder that it belongs to.
        separator: Between columns.
        columns: Item id and title: names in the header, or 0-based numbers without one.
    """

    name: str
    beside: tuple[str, ...]
    separator: str
    columns: tuple[str, str] | tuple[int, int]


TITLE_FILES = (
    TitleFile("u.item", ("u.data",), "|", (0, 1)),  # MovieLens 100K
    TitleFile("movies.dat", ("ratings.dat",), "::", (0, 1)),  # 1M, 10M
    TitleFile("movies.csv", ("ratings.csv",), ",", ("movieId", "title")),  # latest, 20M, 25M, 32M
    TitleFile("artists.dat", ("user_artists.dat",), "\t", ("id", "name")),  # Last.fm 2K
    TitleFile("books.csv", ("ratings.csv",), ",", ("book_id", "title")),  # goodbooks
    TitleFile("Books.csv", ("Ratings.csv",), ",", ("ISBN", "Book-Title")),  # Book-Crossing
    TitleFile("BX-Books.csv", ("BX-Book-Ratings.csv",), ";", ("ISBN", "Book-Title")),
    TitleFile("BX_Books.csv", ("BX-Book-Ratings.csv", "BX_Book_Ratings.csv"), ";", ("ISBN", "Book-Title")),
    TitleFile("anime.csv", ("rating.csv",), ",", ("anime_id", "name")),  # Kaggle
)


def find_titles(path: Path) -> dict[str, str]:
    """Find the titles of a data set, by item id; none if it has no table of items that can be read.

    Titles are for people only. They are cut to one printable line, and lines without one are passed over.

    Args:
        path: File of interactions, or its folder.
    """
    folder = path if path.is_dir() else path.parent
    for table in TITLE_FILES:
        belongs = path.is_dir() or path.name.removesuffix(".gz") in table.beside
        if belongs and (folder / table.name).is_file():
            return dict(_titles(folder / table.name, table))
    return {}


def _titles(path: Path, table: TitleFile) -> Iterator[tuple[str, str]]:
    try:
        rows = _rows(_decoded(path.read_bytes()), table.separator)
        header = next(rows) if isinstance(table.columns[0], str) else []
        first, second = (header.index(one) if isinstance(one, str) else one for one in table.columns)
        for row in rows:
            if len(row) > max(first, second) and (title := _printable(row[second])):
                yield row[first].strip(), title
    except (OSError, StopIteration, ValueError, csv.Error):  # no table of this kind, or damaged from here on
        return


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    if separator in (",", ";"):
        return csv.reader(io.StringIO(text, newline=""), delimiter=separator, escapechar="\\")
    return (line.split(separator) for line in text.splitlines())  # quotes are part of a title


def _printable(title: str) -> str:
    return "".join(letter for letter in title if letter.isprintable()).strip()
