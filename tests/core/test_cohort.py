"""Who takes part."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core.cohort import draw_cohort, gather_cohort, rows_needed

KEYS = jax.random.split(jax.random.key(0), 1300)
draw = jax.jit(jax.vmap(lambda key: draw_cohort(key, num_users=13, cohort_size=4)))


def test_ids_are_distinct_and_uniform():
    cohorts = np.asarray(draw(KEYS))
    assert (np.diff(np.sort(cohorts, axis=1), axis=1) > 0).all()
    assert cohorts.min() == 0 and cohorts.max() == 12
    counts = np.bincount(cohorts.ravel(), minlength=13)
    # chi-square of 12 degrees of freedom: below 40 but for 1 key in 1e4; the key is fixed
    assert np.sum((counts - 400.0) ** 2 / 400.0) < 40.0


def test_cohort_is_a_pure_function_of_the_key():
    np.testing.assert_array_equal(draw(KEYS), draw(KEYS))


@pytest.mark.parametrize("cohort_size", [1, 4, 7, 13])  # below, at and beyond the 5 clients of a chunk
def test_capacity_is_always_enough(small, cohort_size):
    for key in KEYS[:2]:
        ids = draw_cohort(key, num_users=13, cohort_size=cohort_size)
        capacity = rows_needed(small.clients, ids)
        cohort = gather_cohort(small.clients, ids, row_capacity=capacity)
        lengths = small.interactions.history_lengths[np.asarray(ids)]
        assert int(jnp.sum(cohort.rows.mask)) == lengths.sum()  # nothing lost, nothing twice
        cohort = jax.tree.map(np.asarray, cohort)
        owners, clients = cohort.owners, cohort.client_ids
        for chunk, row in np.ndindex(owners.shape):
            mask = cohort.rows.mask[chunk, row]
            if mask.any():
                user = clients[chunk, owners[chunk, row]]
                items = cohort.rows.item_ids[chunk, row][mask]
                np.testing.assert_array_equal(
                    cohort.rows.strengths[chunk, row][mask], small.strengths[user, items].astype(np.float32)
                )
