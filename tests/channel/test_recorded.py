"""Rounds behind each channel compute what they did when clipping and noise were no links (`record.py`)."""

import numpy as np
import pytest
from channel import record

# of the largest number: other CPUs and versions of XLA fuse products and sums otherwise, and three rounds
# make up to 3e-5 of the last bits; operation by operation (`jax.disable_jit`) old and new were equal
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def found():
    return record.figures()


@pytest.fixture(scope="module")
def recorded():
    with np.load(record.FILE) as figures:
        return dict(figures)


def test_every_figure_is_recorded(found, recorded):
    assert sorted(found) == sorted(recorded)


def test_words_counts_and_cohorts_equal_the_recorded_ones(found, recorded):
    for name in (one for one in recorded if one.endswith("/whole")):
        np.testing.assert_array_equal(found[name], recorded[name], err_msg=name)


@pytest.mark.parametrize("channel", list(record.channels(record.DATA["small"])))
def test_real_numbers_agree_with_the_recorded_ones(found, recorded, channel):
    for name in (one for one in recorded if f"/{channel}/" in one and one.endswith("/real")):
        near = {"rtol": 0, "atol": TOLERANCE * np.nanmax(np.abs(recorded[name]), initial=0.0)}
        np.testing.assert_allclose(found[name], recorded[name], err_msg=name, **near)
