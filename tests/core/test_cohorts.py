"""Cohorts of rounds: everyone's rows in a round that knows them, or that does not."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.channel import Pieces, clip_and_noise
from fcf_jax.core.cohort_sum import accumulate
from fcf_jax.core.cohorts import gather_cohort, rows_expected, rows_needed, sum_over_cohort
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Cohort
from fcf_jax.core.sampling import draw_cohorts
from fcf_jax.data import Interactions

KEY = jax.random.key(7)
STEP = optax.sgd(0.1)
SIZES = {"num_items": 17, "num_factors": NUM_FACTORS}


@pytest.fixture(scope="module")
def federation():
    return federated_cf(MODEL, optax.adam(0.05), cohort_size=4, **SIZES)


@pytest.fixture(scope="module")
def known(federation, small):
    """Three rounds whose cohorts were known before tracing."""
    return run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=3)


gather = jax.jit(gather_cohort, static_argnames="row_capacity")


@pytest.mark.parametrize("cohort_size", [1, 5, 13])  # below, at and beyond the 5 clients of a chunk
def test_capacity_is_always_enough(small, cohort_size):
    options = {"num_rounds": 2, "num_users": 13, "cohort_size": cohort_size, "sampling": "shuffled"}
    for ids in draw_cohorts(jax.random.key(0), jnp.array(0), **options).client_ids:
        cohort = gather(small.clients, ids, row_capacity=rows_needed(small.clients, ids))
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


def items_counted(clients):
    """A total that tells what was collected: how often each item, and by how many clients."""
    counts = jnp.zeros(17, jnp.int32).at[clients.rows.item_ids].add(clients.rows.mask)
    num_clients = jnp.sum(clients.client_ids < 13, dtype=jnp.int32)
    return (counts, num_clients), num_clients.astype(jnp.float32)


@pytest.mark.parametrize("row_capacity", [None, 1, 3])
@pytest.mark.parametrize("num_shares", [1, 2])
def test_every_client_is_collected_once_or_counted_as_left_out(small, row_capacity, num_shares):
    ids = jnp.array([5, 13, 3, 12, 0, 7, 1])  # user 5 has many rows, user 3 none; 13: an empty place
    options = {"row_capacity": row_capacity, "num_shares": num_shares}
    collect = jax.jit(partial(sum_over_cohort, items_counted, **options))
    (counts, num_clients), _, num_left_out = collect(small.clients, ids)
    assert int(num_clients) + int(num_left_out) == 6
    if row_capacity is None:
        expected = (small.strengths[np.array([5, 3, 12, 0, 7, 1])] > 0).sum(axis=0)
        np.testing.assert_array_equal(counts, expected)
        assert int(num_left_out) == 0
    else:
        assert int(num_left_out) > 0


def test_whoever_does_not_fit_follows_in_further_turns(small, monkeypatch):
    monkeypatch.setattr("fcf_jax.core.cohorts.rows_expected", lambda *sizes, num_shares: 1)
    everybody = jax.jit(partial(sum_over_cohort, items_counted))
    (counts, num_clients), worst, num_left_out = everybody(small.clients, jnp.arange(13))
    np.testing.assert_array_equal(counts, (small.strengths > 0).sum(axis=0))
    assert (int(num_clients), int(num_left_out)) == (13, 0) and float(worst) > 0


@pytest.mark.parametrize("traced", ["clients and key", "key"])
def test_rounds_whose_cohort_is_traced_agree_with_rounds_that_know_it(small, federation, known, traced):
    start, (expected, info) = federation.init(KEY), known

    def run(key, clients):
        return run_rounds(federation, key, start, clients, num_rounds=3)

    if traced == "key":
        state, found = jax.jit(lambda key: run(key, small.clients))(KEY)
    else:
        state, found = jax.jit(run)(KEY, small.clients)
    np.testing.assert_array_equal(found.client_ids, info.client_ids)
    np.testing.assert_allclose(found.loss, info.loss, rtol=1e-5)  # float32, other shapes
    np.testing.assert_allclose(state.item_factors, expected.item_factors, atol=1e-4)  # Adam magnifies
    assert int(found.num_left_out.sum()) == 0


def test_vmap_over_keys_equals_runs_one_by_one(small, federation, known):
    start, keys = federation.init(KEY), jnp.stack([KEY, jax.random.key(8)])
    run = partial(run_rounds, federation, num_rounds=3)
    _, infos = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(keys, start, small.clients)
    np.testing.assert_array_equal(infos.client_ids[0], known[1].client_ids)
    np.testing.assert_allclose(infos.loss[0], known[1].loss, rtol=1e-5)
    assert not np.array_equal(infos.client_ids[0], infos.client_ids[1])


@pytest.fixture(scope="module")
def skewed():
    """Return 2000 clients with 1 to 400 items, in chunks that hold the longest history and little more."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.05, 2000), 400)
    users = np.repeat(np.arange(2000), lengths)
    items = np.concatenate([np.arange(length) for length in lengths])
    interactions = Interactions.from_arrays(users, items, num_items=400)
    return pack_clients(interactions, row_width=4, chunk_slots=256)


