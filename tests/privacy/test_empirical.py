"""Lower bounds on epsilon from scores whose true epsilon is known."""

import dp_accounting
import numpy as np
import pytest

from fcf_jax.privacy.empirical import epsilon_at_least, gaussian_epsilon_at_least

DELTA = 1e-5


def scores(mu, num_worlds, seed=0):
    """Draw log likelihood ratios of a Gaussian mechanism with and without the client."""
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(mu, 1, num_worlds), rng.normal(0, 1, num_worlds)
    return mu * inside - mu**2 / 2, mu * outside - mu**2 / 2


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_gaussian_bound_is_below_the_truth_and_above_half_of_it(mu):
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, DELTA)
    found = [gaussian_epsilon_at_least(*scores(mu, 4000, seed), delta=DELTA) for seed in range(10)]
    assert 0.5 * truth < min(found) and max(found) <= truth


@pytest.mark.parametrize("mu", [1.0, 3.0])
def test_bound_for_any_mechanism_is_below_the_truth_and_above_zero(mu):
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, DELTA)
    found = [epsilon_at_least(*scores(mu, 1000, seed), delta=DELTA) for seed in range(5)]
    assert 0.2 * truth < np.median(found) and max(found) <= truth


def test_either_world_may_be_the_one_that_is_detected():
    """A score of 1 that only runs without the client reach."""
    inside, outside = np.zeros(1000), np.r_[np.zeros(500), np.ones(500)]
    rng = np.random.default_rng(0)
    assert epsilon_at_least(inside, -rng.permutation(outside), delta=0.0) > 4


def test_nothing_is_found_where_there_is_nothing_or_too_little():
    assert gaussian_epsilon_at_least(*scores(0.0, 1000), delta=DELTA) == 0.0
    assert epsilon_at_least(*scores(0.0, 1000), delta=DELTA) < 0.3
    for few in (1, 2, 8):
        assert epsilon_at_least(*scores(1.0, few), delta=DELTA) >= 0.0
