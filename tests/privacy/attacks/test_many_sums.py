"""Sums of many rounds solved for the histories."""

import numpy as np
import pytest

from fcf_jax.privacy.attacks.many_sums import find_held, members_of, scores_of_uploads, solve_sums

RNG = np.random.default_rng(0)
HELD = RNG.random((40, 15)) < 0.15
COHORTS = np.concatenate([RNG.permutation(40).reshape(4, 10) for _ in range(20)])


def attack(num_rounds, numbers, **options):
    members = members_of(COHORTS[:num_rounds], num_users=40)
    return solve_sums(members, members @ numbers, largest=float(numbers.max()), **options)


@pytest.mark.parametrize("numbers", [HELD.astype(float), HELD * RNG.integers(4, 21, HELD.shape)])
def test_enough_rounds_give_every_history(numbers):
    estimates = attack(80, numbers)
    np.testing.assert_allclose(estimates, numbers, atol=1e-2 * numbers.max())
    np.testing.assert_array_equal(find_held(estimates, smallest=float(numbers[numbers > 0].min())), HELD)


def test_what_is_possible_tells_more_than_the_equations_alone():
    errors = [np.abs(attack(28, HELD.astype(float), num_steps=steps) - HELD).mean() for steps in (0, 50)]
    assert errors[1] < 0.7 * errors[0]


def test_cohort_without_holders_is_cleared():
    numbers = HELD.astype(float)
    numbers[COHORTS[0]] = 0.0
    assert np.abs(attack(4, numbers)[COHORTS[0]]).max() < 1e-3


@pytest.mark.parametrize("num_sums", [0, 1])
def test_sums_of_everybody_tell_no_client_from_another(num_sums):
    members = np.ones((num_sums, 40), np.float32)
    estimates = solve_sums(members, members @ HELD.astype(np.float32), largest=1.0)
    expected = HELD.mean(axis=0) if num_sums else np.zeros(15)
    np.testing.assert_allclose(estimates, np.broadcast_to(expected, HELD.shape), atol=1e-6)


def test_padding_takes_no_part():
    assert members_of(np.array([[0, 2, 3], [1, 3, 3]]), num_users=3).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_uploads_that_stand_still_are_solved_for_and_show_the_items_held():
    factors, members = RNG.normal(size=(40, 3)), members_of(COHORTS, num_users=40)
    weights = np.where(HELD, RNG.uniform(3, 5, HELD.shape), 0.1 * RNG.normal(size=HELD.shape))
    uploads = weights[:, :, None] * factors[:, None, :]
    solved = solve_sums(members, members @ uploads.reshape(40, -1)).reshape(uploads.shape)
    np.testing.assert_allclose(solved, uploads, atol=1e-2)
    has_items = HELD.any(axis=1)
    scores = scores_of_uploads(solved)[has_items]
    assert scores[HELD[has_items]].min() > scores[~HELD[has_items]].max()