def test_a_traced_round_computes_few_rows_more_than_the_cohort_needs(skewed):
    clients = skewed
    sizes = {"num_users": 2000, "cohort_size": 50, "sampling": "shuffled"}
    cohorts = draw_cohorts(KEY, jnp.array(0), num_rounds=40, **sizes).client_ids
    needed = np.array([rows_needed(clients, cohort) for cohort in cohorts])
    assert (needed <= rows_expected(clients, 50)).mean() > 0.9  # so that further turns are rare
    assert rows_expected(clients, 50) < 2 * needed.mean() < 0.1 * clients.owners.size
    traced = jax.eval_shape(lambda c: jnp.zeros(rows_expected(c, 50)), clients).shape[0]
    assert traced < 2 * needed.mean()


def test_chunks_of_a_cohort_are_as_large_as_those_of_all_and_well_filled(skewed):
    num_rows = skewed.owners.shape[1]
    for seed, cohort_size in [(0, 30), (1, 100), (2, 300)]:
        ids = jnp.asarray(np.random.default_rng(seed).choice(2000, cohort_size, replace=False))
        needed = rows_needed(skewed, ids)
        cohort = jax.tree.map(np.asarray, gather(skewed, ids, row_capacity=needed))
        is_filled = (cohort.client_ids < 2000).any(axis=1)
        assert cohort.owners.shape[1] == num_rows and cohort.owners.shape[0] * num_rows == needed
        assert sorted(cohort.client_ids[cohort.client_ids < 2000]) == sorted(np.asarray(ids))
        total = int(np.asarray(skewed.row_counts[ids]).sum())
        assert is_filled.sum() <= np.ceil(1.05 * total / num_rows)  # one chunk is not full


def test_rounds_are_bitwise_invariant_to_a_larger_row_capacity(small, federation, known):
    capacity = 3 * small.clients.owners.shape[1]  # chunks that stay empty are skipped
    state, info = run_rounds(
        federation, KEY, federation.init(KEY), small.clients, num_rounds=3, row_capacity=capacity
    )
    np.testing.assert_array_equal(state.item_factors, known[0].item_factors)
    np.testing.assert_array_equal(info.loss, known[1].loss)


def test_a_row_capacity_that_is_too_small_is_loud(small, federation):
    _, info = run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=3, row_capacity=1)
    assert (info.num_left_out > 0).all() and np.isnan(info.loss).all() and np.isinf(info.solve_error).all()
    np.testing.assert_array_equal(info.num_clients + info.num_left_out, 4)


