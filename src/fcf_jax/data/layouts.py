"""How the files of known data sets look, and which of them lie in a folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from fcf_jax.data.columns import WHITESPACE, Dialect, Positions, is_number, split_line


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published format. Its columns are user, item, strength, timestamp, in this order, as far as they
    exist.

    Attributes:
        files: The files that make up the data set.
        separator: Between fields; empty for runs of blanks.
        num_fields: Fields on every line.
        header: The first line, or None when the data start there.
    """

    files: tuple[str, ...]
    separator: str
    num_fields: int
    header: tuple[str, ...] | None = None


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


def find_files(path: Path, layout: str) -> tuple[str, list[Path]]:
    """Find the files to read and the layout that their names suggest.

    Args:
        path: A file, or the folder of a data set.
        layout: One of `LAYOUT_NAMES`.

    Returns:
        The layout ("generic" when no known one has such a file) and its files, in order.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: For an unknown layout, or a folder in which no file stands out.
    """
    if layout not in LAYOUT_NAMES:
        raise ValueError(
            f"expected data.layout to be one of {', '.join(LAYOUT_NAMES)}, got {layout!r}; choose one"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; set data.path to a data file or its folder")
    if path.is_file():
        return (layout_of_name(path.name) if layout == "auto" else layout), [path]
    names = list(LAYOUTS) if layout == "auto" else [layout] if layout in LAYOUTS else []
    for name in names:
        files = [path / file for file in LAYOUTS[name].files]
        if all(file.is_file() for file in files):
            return name, files
    return "generic", [_only_file(path, layout)]


def layout_of_name(file_name: str) -> str:
    """Return the layout that has a file of this name (a compression suffix aside), else "generic"."""
    for suffix in (".gz", ".bz2"):
        file_name = file_name.removesuffix(suffix)
    return next((name for name, layout in LAYOUTS.items() if file_name in layout.files), "generic")


def _only_file(folder: Path, layout: str) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if len(files) == 1 and layout not in LAYOUTS:
        return files[0]
    found = ", ".join(file.name for file in files[:10]) or "nothing"
    wanted = " and ".join(LAYOUTS[layout].files) if layout in LAYOUTS else "the files of a known layout"
    raise ValueError(f"{folder}: expected {wanted}, found {found}; set data.path to one file")


def matches(layout: Layout, first_line: str) -> bool:
    """Whether a file that starts with this line has this layout."""
    fields = split_line(first_line, layout.separator)
    if layout.header is not None:
        return tuple(fields) == layout.header
    return len(fields) == layout.num_fields and all(is_number(field) for field in fields)


def dialect_of(layout: Layout) -> Dialect:
    """Return how to take the files of a published layout apart."""
    num_fields = layout.num_fields
    return Dialect(
        separator=layout.separator,
        num_fields=num_fields,
        has_header=layout.header is not None,
        columns=Positions(0, 1, 2 if num_fields > 2 else None, 3 if num_fields > 3 else None),
    )
