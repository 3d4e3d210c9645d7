"""Tables of attributes: a label and some values, as texts, for each user or item."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fcf_jax.data.arrow import as_arrow, compute
from fcf_jax.data.formats.columnar import reading
from fcf_jax.data.formats.evidence import looks_like
from fcf_jax.data.formats.names import find_common, plain
from fcf_jax.data.formats.records import RecordError, records
from fcf_jax.data.formats.separators import first_lines, inferred_separator, split_fields
from fcf_jax.data.formats.text import Text, read_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Entity = Literal["user", "item"]
MOVIELENS_AGES = (1, 18, 25, 35, 45, 50, 56)
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


class AttributeFile(NamedTuple):
    """File of a published data set whose columns have no names.

    Attributes:
        separator: Between columns.
        columns: Names of the columns; the first is the label.
        categories: Columns of numbers that are codes of categories.
        bands: Columns of numbers that are divided into ranges, by their lower ends.
    """

    separator: str
    columns: tuple[str, ...]
    categories: tuple[str, ...] = ()
    bands: Mapping[str, Sequence[int]] = {}


_AGES = {"age": MOVIELENS_AGES}
ATTRIBUTE_FILES: Mapping[str, AttributeFile] = {
    "u.user": AttributeFile("|", ("user_id", "age", "gender", "occupation", "zip"), bands=_AGES),
    "u.item": AttributeFile("|", ("item_id", "title", "release_date", "video_release_date", "url", *_GENRES)),
    "users.dat": AttributeFile(
        "::", ("user_id", "gender", "age", "occupation", "zip"), categories=("occupation",), bands=_AGES
    ),
    "movies.dat": AttributeFile("::", ("item_id", "title", "genres")),
}


class Attributes(NamedTuple):
    """Attributes of users or items.

    Attributes:
        where: File or "DataFrame", for messages.
        labels: Label of each row.
        columns: Texts of each row, by name.
        lines: Number of the line of each row; empty if rows are counted from 0.
        known: What the columns of a published file hold.
    """

    where: str
    labels: list[str]
    columns: dict[str, list[str]]
    lines: Sequence[int] = ()
    known: AttributeFile | None = None

    def place(self, row: int) -> str:
        """Return where a row stands, for messages."""
        return f"{self.where}:{self.lines[row]}" if self.lines else f"{self.where}: row {row} (0-based)"


def read_attributes(path: Path, entity: Entity) -> Attributes:
    """Read a table of attributes: text with a header, a file of MovieLens, or Parquet.

    The labels are in the column with a usual name for ids of users or items, otherwise in the first.

    Args:
        path: The file.
        entity: Whose attributes.

    Raises:
        ValueError: In one line, with FILE:LINE where there is one, the fault and the remedy.
        OSError: If the file cannot be read.
    """
    if path.suffix == ".parquet":
        import pandas as pd

        with reading(path, "Parquet file"):
            frame = pd.read_parquet(path)
        return attributes_of_frame(frame, entity, where=str(path))
    text = read_text(path)
    number, lines = first_lines(text.head)
    if not lines:
        raise ValueError(f"{path}: expected attributes, found an empty file; choose another file")
    known = ATTRIBUTE_FILES.get(text.file_name.removesuffix(".gz"))
    if known is not None:
        return _checked(_of_text(path, text, known.separator, known.columns)._replace(known=known), entity)
    separator = inferred_separator(lines)
    names = split_fields(lines[0], separator)
    if any(looks_like("number", [name]) for name in names):
        raise ValueError(
            f"{path}:{number}: expected a header of column names, got {lines[0][:60]!r}; add one"
        )
    return _checked(_of_text(path, text, separator, names, header_line=number), entity)


def attributes_of_frame(frame: "pd.DataFrame", entity: Entity, *, where: str = "DataFrame") -> Attributes:
    """Take the attributes of a DataFrame; the levels of a named index count as columns.

    Raises:
        ValueError: For a column that Arrow has no type for, or labels that are missing or repeated.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    columns = {str(name): _texts(where, str(name), column) for name, column in frame.items()}
    if len(columns) < frame.shape[1]:
        raise ValueError(f"{where}: expected every column once, got one twice; rename it")
    return _checked(Attributes(where, [], columns), entity)


def _texts(where: str, name: str, column: Any) -> list[str]:
    try:
        return _as_texts(as_arrow(column)).fill_null("").to_pylist()
    except ValueError as error:
        raise ValueError(f"{where}: column {name}: {error}") from error


def _as_texts(array: "pa.Array") -> "pa.Array":
    """Return values as texts: whole numbers without a point, booleans as 1 and 0, lists with bars."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return compute().binary_join(array.cast(pa.list_(pa.string())), "|")
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        if np.all(np.isnan(values) | (np.floor(values) == values)) and not np.isinf(values).any():
            array = compute().if_else(compute().is_nan(array), None, array).cast(pa.int64(), safe=False)
    return array.cast(pa.string())


def _of_text(
    path: Path, text: Text, separator: str, names: Sequence[str], *, header_line: int = 0
) -> Attributes:
    """Return the columns of a text table, whose rows begin after the line of the header."""
    rows, lines = [], []
    try:
        for record in records(text.content.decode(), separator, has_quotes=separator in (",", ";", "\t")):
            if record.line <= header_line:
                continue
            if record.rest or len(record.fields) != len(names):
                got = "open quotes" if record.rest else len(record.fields)
                raise ValueError(
                    f"{path}:{record.line}: expected {len(names)} fields separated by {separator or ' '!r}, "
                    f"got {got}; correct the line"
                )
            rows.append(record.fields)
            lines.append(record.line)
    except RecordError as error:
        raise ValueError(f"{path}:{error.line}: {error}; close the quotes or remove the line") from error
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}
    if len(columns) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"{path}:{header_line}: expected every column once, got {twice!r} twice; rename one")
    return Attributes(str(path), [], columns, lines)


def _checked(table: Attributes, entity: Entity) -> Attributes:
    """Take the labels out of the columns; refuse a missing or repeated one, and a table without rows."""
    names = list(table.columns)
    other: Entity = "item" if entity == "user" else "user"
    if len(names) < 2:
        raise ValueError(
            f"{table.where}: expected a column of {entity} ids and others of attributes, got "
            f"{', '.join(names)}; separate the columns with commas or tabs"
        )
    place = 0 if plain(names[0]) == "id" else find_common(entity, names)
    if place is None and find_common(other, names) == 0:
        raise ValueError(
            f"{table.where}: expected attributes of {entity}s, got a column {names[0]}; choose another "
            f"file, or set data.{other}_features"
        )
    columns = dict(table.columns)
    labels = columns.pop(names[place or 0])
    first: dict[str, int] = {}
    for row, label in enumerate(labels):
        if not label:
            raise ValueError(
                f"{table.place(row)}: expected a {entity} id, got none; add it or remove the row"
            )
        if label in first:
            before = f"line {table.lines[first[label]]}" if table.lines else f"row {first[label]}"
            raise ValueError(
                f"{table.place(row)}: expected each {entity} once, got {label[:40]!r} again after {before}; "
                "remove one of them"
            )
        first[label] = row
    if not labels:
        raise ValueError(f"{table.where}: expected attributes of {entity}s, got none; choose another file")
    return table._replace(labels=labels, columns=columns)