def by_halves(key, round_index, *, num_users, cohort_size):
    """A sampling of one's own: a few of the first six users and twice as many of the others."""
    few, many = cohort_size // 3, cohort_size - cohort_size // 3
    low, high = jax.random.split(key)
    drawn = (
        jax.random.choice(low, 6, (few,), replace=False),
        jax.random.choice(high, 7, (many,), replace=False),
    )
    chances = jnp.concatenate([jnp.full(few, few / 6), jnp.full(many, many / 7)])
    return Cohort(jnp.concatenate([drawn[0], 6 + drawn[1]]), cohort_size / num_users / chances)


def test_weights_of_a_biased_sampling_make_the_gradient_unbiased(small):
    step = optax.sgd(1.0)
    biased = federated_cf(MODEL, step, cohort_size=3, sampling=by_halves, **SIZES)
    whole = federated_cf(MODEL, step, **SIZES)
    start = whole.init(KEY)
    keys = jax.random.split(KEY, 600)
    run = jax.jit(lambda key: biased.round(key, start, small.clients, row_capacity=16))
    states, infos = jax.lax.map(run, keys)
    steps = np.asarray(states.item_factors - start.item_factors)
    expected, info = jax.jit(whole.round)(KEY, start, small.clients)
    expected = np.asarray(expected.item_factors - start.item_factors)
    error = steps.std(axis=0) / np.sqrt(len(keys)) + 1e-6
    assert (np.abs(steps.mean(axis=0) - expected) < 5 * error).all()  # 51 entries: by chance below 1e-4
    assert abs(infos.loss.mean() - info.loss) < 5 * infos.loss.std() / np.sqrt(len(keys))
    shares = np.bincount(np.asarray(infos.client_ids).ravel(), minlength=13) / len(keys)
    np.testing.assert_allclose(shares, [1 / 6] * 6 + [2 / 7] * 7, atol=0.1)


@pytest.mark.parametrize(("clip_norm", "num_clipped"), [(None, 0), (1e6, 0), (1e-6, 3)])  # one has no history
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_weight_of_the_cohort_is_no_clipping(small, weight, clip_norm, num_clipped):
    cohort = Cohort(jnp.arange(4), jnp.full(4, weight))
    user_weights = jnp.zeros(13).at[cohort.client_ids].set(cohort.weights)
    channel = None
    if clip_norm is not None:
        norms = Pieces(clip_norm, clip_norm, clip_norm, clip_norm)
        channel = clip_and_noise(clip_norms=norms, noise_multiplier=1.0, expected_cohort_size=4)
    y = jnp.asarray(small.item_factors, jnp.float32)
    clients = gather(small.clients, cohort.client_ids, row_capacity=32)
    total, _ = accumulate(MODEL, y, clients, channel=channel, user_weights=user_weights, key=KEY)
    assert int(total.num_clipped) == num_clipped and int(total.num_clients) == 4


def test_a_sampling_that_returns_ids_and_uses_the_round_is_obeyed(small):
    def in_turn(key, round_index, *, num_users, cohort_size):
        return (round_index * cohort_size + jnp.arange(cohort_size)) % num_users

    federation = federated_cf(MODEL, optax.sgd(0.1), cohort_size=4, sampling=in_turn, **SIZES)
    _, info = run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=2)
    np.testing.assert_array_equal(info.client_ids, [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_numbers_inside_a_sampling_may_change_without_compiling(small, num_compiled):
    def among_the_first(count, key, round_index, *, num_users, cohort_size):
        return jax.random.randint(key, (1,), 0, count) + jnp.arange(cohort_size)

    def run(count):
        sampling = jax.tree_util.Partial(among_the_first, jnp.asarray(count))
        federation = federated_cf(MODEL, STEP, cohort_size=2, sampling=sampling, **SIZES)
        state = federation.init(KEY)
        return run_rounds(federation, KEY, state, small.clients, num_rounds=2, row_capacity=16)[1].client_ids

    first, before = run(1), num_compiled()
    assert (np.asarray(first) == [0, 1]).all() and (np.asarray(run(9)) > 1).any()
    assert num_compiled() == before
