"""Encoding of attributes as numbers: what each column was taken for, and how to encode new rows alike."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fcf_jax.data.formats.evidence import looks_like
from fcf_jax.data.formats.names import COMMON_NAMES, plain
from fcf_jax.data.formats.timestamps import to_seconds
from fcf_jax.messages import count_of

Kind = Literal["number", "plain", "category", "list", "bands"]
CONSTANT = "constant"

_MISSING = frozenset(("", "na", "n/a", "nan", "null", r"\n", "(no genres listed)"))
_LIST_SEPARATOR = "|"
_MOST_VALUES = 500  # of a column, each of which becomes a feature
_MOSTLY = 0.9  # of the values are numbers: then the others are mistakes
_IDS = ("zip", "zipcode", "postcode", "postalcode", "phone", "isbn", "url", "link")


@dataclasses.dataclass(frozen=True)
class ColumnCode:
    """How a column of attributes becomes features.

    Attributes:
        name: Of the column.
        kind: "number", standardized; "plain", a number as it is; "category", one feature for each value;
            "list", likewise for each part between bars; "bands", likewise for each range of numbers.
        values: Values that have a feature; for bands, the lower ends.
        mean: Subtracted from a number.
        scale: Divides a number, above 0.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, such as "age" or "gender=F"."""
        return tuple(f"{self.name}={value}" for value in self.values) or (self.name,)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode values as [rows, features]; a value that is missing or unknown gives zeros.

        Raises:
            BadValueError: For a text where a number is expected.
        """
        if self.kind in ("number", "plain"):
            numbers = _numbers(texts, self.name)
            coded = np.where(np.isnan(numbers), 0.0, (numbers - self.mean) / self.scale)
            return coded[:, None].astype(np.float32)
        places = {value: place for place, value in enumerate(self.values)}
        encoded = np.zeros((len(texts), len(self.values)), np.float32)
        for row, parts in enumerate(self.parts(texts)):
            known = [places[part] for part in parts if part in places]
            encoded[row, known] = 1.0
        return encoded

    def parts(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the values in each text: one, several of a list, or none if it is missing.

        Raises:
            BadValueError: For a text where a number is expected.
        """
        if self.kind != "bands":
            return [_parts(text, is_list=self.kind == "list") for text in texts]
        numbers, edges = _numbers(texts, self.name), np.array(self.values, float)
        bands = np.maximum(np.searchsorted(edges, numbers, side="right") - 1, 0)
        return [
            [] if np.isnan(one) else [self.values[band]] for one, band in zip(numbers, bands, strict=True)
        ]

    @property
    def meaning(self) -> str:
        """What the column was taken for, in a word or two."""
        counts = {"category": "value", "list": "value", "bands": "band"}
        return f"{self.name} ({count_of(len(self.values), counts[self.kind])})" if self.values else self.name


class BadValueError(ValueError):
    """A value that is not what its column holds, with its row (0-based)."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def find_code(name: str, texts: Sequence[str], kind: Kind | None = None) -> ColumnCode | str:
    """Find out how to encode a column from its values.

    Args:
        name: Of the column.
        texts: A value for each row.
        kind: If it is known; None: found by name and values.

    Returns:
        The code, or why the column is left out: "all alike", "times", "ids" or "795 values in 943 rows".

    Raises:
        BadValueError: For a value that is no number in a column of numbers.
    """
    present = [text.strip() for text in texts if text.strip().lower() not in _MISSING]
    distinct = sorted(set(present))
    if len(distinct) < 2:
        return "all alike" if distinct else "empty"
    if kind is None and (reason := _no_feature(name, distinct)):
        return reason
    if kind is None and _are_numbers(present):
        kind = "plain" if set(distinct) <= {"0", "1"} else "number"
    if kind == "number":
        numbers = _numbers(texts, name)
        return ColumnCode(name, "number", (), float(np.nanmean(numbers)), float(np.nanstd(numbers)) or 1.0)
    if kind == "plain":
        return ColumnCode(name, "plain")
    if kind is None:
        kind = "list" if any(_LIST_SEPARATOR in value for value in distinct) else "category"
    values = {part for text in present for part in _parts(text, is_list=kind == "list")}
    occurrences = sum(len(_parts(text, is_list=kind == "list")) for text in present)
    if len(values) > min(_MOST_VALUES, max(occurrences / 2, 2)) or len(values) == occurrences:
        return f"{count_of(len(values), 'value')} in {count_of(len(texts), 'row')}"
    in_order = sorted(
        values, key=lambda one: (float(one), one) if looks_like("number", [one]) else (0.0, one)
    )
    return ColumnCode(name, kind, tuple(in_order))


def banded(name: str, edges: Sequence[int]) -> ColumnCode:
    """Return the code of a column of numbers that is divided at these lower ends."""
    return ColumnCode(name, "bands", tuple(map(str, edges)))


def encode_rows(codes: Sequence[ColumnCode], rows: Sequence[Mapping[str, str]]) -> npt.NDArray[np.float32]:
    """Encode rows of named values as [rows, features], the constant first; absent values give zeros.

    Raises:
        BadValueError: For a text where a number is expected.
    """
    parts = [code.encode([row.get(code.name, "") for row in rows]) for code in codes]
    return np.concatenate([np.ones((len(rows), 1), np.float32), *parts], axis=1)


def feature_names(codes: Sequence[ColumnCode]) -> tuple[str, ...]:
    """Return the names of all features, the constant first."""
    return (CONSTANT, *(name for code in codes for name in code.feature_names))


def _parts(text: str, *, is_list: bool) -> list[str]:
    found = text.split(_LIST_SEPARATOR) if is_list else [text]
    return [part.strip() for part in found if part.strip().lower() not in _MISSING]


def _no_feature(name: str, distinct: Sequence[str]) -> str:
    """Return why a column says nothing about an entity that others share; "" if it may."""
    known = plain(name)
    if known in COMMON_NAMES["timestamp"] or known.endswith("date"):
        return "times"
    if known.endswith("id") or known in _IDS:
        return "ids"
    if not looks_like("number", distinct) and not to_seconds(list(distinct)).missing.any():
        return "times"
    return ""


def _are_numbers(present: Sequence[str]) -> bool:
    return sum(looks_like("number", [value]) for value in present) > _MOSTLY * len(present)


def _numbers(texts: Sequence[str], name: str) -> npt.NDArray[np.float64]:
    """Return texts as numbers, NaN where one is missing."""
    numbers = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        text = text.strip()
        if text.lower() in _MISSING:
            continue
        if not looks_like("number", [text]):
            raise BadValueError(row, f"expected a number as {name}, got {text[:40]!r}; correct it")
        numbers[row] = float(text)
    if not np.all(np.isfinite(numbers) | np.isnan(numbers)):  # 1e999
        row = int(np.argmax(np.isinf(numbers)))
        raise BadValueError(row, f"expected a finite number as {name}, got {texts[row][:40]}; correct it")
    return numbers
