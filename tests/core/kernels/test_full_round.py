"""Full rounds by kernels, in the interpreter, against the dense reference and against plain XLA."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import cohort_sum as dense_cohort_sum
from references import dense_weights, objective, relative_error, solve_users, user_gram

from fcf_jax.core import packing
from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.item_major import item_major
from fcf_jax.core.kernels.choice import INTERPRETED, suited
from fcf_jax.core.kernels.plans import PLANS, plan_of
from fcf_jax.core.kernels.root import inverse_root_of
from fcf_jax.core.kernels.trial import error_of_trial
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.optimizers import guarded_gram
from fcf_jax.parallel import client_mesh, place_clients

NUM_USERS, NUM_ITEMS, NUM_FACTORS, REGULARIZATION = 40, 75, 5, 0.7
TILE = plan_of(NUM_FACTORS, is_interpreted=True).clients.tile
LENGTHS = [0, 1, TILE - 1, TILE, TILE + 1, NUM_ITEMS - 1]  # the last item has nobody


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(0)
    lengths = LENGTHS + list(rng.integers(0, 20, NUM_USERS - len(LENGTHS)))
    users = np.repeat(np.arange(NUM_USERS), lengths)
    items = np.concatenate([rng.permutation(NUM_ITEMS - 1)[:length] for length in lengths])
    strengths = rng.integers(1, 6, users.size).astype(np.float64)
    return Interactions.from_arrays(users, items, strengths, num_users=NUM_USERS, num_items=NUM_ITEMS)


@pytest.fixture(scope="module")
def clients(histories):
    packed = packing.pack_clients(histories, row_width=8, chunk_slots=256, by_item=True)
    return packed._replace(items=item_major(histories, piece=4))  # popular items are of several pieces


@pytest.fixture(scope="module")
def item_factors():
    return jnp.asarray(np.random.default_rng(1).normal(size=(NUM_ITEMS, NUM_FACTORS)), jnp.float32)


def model_of(alpha):
    return Model(implicit_feedback(alpha=alpha), REGULARIZATION)


@jax.jit
def summed(alpha, item_factors, clients):
    return cohort_sum(model_of(alpha), item_factors, clients)


def by_kernels(*arguments):
    with INTERPRETED(True):
        return summed(*arguments)


def dense_of(histories, item_factors, alpha):
    strengths = np.zeros((NUM_USERS, NUM_ITEMS))
    strengths[histories.user_ids, histories.item_ids] = histories.strengths
    c, p = dense_weights(strengths, strengths > 0, alpha=alpha)
    y = np.asarray(item_factors, np.float64)
    return solve_users(y, c, p, regularization=REGULARIZATION), y, c, p


@pytest.mark.parametrize(
    "alpha", [4.0, 40.0, 400.0]
)  # no correction, one and two: up to (c - w0) / w0 = 2000
def test_sums_match_dense_reference_and_are_the_same_bits_twice(histories, clients, item_factors, alpha):
    x, y, c, p = dense_of(histories, item_factors, alpha)
    sums, error = by_kernels(alpha, item_factors, clients)
    assert relative_error(sums.upload, dense_cohort_sum(x, y, c, p)) <= 1e-5
    assert relative_error(sums.user_gram, user_gram(x)) <= 1e-5
    assert relative_error(sums.confidence_sum, np.sum(c - 1.0, axis=0)) <= 1e-6
    loss = objective(x, y, c, p, regularization=REGULARIZATION) - REGULARIZATION * np.sum(y**2)
    assert relative_error(sums.loss, loss) <= 1e-5
    assert int(sums.num_clients) == NUM_USERS and 0 <= float(error) < 1e-5
    again, _ = by_kernels(alpha, item_factors, clients)
    assert all(np.array_equal(*pair) for pair in zip(sums, again, strict=True))


def test_item_sums_are_bitwise_invariant_to_chunks(histories, clients, item_factors):
    other = packing.pack_clients(histories, row_width=16, chunk_slots=128, chunk_clients=7)
    assert other.items is None  # by default only on a GPU
    other = other._replace(items=clients.items)
    expected, found = (by_kernels(4.0, item_factors, each)[0] for each in (clients, other))
    np.testing.assert_array_equal(expected.upload, found.upload)
    np.testing.assert_array_equal(expected.confidence_sum, found.confidence_sum)


def test_derivatives_are_those_of_plain_sums(clients, item_factors):
    @jax.jit
    def slope(item_factors, clients):
        return jax.grad(lambda y: cohort_sum(model_of(4.0), y, clients)[0].loss)(item_factors)

    with INTERPRETED(True):
        found = slope(item_factors, clients)
    np.testing.assert_array_equal(found, slope(item_factors, clients._replace(items=None)))


def test_side_by_side_agrees_with_one_by_one(clients, item_factors):
    alphas, factors = jnp.array([4.0, 40.0]), jnp.stack([item_factors, 0.5 * item_factors])
    with INTERPRETED(True):
        both, _ = jax.jit(jax.vmap(summed.__wrapped__, in_axes=(0, 0, None)))(alphas, factors, clients)
    for run, alpha in enumerate(alphas):
        alone, _ = by_kernels(alpha, factors[run], clients)
        assert relative_error(both.upload[run], alone.upload) <= 1e-5
        assert relative_error(both.loss[run], alone.loss) <= 1e-6


def test_guarded_rounds_agree_with_plain_rounds(clients):
    federation = federated_cf(
        model_of(4.0), guarded_gram(memory=2), num_items=NUM_ITEMS, num_factors=NUM_FACTORS
    )
    key = jax.random.key(0)
    run = partial(run_rounds, federation, key, federation.init(key), num_rounds=3)
    expected, plain_info = run(clients)  # on a CPU, the same trace computes plain sums
    with INTERPRETED(True):
        found, info = run(clients)
    assert relative_error(found.item_factors, expected.item_factors) <= 1e-5
    np.testing.assert_allclose(info.loss, plain_info.loss, rtol=1e-5)
    np.testing.assert_array_equal(info.num_clients, plain_info.num_clients)


def test_solved_clients_match_dense_reference(histories, clients, item_factors):
    x, y, c, p = dense_of(histories, item_factors, 4.0)
    solve = jax.jit(lambda y, clients: solve_clients(model_of(4.0), y, clients))
    with INTERPRETED(True):
        found, loss = solve(item_factors, clients)
    assert relative_error(found, x) <= 1e-5
    exact = objective(x, y, c, p, regularization=REGULARIZATION) - REGULARIZATION * np.sum(y**2)
    assert relative_error(loss, exact) <= 1e-5


@pytest.mark.parametrize("num_factors", [25, 64])
def test_padded_sizes_pass_the_trial(num_factors):
    assert error_of_trial(plan_of(num_factors, is_interpreted=True)) <= 1e-5


@pytest.mark.parametrize(("num_factors", "size"), [(1, 16), (16, 16), (17, 32), (64, 64), (128, 128)])
def test_factors_are_padded_to_the_next_size(num_factors, size):
    assert plan_of(num_factors, is_interpreted=False).num_factors == size
    assert all(plan.num_factors == key for key, plan in PLANS.items())


def test_heavy_confidences_are_left_to_plain_sums(clients):
    assert suited(model_of(4.0), clients).items is not None
    assert suited(model_of(4e4), clients).items is None
    assert suited(model_of(4.0)._replace(unobserved_weight=0.0), clients).items is None


def test_pieces_cover_each_item_in_its_order(histories):
    items = item_major(histories, piece=4)
    by_item = histories.transpose()
    np.testing.assert_array_equal(items.user_ids, by_item.item_ids)
    np.testing.assert_array_equal(items.strengths, by_item.strengths.astype(np.float32))
    lengths = np.diff(items.piece_starts)
    assert lengths.min() >= 1 and lengths.max() == 4
    summed = np.bincount(items.piece_items, lengths, minlength=NUM_ITEMS)
    np.testing.assert_array_equal(summed, by_item.history_lengths)
    num_pieces = np.bincount(items.piece_items, minlength=NUM_ITEMS)
    np.testing.assert_array_equal(np.diff(items.first_piece), num_pieces)
    assert np.all(np.diff(lengths[np.asarray(items.piece_order)]) <= 0)


def test_only_whole_packings_on_one_device_keep_their_items(clients):
    parts = [packing.cut_chunks(clients, 0, 1), *packing.one_chunk_each(clients)]
    parts += [packing.stack_clients([clients, clients]), place_clients(clients, client_mesh(1))]
    assert all(part.items is None for part in parts)
    assert packing.fill_up(clients, num_rows=100).items is clients.items


@pytest.mark.parametrize("size", [5, 16])
def test_inverse_root_matches_dense_inverse_and_tells_indefinite_matrices(size):
    root = np.random.default_rng(0).normal(size=(size, size))
    plan = plan_of(size, is_interpreted=True)
    of = partial(inverse_root_of, size=plan.num_factors, launch=plan.clients)
    matrix = root @ root.T + np.eye(size)
    found, is_definite = of(jnp.asarray(matrix, jnp.float32))
    assert relative_error(found.T @ found, np.linalg.inv(matrix)) <= 1e-5 and bool(is_definite)
    singular, is_definite = of(jnp.ones((size, size)))
    assert np.isfinite(singular).all() and bool(is_definite)
    assert not of(-jnp.eye(size))[1]
