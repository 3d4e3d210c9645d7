"""Side features of users or items: one row of numbers for each label, read from attributes."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32

from fcf_jax.data.encoding import (
    CONSTANT,
    BadValueError,
    ColumnCode,
    banded,
    encode_rows,
    feature_names,
    find_code,
)
from fcf_jax.data.formats.attributes import Attributes, Entity, attributes_of_frame, read_attributes
from fcf_jax.data.labels import labels_of
from fcf_jax.data.rows import first_of
from fcf_jax.data.selection import positions_of
from fcf_jax.messages import count_of

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 6  # columns in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Side features of users or items.

    The first feature is the constant 1, so that the prior of an entity without attributes is the mean of
    all. Categories have one feature for each value, lists one for each part, numbers are standardized.

    Attributes:
        labels: Label of each row, as a text or an integer, each once.
        matrix: Features of each row.
        names: Of the features, such as "constant", "age", "gender=F".
        codes: How attributes become features; empty for an array, whose numbers are taken as they are.
        left_out: Columns that are no features, by name, with the reason.
    """

    labels: np.ndarray
    matrix: Float32[np.ndarray, "rows features"]
    names: tuple[str, ...]
    codes: tuple[ColumnCode, ...] = ()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_frame(cls, frame: "pd.DataFrame", *, entity: Entity) -> "Features":
        """Encode the attributes of a DataFrame.

        Args:
            frame: A row for each user or item, with the label in its index or in a column with a usual name,
                otherwise in the first column.
            entity: "user" or "item".

        Raises:
            ValueError: For a label that is missing or repeated, or no column that is a feature.

        Example:
            >>> import pandas as pd
            >>> people = pd.DataFrame({"user": ["ann", "bob", "cy", "di"], "gender": ["f", "m", "m", "f"]})
            >>> Features.from_frame(people, entity="user").names
            ('constant', 'gender=f', 'gender=m')
        """
        return _encoded(attributes_of_frame(frame, entity))

    @classmethod
    def from_array(
        cls,
        matrix: npt.ArrayLike,
        *,
        labels: npt.ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> "Features":
        """Take numbers as they are, and add the constant.

        Args:
            matrix: [entities, features], finite.
            labels: Of the rows; None: their numbers.
            names: Of the features; None: their numbers.

        Raises:
            ValueError: For another shape, numbers that are not finite, or labels that repeat.
        """
        numbers = np.asarray(matrix, np.float32)
        if numbers.ndim != 2 or not np.isfinite(numbers).all():
            raise ValueError(
                f"expected finite features [entities, features], got an array of shape {numbers.shape}"
                f"{'' if numbers.ndim != 2 else ' with NaN or inf'}; correct it"
            )
        labels = np.arange(len(numbers)) if labels is None else np.asarray(labels)
        names = [str(column) for column in range(numbers.shape[1])] if names is None else names
        if np.unique(labels).size != len(numbers) or len(names) != numbers.shape[1]:
            raise ValueError(
                f"expected {len(numbers)} labels, each once, and {numbers.shape[1]} names, got "
                f"{np.unique(labels).size} different labels and {len(names)} names; correct them"
            )
        codes = tuple(ColumnCode(str(name), "plain") for name in names)
        constant = np.ones((len(numbers), 1), np.float32)
        return cls(labels, np.concatenate([constant, numbers], axis=1), feature_names(codes), codes)

    @property
    def num_features(self) -> int:
        """Number of features, with the constant."""
        return len(self.names)

    def of(self, labels: npt.ArrayLike) -> Float32[np.ndarray, "entities features"]:
        """Return the features of these entities: of one that has none, all but the constant are 0."""
        places = positions_of(labels, self.labels)
        found = self.matrix[np.maximum(places, 0)]
        return np.where(places[:, None] >= 0, found, _unknown_row(self.num_features)).astype(np.float32)

    def num_missing(self, labels: npt.ArrayLike) -> int:
        """Count the entities that have no features."""
        return int(np.sum(positions_of(labels, self.labels) < 0))

    def others(self, labels: npt.ArrayLike) -> np.ndarray:
        """Return the labels that have features and are not among these: new users or items."""
        return self.labels[positions_of(self.labels, labels) < 0]

    def check_some_known(self, labels: npt.ArrayLike, *, entity: Entity) -> None:
        """Refuse features of other entities altogether.

        Raises:
            ValueError: If no label has features.
        """
        labels = np.asarray(labels)
        if labels.size and self.num_missing(labels) == labels.size:
            raise ValueError(
                f"expected features of the {count_of(labels.size, entity)} of the data, which are "
                f"{first_of(labels)}, got those of {first_of(self.labels)}; check the ids"
            )

    @property
    def summary(self) -> str:
        """What was taken for features, and what was left out."""
        shown = [code.meaning for code in self.codes[:_SHOWN]]
        rest = len(self.codes) - len(shown)
        taken = ", ".join(shown) + (f" and {count_of(rest, 'other')}" if rest else "")
        left_out = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return f"{taken}: {count_of(self.num_features, 'column')}" + (left_out and f"; left out: {left_out}")


def read_features(
    path: str | PathLike[str], *, entity: Entity, codes: Sequence[ColumnCode] | None = None
) -> Features:
    """Read side features from a table of attributes.

    Text with a header (CSV, TSV, `;`, `|`), Parquet, and the files of MovieLens as they are: `u.user`,
    `u.item`, `users.dat`, `movies.dat`. Numbers are standardized, texts become categories, and texts with
    bars between their parts lists. Ids, times, columns whose values are all alike, and texts with more than
    500 values or more than half as many as rows are left out.

    Args:
        path: The file.
        entity: Whose features: "user" or "item".
        codes: How other attributes became features, `Features.codes`, for a model that was trained on those;
            None: found from the values.

    Raises:
        ValueError: In one line, with FILE:LINE where there is one, the fault and the remedy.
        OSError: If the file cannot be read.
    """
    return _encoded(read_attributes(Path(path), entity), codes)


def new_rows(
    codes: Sequence[ColumnCode], rows: Sequence[Mapping[str, str]]
) -> Float32[np.ndarray, "rows features"]:
    """Encode the attributes of new entities as those of known ones were.

    Args:
        codes: `Features.codes` of the known entities.
        rows: Values by the name of their column; absent ones count as missing.

    Raises:
        BadValueError: For a text where a number is expected, a column that is no feature, or a value that no
            known entity has.
    """
    by_name = {code.name: code for code in codes}
    for row, values in enumerate(rows):
        for name, value in values.items():
            if name not in by_name:
                raise BadValueError(row, f"expected one of {', '.join(by_name)}, got {name!r}; correct it")
            _check_known(row, by_name[name], value)
    return encode_rows(codes, rows)


def _check_known(row: int, code: ColumnCode, value: str) -> None:
    parts = code.parts([value])[0] if code.values else []
    if unknown := [part for part in parts if part not in code.values]:
        known = ", ".join(code.values[:30])
        raise BadValueError(row, f"expected {code.name} to be one of {known}, got {unknown[0]!r}; correct it")


def _unknown_row(num_features: int) -> Float32[np.ndarray, "features"]:
    return np.eye(1, num_features, dtype=np.float32)[0]


def _encoded(table: Attributes, codes: Sequence[ColumnCode] | None = None) -> Features:
    left_out: dict[str, str] = {}
    try:
        if codes is None:
            codes, left_out = _codes_of(table)
        rows = [
            dict(zip(table.columns, values, strict=True))
            for values in zip(*table.columns.values(), strict=True)
        ]
        matrix = encode_rows(codes, rows)
    except BadValueError as error:
        raise ValueError(f"{table.place(error.row)}: {error}") from error
    if not any(code.name in table.columns for code in codes):
        wanted = ", ".join(code.name for code in codes) or "attributes"
        found = ", ".join(f"{name} ({left_out[name]})" if left_out else name for name in table.columns)
        raise ValueError(f"{table.where}: expected a column of {wanted}, got none among {found}; add one")
    labels = labels_of(table.labels)
    names = feature_names(codes)
    return Features(labels.distinct[labels.codes], matrix, names, tuple(codes), left_out)


def _codes_of(table: Attributes) -> tuple[list[ColumnCode], dict[str, str]]:
    """Return the codes of columns that are features, and why the others are not."""
    found = {name: _code_of(table, name, texts) for name, texts in table.columns.items()}
    codes = [code for code in found.values() if isinstance(code, ColumnCode)]
    return codes, {name: reason for name, reason in found.items() if isinstance(reason, str)}


def _code_of(table: Attributes, name: str, texts: Sequence[str]) -> ColumnCode | str:
    known = table.known
    if name == CONSTANT:
        return "there is one already"
    if known is not None and name in known.bands:
        return banded(name, known.bands[name])
    if known is not None and name in known.categories:
        return find_code(name, texts, "category")
    return find_code(name, texts)
