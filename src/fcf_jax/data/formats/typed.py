"""Rules for columns that have types: what ids, strengths and timestamps may be, and which rows are bad."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.arrow import compute
from fcf_jax.data.formats.evidence import EVENT_WEIGHTS, PLAIN_NUMBERS, Meaning, event_word
from fcf_jax.data.formats.table import MAX_STRENGTH
from fcf_jax.data.formats.timestamps import EXPECTED, to_seconds

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_EXACT_FLOAT = 2.0**53  # from here on, distinct integers may be the same float64


class Checked(NamedTuple):
    """Rows, and which of them are bad.

    Attributes:
        users: Integers or texts.
        items: Integers or texts.
        strengths: float64; NaN where it is no number. None if there are none.
        timestamps: int64, seconds. None if there are none.
        bad: bool [rows].
        causes: For each cause of a bad row: where it applies, the kind of column, and what was expected.
        given: The columns as they were.
    """

    users: "pa.Array"
    items: "pa.Array"
    strengths: npt.NDArray[np.float64] | None
    timestamps: npt.NDArray[np.int64] | None
    bad: npt.NDArray[np.bool_]
    causes: tuple[tuple[npt.NDArray[np.bool_], str, str], ...]
    given: Mapping[str, "pa.Array"]

    def problem(self, row: int) -> str:
        """Return what is wrong with a bad row."""
        kind, expected = next((kind, expected) for mask, kind, expected in self.causes if mask[row])
        return f"expected {expected}, got {self.given[kind][row].as_py()!r:.60}"


def check_rows(
    columns: Mapping[str, "pa.Array"], *, implicit: bool, meaning: Meaning = PLAIN_NUMBERS
) -> Checked:
    """Check rows of user, item and perhaps strength and timestamp.

    Args:
        columns: By kind, of equal length.
        implicit: Whether a row with a negative strength is bad.
        meaning: Of words and special numbers among the strengths; "seen, not rated" is never negative.

    Raises:
        ValueError: For a column of another type, beginning with its kind.
    """
    users, no_user = _ids("user", columns["user"])
    items, no_item = _ids("item", columns["item"])
    causes = [(no_user, "user", "a user id"), (no_item, "item", "an item id")]
    strengths = timestamps = None
    if "strength" in columns:
        strengths = _strengths(columns["strength"], meaning.weights or EVENT_WEIGHTS)
        causes.append((~(np.abs(strengths) < MAX_STRENGTH), "strength", "a finite number as strength"))
        negative = (strengths < 0) & ~np.isin(strengths, meaning.unrated or ()) & implicit
        expected = (
            "a strength >= 0 for implicit feedback (data.feedback = explicit is for ratings, "
            "data.strength_values for numbers that mean seen)"
        )
        causes.append((negative, "strength", expected))
    if "timestamp" in columns:
        try:
            timestamps, missing = to_seconds(columns["timestamp"])
        except ValueError as error:
            raise ValueError(f"timestamp: {error}") from error
        causes.append((missing, "timestamp", EXPECTED))
    bad = np.logical_or.reduce([mask for mask, _, _ in causes])
    return Checked(users, items, strengths, timestamps, bad, tuple(causes), columns)


def _ids(kind: str, column: "pa.Array") -> tuple["pa.Array", npt.NDArray[np.bool_]]:
    """Return ids as integers or texts, and where there is none."""
    import pyarrow as pa

    types = pa.types
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if types.is_integer(column.type):
        return column.fill_null(0).cast(pa.uint64() if types.is_uint64(column.type) else pa.int64()), missing
    if types.is_floating(column.type):
        return _of_floats(column)
    if types.is_null(column.type):
        return pa.array([""] * len(column)), missing
    is_text = types.is_string(column.type) or types.is_large_string(column.type)
    others = (types.is_boolean, types.is_decimal, types.is_temporal)
    if not is_text and not any(is_other(column.type) for is_other in others):
        raise ValueError(f"{kind}: expected ids as integers or texts, got {column.type}; convert the column")
    texts = column.cast(pa.string()).fill_null("")
    unusable = compute().match_substring_regex(texts, r"^\s*$|\x00").to_numpy(zero_copy_only=False)
    return texts, missing | unusable


def _of_floats(column: "pa.Array") -> tuple["pa.Array", npt.NDArray[np.bool_]]:
    """Return whole numbers as integers, as pandas makes floats of integers beside a missing one."""
    import pyarrow as pa

    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    missing = ~np.isfinite(numbers)
    whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < _MAX_EXACT_FLOAT)
    if (whole | missing).all():
        return pa.array(np.where(missing, 0, numbers).astype(np.int64)), missing
    texts = [
        str(int(number)) if is_whole else str(number)
        for number, is_whole in zip(numbers.tolist(), whole.tolist(), strict=True)
    ]
    return pa.array(texts, pa.string()), missing


def _strengths(column: "pa.Array", weights: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """Return numbers, or the weights of events; NaN for what is neither."""
    import pyarrow as pa

    types = pa.types
    if types.is_null(column.type):
        return np.full(len(column), np.nan)
    if types.is_string(column.type) or types.is_large_string(column.type):
        words = column.dictionary_encode()
        numbers = [_number(word, weights) for word in words.dictionary.to_pylist()]
        codes = words.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        return np.array([*numbers, np.nan], np.float64)[codes]
    if not any(
        is_number(column.type)
        for is_number in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    ):
        raise ValueError(f"strength: expected numbers as strengths, got {column.type}; convert the column")
    numbers = column.cast(pa.int8()) if types.is_boolean(column.type) else column
    return numbers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _number(text: str, weights: Mapping[str, float]) -> float:
    try:
        return weights.get(event_word(text), np.nan) if "_" in text else float(text)
    except ValueError:
        return weights.get(event_word(text), np.nan)
