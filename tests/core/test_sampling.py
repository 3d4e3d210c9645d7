"""Cohorts: who takes part."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy.stats import binom

from fcf_jax.core.sampling import draw_cohort, draw_cohorts, permute, poisson_capacity, round_keys

KEY = jax.random.key(0)
SAMPLINGS = ["shuffled", "independent"]


def draw_rounds(sampling, *, num_rounds=1300, num_users=13, cohort_size=4):
    def draw(round_index):
        sizes = {"num_users": num_users, "cohort_size": cohort_size}
        return draw_cohort(KEY, round_index, **sizes, sampling=sampling).client_ids

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
    for size in (1, 7, 100):
        of_key = jax.jit(jax.vmap(lambda key, size=size: permute(key, jnp.arange(size), size=size)))
        permuted = np.asarray(of_key(keys))
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
    assert (np.sum(cohorts < 13, axis=1) == sizes).all()  # no user twice


def test_poisson_capacity_holds_what_turns_up():
    for num_users, cohort_size in ((100, 1), (6040, 100), (10**6, 10**5)):
        capacity = poisson_capacity(num_users=num_users, cohort_size=cohort_size)
        assert binom.sf(capacity, num_users, cohort_size / num_users) < 2e-14


def test_poisson_draw_of_a_user_depends_on_its_id_alone():
    few, many = (
        draw_rounds("poisson", num_rounds=4, num_users=size, cohort_size=size // 2)[3] for size in (20, 40)
    )
    assert set(few[few < 20].tolist()) == set(many[many < 20].tolist())


def test_keys_of_a_round_differ_from_each_other_and_from_those_of_other_rounds():
    keys = [key for index in range(3) for key in round_keys(KEY, jnp.array(index))]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 9


def test_another_sampling_is_named():
    draw = getattr(draw_cohort, "__wrapped__", draw_cohort)  # only the tests execute the annotations
    with pytest.raises(ValueError, match=r"expected sampling to be one of .*shuffled.*, got 'in turn'"):
        draw(KEY, jnp.array(0), num_users=4, cohort_size=2, sampling="in turn")


@pytest.mark.parametrize("sampling", [*SAMPLINGS, "poisson"])
def test_cohorts_of_several_rounds_are_those_of_each(sampling):
    sizes = {"num_users": 13, "cohort_size": 4, "sampling": sampling}
    several = draw_cohorts(KEY, jnp.array(2), num_rounds=3, **sizes).client_ids
    for index, cohort in enumerate(several):
        np.testing.assert_array_equal(cohort, draw_cohort(KEY, jnp.array(2 + index), **sizes).client_ids)


def test_limit_no_cohort_size_recovers_all_users():
    cohort = draw_cohort(KEY, jnp.array(0), num_users=5, cohort_size=None)
    np.testing.assert_array_equal(cohort.client_ids, np.arange(5))
