"""The discrete Gaussian: its table and its composition against exact sums, and its draws."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from scipy import stats

from fcf_jax.channel.discrete_gaussian import discrete_gaussian, parts_of, thresholds
from fcf_jax.channel.noise import STD

KEY = jax.random.key(0)
UNIT = 1 << 96


def weights(std, values):
    return np.exp(-0.5 * (np.asarray(values, np.longdouble) / std) ** 2)


def probabilities(std):
    """Return the values of a table and their probabilities in units of 2^-96."""
    first, found = thresholds(std)
    return first + np.arange(len(found) + 1), np.diff([0, *found, UNIT])


@pytest.mark.parametrize("std", [0.3, 1.0, 40.0])
def test_table_holds_the_probabilities(std):
    values, found = probabilities(std)
    expected = weights(std, values) / np.sum(weights(std, values))
    np.testing.assert_allclose((found / UNIT).astype(float), expected.astype(float), rtol=0, atol=1e-18)


def test_table_of_the_noise_ends_where_a_draw_is_rarer_than_2_to_the_minus_96():
    """The table is rounded by less than a unit for each entry: all together 1e-24 of the probability."""
    factor, part = parts_of(STD)
    assert (factor, part) == (512, pytest.approx(1024.0))
    values, found = probabilities(part)
    assert np.all(found >= 0) and found[0] <= 1 and found[-1] <= 1
    assert float(Fraction(len(found), UNIT)) < 1e-24
    assert values[-1] > 11 * part


@pytest.mark.parametrize("std", [1100.0, 2000.0])
def test_two_parts_make_one_discrete_gaussian(std):
    factor, part = parts_of(std)
    values = np.arange(-math.ceil(9 * part), math.ceil(9 * part) + 1)
    one = weights(part, values)
    spread = np.zeros(factor * (len(values) - 1) + 1, np.longdouble)
    spread[::factor] = one
    both = np.convolve(spread, one)
    places = np.arange(len(both)) - len(both) // 2
    near = np.abs(places) <= 5 * std  # beyond, the values that this test leaves out are missing
    expected = weights(std, places)
    ratio = both[near] / expected[near]
    np.testing.assert_allclose((ratio / ratio[len(ratio) // 2]).astype(float), 1.0, rtol=1e-11)


@pytest.mark.parametrize("std", [0.5, 3.0, 700.0, 5e3, STD, 1e8])
def test_draws_have_the_distribution(std):
    draws = np.asarray(discrete_gaussian(KEY, (20_000,), std=std), np.float64)
    if std >= 700:
        assert stats.kstest(draws / std, "norm").pvalue > 1e-3
        return
    values = np.arange(-3, 4)
    expected = weights(std, values) / np.sum(weights(std, np.arange(-60, 61)))
    found = np.mean(draws[:, None] == values, axis=0)
    np.testing.assert_allclose(found, expected.astype(float), atol=0.02)  # five standard errors


def test_draws_repeat_with_their_key_and_differ_without():
    one, again = (np.asarray(discrete_gaussian(KEY, (50,), std=STD)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = np.asarray(discrete_gaussian(jax.random.key(1), (50,), std=STD))
    assert not np.any(one == other)


@pytest.mark.parametrize("std", [0.0, 2.0**28, math.nan])
def test_standard_deviations_out_of_range_are_refused(std):
    with pytest.raises(ValueError, match="standard deviation"):
        discrete_gaussian(KEY, std=std)
