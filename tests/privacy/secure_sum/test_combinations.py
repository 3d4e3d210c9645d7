"""Combinations of many rounds' sums: leverages, what they guarantee, and cohorts that are refused."""

import numpy as np
import pytest

from fcf_jax.privacy.secure_sum.combinations import check_combinations, leverages

RNG = np.random.default_rng(0)
NUM_USERS = 60
PASS = RNG.permutation(NUM_USERS).reshape(3, 20)
SHUFFLED = np.concatenate([RNG.permutation(NUM_USERS).reshape(3, 20) for _ in range(40)])


def members_of(cohorts):
    members = np.zeros((len(cohorts), NUM_USERS + 1))
    members[np.arange(len(cohorts))[:, None], cohorts] = 1.0
    return members[:, :NUM_USERS]


def test_leverages_match_the_diagonal_of_a_dense_projection():
    cohorts = SHUFFLED[:10].copy()
    cohorts[4, :7] = NUM_USERS  # padding, as in a Poisson sample
    members = members_of(cohorts)
    dense = np.diag(np.linalg.pinv(members) @ members)
    np.testing.assert_allclose(leverages(cohorts, num_users=NUM_USERS), dense, atol=1e-12)


def test_limits_recover_one_cohort_and_a_solvable_run():
    np.testing.assert_allclose(leverages(PASS, num_users=NUM_USERS), 1 / 20)
    np.testing.assert_allclose(leverages(SHUFFLED, num_users=NUM_USERS), 1.0)
    np.testing.assert_allclose(leverages(np.concatenate([PASS, PASS]), num_users=NUM_USERS), 1 / 20)


def test_every_combination_involves_as_many_clients_as_the_largest_leverage_says():
    cohorts = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 4, 5], [0, 2, 4, 6]])
    members, fewest = members_of(cohorts), 1 / leverages(cohorts, num_users=NUM_USERS).max()
    weights = np.stack(np.meshgrid(*[range(-2, 3)] * 4), axis=-1).reshape(-1, 4)
    involved = np.count_nonzero(weights @ members, axis=1)
    assert 1 < fewest <= involved[involved > 0].min()


@pytest.mark.parametrize(
    ("cohorts", "min_clients", "told"),
    [
        (SHUFFLED, 20, r"at least 20 .* from round 3 on"),
        (SHUFFLED, 2, r"got 1\.\d* from round"),
        (PASS, 21, "got 20"),
    ],
)
def test_cohorts_that_can_be_solved_together_are_refused_with_the_first_round(cohorts, min_clients, told):
    with pytest.raises(ValueError, match=told):
        check_combinations(cohorts, num_users=NUM_USERS, min_clients=min_clients)


@pytest.mark.parametrize("cohorts", [PASS, np.concatenate([PASS] * 5), SHUFFLED[:3], np.arange(60)[None]])
def test_disjoint_cohorts_and_equal_ones_pass(cohorts):
    check_combinations(cohorts, num_users=NUM_USERS, min_clients=20)
