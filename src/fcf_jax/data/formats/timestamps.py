"""Timestamps of any form as whole Unix seconds: numbers, dates, date-times and their texts.

One definition for every reader:

- A number counts since 1970: seconds below 1e11, milliseconds from 1e11, microseconds from 1e14, nanoseconds
  from 1e17. Each border is March 1973 in the finer unit and beyond the year 5000 in the coarser one.
  Fractions of a second are rounded down.
- A date or a date-time without a zone is in UTC.
- A text is a number, an ISO 8601 date or date-time (2020-01-31, 2020-01-31T23:59:59.5+01:00), or in one of
  `FORMATS`. All digits is a number, never a date such as 20200131.
- Everything else is missing: NaN, infinities, empty texts, times of day without a date, years outside of 1678
  to 2261 as text.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.arrow import as_arrow, compute

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = (  # of `strftime`; none in which day and month could be mistaken for each other
    "%a %b %d %H:%M:%S %z %Y",  # Tue Apr 03 18:00:06 +0000 2012
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%m/%d/%Y %I:%M:%S %p",  # am and pm are written where the month comes first
)
EXPECTED = "a timestamp in Unix seconds, milliseconds, or as ISO date"

_FINER_UNITS = (10**11, 10**14, 10**17)  # from here on, a number is in milli-, micro- and nanoseconds
_MAX = 2.0**63  # int64
_INTEGER = r"^[+-]?[0-9]{1,18}$"  # fits int64
_LONG_INTEGER = r"^[+-]?[0-9]{19}$"  # perhaps fits
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_YEAR_FIRST = r"^[0-9]{4}[-/][0-9]"
_DIGIT = "[0-9]"  # pandas takes "now" and "today" for dates of any format


class Seconds(NamedTuple):
    """Timestamps and which of them are missing.

    Attributes:
        values: int64 [rows], seconds since 1970-01-01 UTC; 0 where missing.
        missing: bool [rows].
    """

    values: npt.NDArray[np.int64]
    missing: npt.NDArray[np.bool_]


def to_seconds(column: Any, *, formats: tuple[str, ...] = FORMATS) -> Seconds:
    """Convert a column to Unix seconds, as the module describes.

    Args:
        column: NumPy array, pandas Series, Arrow array or list [rows]: numbers, dates, date-times or texts.
        formats: Formats of `strftime` for texts that are neither a number nor ISO 8601.

    Raises:
        ValueError: For a type that holds no timestamps, such as bool or a time of day.

    Example:
        >>> to_seconds(["2020-01-01", "1577836800000", "soon"]).values.tolist()
        [1577836800, 1577836800, 0]
    """
    import pyarrow as pa

    array = as_arrow(column)
    kind = array.type
    if pa.types.is_integer(kind):
        return _of_integers(array)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _of_floats(_floats(array))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _of_dates(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts(array, formats)
    if pa.types.is_null(kind):
        return _nothing(len(array))
    raise ValueError(f"expected timestamps as numbers, dates or texts, got {kind}; convert the column")


def _of_integers(array: "pa.Array") -> Seconds:
    import pyarrow as pa

    missing = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_uint64(array.type):
        missing = missing | compute().greater_equal(array, pa.scalar(2**63, pa.uint64())).fill_null(
            True
        ).to_numpy(zero_copy_only=False)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if missing.any():
        values = np.where(missing, 0, values)
    return Seconds(_scaled(values.astype(np.int64, copy=False)), missing)


def _scaled(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if len(values) == 0 or max(-float(values.min()), float(values.max())) < _FINER_UNITS[0]:
        return values  # seconds, without another array
    steps = sum(((values >= border) | (values <= -border)).astype(np.int64) for border in _FINER_UNITS)
    return values // 1000**steps


def _floats(array: "pa.Array") -> npt.NDArray[np.float64]:
    import pyarrow as pa

    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)  # nulls become NaN


def _of_floats(values: npt.NDArray[np.float64]) -> Seconds:
    missing = ~(np.abs(values) < _MAX)  # also NaN
    numbers = np.where(missing, 0.0, values)
    sizes = np.abs(numbers)
    unit = np.power(1000.0, sum((sizes >= border).astype(np.float64) for border in _FINER_UNITS))
    return Seconds(np.floor(numbers / unit).astype(np.int64), missing)


def _of_dates(array: "pa.Array") -> Seconds:
    import pyarrow as pa

    missing = array.is_null().to_numpy(zero_copy_only=False)
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    unit = "s" if pa.types.is_date32(array.type) else "ms"
    if pa.types.is_timestamp(array.type):
        unit = array.type.unit
    ticks = array.cast(pa.timestamp(unit)) if pa.types.is_date(array.type) else array
    values = ticks.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return Seconds(values // per_second[unit], missing)


def _of_texts(array: "pa.Array", formats: tuple[str, ...]) -> Seconds:
    import pyarrow as pa

    texts = compute().utf8_trim_whitespace(array)
    result = _nothing(len(texts))
    _fill(result, texts, _INTEGER, lambda chosen: _of_integers(_unsigned(chosen).cast(pa.int64())))
    _fill(result, texts, _LONG_INTEGER, _of_long_integers)
    _fill(result, texts, _NUMBER, lambda chosen: _of_floats(_floats(_unsigned(chosen))))
    _fill(result, texts, _YEAR_FIRST, lambda chosen: _of_dates_in(chosen, "ISO8601"))
    for date_format in formats:
        _fill(result, texts, _DIGIT, lambda chosen, form=date_format: _of_dates_in(chosen, form))
    return result


def _fill(result: Seconds, texts: "pa.Array", pattern: str, convert: Any) -> None:
    """Convert in place the texts that are still missing and match the pattern."""
    import pyarrow as pa

    if not result.missing.any():
        return
    chosen = result.missing & compute().match_substring_regex(texts, pattern).fill_null(False).to_numpy(
        zero_copy_only=False
    )
    if chosen.any():
        found = convert(texts if chosen.all() else texts.filter(pa.array(chosen)))
        result.values[chosen] = found.values
        result.missing[chosen] = found.missing


def _of_long_integers(texts: "pa.Array") -> Seconds:
    import pyarrow as pa

    sizes = compute().utf8_ltrim(texts, "+-").cast(pa.uint64()).to_numpy()
    is_negative = compute().starts_with(texts, "-").to_numpy(zero_copy_only=False)
    missing = sizes >= np.uint64(2**63)
    values = np.where(missing, 0, sizes).astype(np.int64)
    return Seconds(_scaled(np.where(is_negative, -values, values)), missing)


def _unsigned(texts: "pa.Array") -> "pa.Array":
    return compute().utf8_ltrim(texts, "+")  # Arrow parses no plus sign


def _of_dates_in(texts: "pa.Array", date_format: str) -> Seconds:
    import pandas as pd

    dates = pd.to_datetime(texts.to_pandas(), format=date_format, utc=True, errors="coerce")
    missing = dates.isna().to_numpy()
    return Seconds(dates.dt.as_unit("s").astype(np.int64).where(~missing, 0).to_numpy(), missing)


def _nothing(num_rows: int) -> Seconds:
    return Seconds(np.zeros(num_rows, np.int64), np.ones(num_rows, np.bool_))
