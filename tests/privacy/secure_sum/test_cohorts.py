"""Neighbors in a cohort, and cohorts that are too small or too near to each other."""

import numpy as np
import pytest

from fcf_jax.privacy.secure_sum.cohorts import (
    check_cohorts,
    degree_needed,
    is_connected,
    neighbor_graph,
    recovery_failure,
)


def test_neighbors_are_mutual_and_as_many_as_asked_for():
    neighbors = neighbor_graph(101, degree=20, seed=b"a")
    assert neighbors.shape == (101, 20)
    for own, others in enumerate(neighbors):
        assert own not in others and len(set(others)) == 20
        assert all(own in neighbors[other] for other in others)
    assert is_connected(neighbors, np.ones(101, bool))
    assert (neighbors != neighbor_graph(101, degree=20, seed=b"b")).any()


def test_small_cohorts_all_are_neighbors():
    assert neighbor_graph(5, degree=20, seed=b"a").tolist() == [
        [other for other in range(5) if other != own] for own in range(5)
    ]


@pytest.mark.parametrize("degree", [18, 21])
def test_degrees_out_of_range_are_refused(degree):
    with pytest.raises(ValueError, match="even degree of at least 20"):
        neighbor_graph(100, degree=degree, seed=b"a")


def test_degree_needed_is_the_first_that_recovers():
    degree = degree_needed(1000, num_dropped=300)
    sizes = {"num_dropped": 300}
    assert recovery_failure(1000, degree=degree, threshold=degree // 2 + 1, **sizes) <= 1e-3
    assert recovery_failure(1000, degree=degree - 2, threshold=degree // 2, **sizes) > 1e-3


def test_cohorts_of_all_rounds_are_looked_at_beforehand():
    rounds_apart = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]])
    check_cohorts(rounds_apart, num_users=9, min_cohort=4)
    check_cohorts(np.tile(np.arange(9), (300, 1)), num_users=9, min_cohort=9)
    with pytest.raises(ValueError, match="got 3 in round 1"):
        check_cohorts(np.where(rounds_apart == 5, 9, rounds_apart), num_users=9, min_cohort=4)
    near = np.concatenate([np.repeat(rounds_apart[:2], 150, axis=0), [[4, 5, 6, 8]]])
    with pytest.raises(ValueError, match="difference of 2 between rounds 150 and 300"):
        check_cohorts(near, num_users=9, min_cohort=4)
