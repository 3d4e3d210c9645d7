"""Epsilon of several runs about the same users."""

import pytest

from fcf_jax.privacy.accounting import Participation, epsilon
from fcf_jax.privacy.composition import Release, composed_epsilon

EVERYBODY = Participation("everybody", 1000, 1000)
POISSON = Participation("poisson", 1000, 50)
FIXED = Participation("fixed_size", 1000, 50)
DELTA = 1e-4


@pytest.mark.parametrize("who", [EVERYBODY, POISSON, FIXED])
def test_one_run_costs_what_it_costs(who):
    alone = epsilon(who, noise_multiplier=3.0, num_rounds=4, delta=DELTA)
    assert composed_epsilon([Release(who, 3.0, 4)], delta=DELTA) == pytest.approx(alone)


@pytest.mark.parametrize("who", [EVERYBODY, POISSON, FIXED])
def test_two_runs_with_equal_noise_cost_one_of_all_rounds(who):
    """By the tighter of the accountants that cover both."""
    together = epsilon(who, noise_multiplier=3.0, num_rounds=10, delta=DELTA)
    found = composed_epsilon([Release(who, 3.0, 4), Release(who, 3.0, 6)], delta=DELTA)
    assert found == pytest.approx(together, rel=1e-3)  # steps of discretised losses


def test_runs_with_different_neighbors_are_refused():
    with pytest.raises(ValueError, match="compares the same neighbors"):
        composed_epsilon([Release(POISSON, 2.0, 5), Release(FIXED, 2.0, 5)], delta=DELTA)


def test_runs_without_rounds_cost_nothing():
    assert composed_epsilon([Release(EVERYBODY, 2.0, 0), Release(EVERYBODY, 4.0, 0)], delta=DELTA) == 0
