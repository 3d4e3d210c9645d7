"""Timestamps: numbers, dates and texts in every container give the same seconds, or are missing."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fcf_jax.data.formats.timestamps import to_seconds

NEW_YEAR = 1577836800  # 2020-01-01
DAY = datetime.date(2020, 1, 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2020-01-01", NEW_YEAR),
        (" 2020-01-01 ", NEW_YEAR),
        ("2020/01/01", NEW_YEAR),
        ("2020-01-01 00:00", NEW_YEAR),
        ("2020-01-01T00:00:00Z", NEW_YEAR),
        ("2020-01-01T01:00:00.999+01:00", NEW_YEAR),
        ("Wed Jan 01 00:00:00 +0000 2020", NEW_YEAR),
        ("1/1/2020 12:00:00 AM", NEW_YEAR),
        ("1577836800", NEW_YEAR),
        ("+1577836800.5", NEW_YEAR),
        ("1577836800999", NEW_YEAR),
        ("1.5778368e9", NEW_YEAR),
        ("-0.5", -1),
        ("20200101", 20200101),
        ("1600000000000000001", 1600000000),
        ("9223372036854775807", 9223372036),
        ("-9223372036854775807", -9223372037),
        *((text, None) for text in ("", "soon", "now", "today", "nan", "inf", "1e30", "12:00", "2020-02-30")),
        *((text, None) for text in ("1_000", "0x10", "1e400", "99999999999999999999", "12/1/2010 8:26")),
    ],
)
def test_texts_are_numbers_or_dates_or_missing(text, seconds):
    found = to_seconds([text, "7"])
    assert found.missing.tolist() == [seconds is None, False]
    assert found.values.tolist() == [seconds or 0, 7]


@pytest.mark.parametrize(
    "column",
    [
        np.array([NEW_YEAR], ">i4"),
        np.array([NEW_YEAR], np.uint64),
        np.array([NEW_YEAR + 0.5], np.longdouble),
        np.array([NEW_YEAR * 1000], np.int64),
        np.array([NEW_YEAR * 1e6]),
        np.array(["2020-01-01"]),
        np.array([b"2020-01-01"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array(["2020-01-01T00:00:00.9"], "M8[ms]"),
        [decimal.Decimal(NEW_YEAR)],
        pd.Series([DAY]),
        pd.Series(["2020-01-01"], dtype="category"),
        pd.Series(pd.to_datetime(["2020-01-01 01:00"]).tz_localize("Europe/Paris")),
        pa.array([DAY], pa.date64()),
        pa.chunked_array([[], ["2020-01-01"]], pa.string()),
    ],
    ids=lambda column: f"{type(column).__name__} {getattr(column, 'dtype', '')}",
)
def test_every_container_gives_the_same_seconds(column):
    found = to_seconds(column)
    assert found.values.dtype == np.int64
    assert (found.values.tolist(), found.missing.tolist()) == ([NEW_YEAR], [False])


@pytest.mark.parametrize(
    "column",
    [
        np.array([np.nan, np.inf, -np.inf, 1e19]),
        np.array([2**63, 2**64 - 1], np.uint64),
        np.array(["NaT"], "M8[ns]"),
        pd.Series([None, pd.NA], dtype="Int64"),
        pd.Series([None, None]),
        pa.array([None], pa.date32()),
    ],
    ids=str,
)
def test_what_is_no_moment_is_missing(column):
    found = to_seconds(column)
    assert found.missing.all() and not found.values.any()


def test_nullable_integers_never_pass_through_floats():
    assert to_seconds(pd.Series([2**53 - 1, None], dtype="Int64")).values[0] == (2**53 - 1) // 10**6


def test_units_of_numbers_change_at_the_stated_borders():
    borders = np.array([10**11 - 1, 10**11, 10**14 - 1, 10**14, 10**17 - 1, 10**17])
    expected = [10**11 - 1, 10**8, 10**11 - 1, 10**8, 10**11 - 1, 10**8]
    assert to_seconds(borders).values.tolist() == expected
    assert to_seconds(np.array([1e11, 1e14, 1e17])).values.tolist() == [10**8] * 3


@pytest.mark.parametrize(
    "column",
    [
        np.array([True]),
        np.array([1j]),
        np.zeros(1, [("a", int)]),
        np.array([b"\xff"]),
        np.zeros((2, 2)),
        [datetime.time(1)],
        [[1]],
        [1, "a"],
        np.array([{}], object),
    ],
    ids=str,
)
def test_columns_without_timestamps_are_refused(column):
    with pytest.raises(ValueError, match=r"expected .* got .*; convert"):
        to_seconds(column)
