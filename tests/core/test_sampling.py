"""Who takes part."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy.stats import binom

from fcf_jax.core.sampling import draw_cohort, gather_cohort, permute, poisson_capacity, rows_needed

KEY = jax.random.key(0)
SAMPLINGS = ["shuffled", "independent"]


def draw_rounds(sampling, *, num_rounds=1300, num_users=13, cohort_size=4):
    def draw(round_index):
        return draw_cohort(KEY, round_index, num_users=num_users, cohort_size=cohort_size, sampling=sampling)

    return np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(num_rounds)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_ids_are_distinct_and_uniform(sampling):
    cohorts = draw_rounds(sampling)
    assert (np.diff(np.sort(cohorts, axis=1), axis=1) > 0).all()
    assert cohorts.min() == 0 and cohorts.max() == 12
    counts = np.bincount(cohorts.ravel(), minlength=13)
    # chi-square of 12 degrees of freedom: below 40 but for 1 key in 1e4; the key is fixed
    assert np.sum((counts - 400.0) ** 2 / 400.0) < 40.0


def test_shuffled_cohorts_pass_through_the_users_before_anyone_returns():
    passes = draw_rounds("shuffled", num_rounds=300).reshape(100, 12)  # 3 rounds of 4, one user sits out
    assert all(len(set(one)) == 12 for one in passes)
    assert len({tuple(one) for one in passes}) == 100  # each pass in another order
    left_out = 78 - passes.sum(axis=1)
    assert np.bincount(left_out, minlength=13).min() > 0


def test_permutation_is_one_to_one_and_all_positions_are_alike():
    keys = jax.random.split(KEY, 700)
    for size in (1, 2, 7, 100):
        permuted = np.asarray(
            jax.vmap(lambda key, size=size: permute(key, jnp.arange(size), size=size))(keys)
        )
        np.testing.assert_array_equal(np.sort(permuted, axis=1), np.tile(np.arange(size), (700, 1)))
    pairs = permuted[:, 3] // 25 * 4 + permuted[:, 50] // 25  # two positions: 16 cells, nearly independent
    counts = np.bincount(pairs, minlength=16)
    assert np.sum((counts - 700 / 16) ** 2 / (700 / 16)) < 45.0  # 15 degrees of freedom, 1 in 1e4


def test_poisson_cohorts_take_each_user_by_itself():
    cohorts = draw_rounds("poisson", num_rounds=4000)
    takes_part = np.array([np.isin(np.arange(13), cohort) for cohort in cohorts])
    counts = takes_part.sum(axis=0)
    assert np.sum((counts - 4000 * 4 / 13) ** 2 / (4000 * 4 / 13 * 9 / 13)) < 40.0  # 13 degrees, 1 in 1e4
    sizes = takes_part.sum(axis=1)
    assert abs(sizes.var() - 13 * 4 / 13 * 9 / 13) < 0.3  # binomial: independent of each other
    assert (np.sum(cohorts < 13, axis=1) == sizes).all()  # nobody twice


def test_poisson_capacity_holds_what_turns_up():
    for num_users, cohort_size in ((100, 1), (6040, 100), (10**6, 10**5)):
        capacity = poisson_capacity(num_users=num_users, cohort_size=cohort_size)
        assert binom.sf(capacity, num_users, cohort_size / num_users) < 2e-14


def test_poisson_draw_of_a_user_depends_on_its_id_alone():
    few = draw_cohort(KEY, jnp.array(3), num_users=20, cohort_size=10, sampling="poisson")
    many = draw_cohort(KEY, jnp.array(3), num_users=40, cohort_size=20, sampling="poisson")
    assert set(np.asarray(few[few < 20]).tolist()) == set(np.asarray(many[many < 20]).tolist())


@pytest.mark.parametrize("cohort_size", [1, 4, 7, 13])  # below, at and beyond the 5 clients of a chunk
def test_capacity_is_always_enough(small, cohort_size):
    for round_index in range(2):
        ids = draw_cohort(KEY, jnp.array(round_index), num_users=13, cohort_size=cohort_size)
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
