"""The cohort sum, sparse and packed, against the dense one and against single clients."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import ALPHA, REGULARIZATION, dense_weights, relative_error, solve_users, user_gram, user_loss
from references import cohort_sum as dense_cohort_sum

from fcf_jax.core.client import client_update, dense_upload
from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions

WEIGHTING = implicit_feedback(alpha=ALPHA)


@jax.jit
def summed(item_factors, clients, w0=1.0):
    return cohort_sum(Model(wild_weighting, REGULARIZATION, w0), item_factors, clients)


def wild_weighting(data):
    """Confidence as ever, and a preference that is neither 1 nor the same everywhere."""
    return WEIGHTING(data)._replace(preference=1.0 - 0.4 * (data.item_ids % 4).astype(data.strengths.dtype))


def dense(small, w0):
    preference = 1.0 - 0.4 * (np.arange(17) % 4)
    c, p = dense_weights(
        small.strengths, small.strengths > 0, alpha=ALPHA, unobserved_weight=w0, preference=preference[None]
    )
    x = solve_users(small.item_factors, c, p, regularization=REGULARIZATION)
    return c, p, x


def check_sums(sums, small, w0, rtol):
    c, p, x = dense(small, w0)
    y = small.item_factors
    assert relative_error(sums.upload, dense_cohort_sum(x, y, c, p)) <= rtol
    assert relative_error(sums.user_gram, user_gram(x)) <= rtol
    assert relative_error(sums.confidence_sum, np.sum(c - w0, axis=0)) <= rtol
    losses = [user_loss(y, *row, regularization=REGULARIZATION) for row in zip(x, c, p, strict=True)]
    assert relative_error(sums.loss, sum(losses)) <= rtol
    assert int(sums.num_clients) == 13


@pytest.mark.parametrize("w0", [0.0, 0.1, 1.0, 2.0])
def test_sums_match_dense_reference_in_float32(small, w0):
    sums, error = summed(jnp.asarray(small.item_factors, jnp.float32), small.clients, w0)
    check_sums(sums, small, w0, 1e-5)  # float32, condition about 1e2
    assert 0 <= float(error) < 1e-3


@pytest.mark.parametrize("w0", [0.0, 0.1, 1.0, 2.0])
def test_sums_match_dense_reference_in_float64(small, float64, w0):
    sums, _ = summed(jnp.asarray(small.item_factors), small.clients, w0)  # of float32 strengths
    check_sums(sums, small, w0, 1e-9)  # float64: 1e-13 expected


def test_packed_round_agrees_with_client_update(small, observed):
    """Clients that span several rows included: user 5 has 15 items in rows of 4."""
    assert int(small.clients.row_counts.max()) == 4
    y, model = jnp.asarray(small.item_factors, jnp.float32), Model(WEIGHTING, REGULARIZATION)
    uploads, factors, update_one = [], [], jax.jit(client_update)
    for user in range(13):
        ids = np.flatnonzero(small.strengths[user])
        c, preference = 1 + ALPHA * small.strengths[user, ids], 1.0 - 0.4 * (ids % 4)
        observations = observed(ids, c, preference, slots=17)
        update, _ = update_one(model, y, observations)
        uploads.append(dense_upload(model, y, update, observations))
        factors.append(update.user_factor)
    sums, _ = summed(y, small.clients)
    assert relative_error(sums.upload, sum(uploads)) <= 1e-5  # float32: sums in another order
    wild = model._replace(weighting=wild_weighting)
    packed, _ = jax.jit(lambda y, clients: solve_clients(wild, y, clients))(y, small.clients)
    np.testing.assert_allclose(packed, jnp.stack(factors), rtol=1e-4, atol=1e-6)  # float32, condition 1e2


@pytest.mark.parametrize("options", [
    {"row_width": 1}, {"row_width": 16}, {"row_width": 4, "chunk_slots": 16, "chunk_clients": 2},
])  # fmt: skip
def test_invariant_to_row_width_and_chunk_size(small, options):
    y = jnp.asarray(small.item_factors, jnp.float32)
    sums, _ = summed(y, pack_clients(small.interactions, **options))
    check_sums(sums, small, 1.0, 1e-5)  # float32


def test_invariant_to_client_order(small):
    order = np.random.default_rng(1).permutation(13)
    shuffled = Interactions.from_scipy(small.interactions.to_scipy()[order])
    clients = pack_clients(shuffled, row_width=4, chunk_slots=32, chunk_clients=5)
    sums, _ = summed(jnp.asarray(small.item_factors, jnp.float32), clients)
    check_sums(sums, small, 1.0, 1e-5)  # float32


def test_empty_histories_add_nothing(small):
    """Ten more users without history change no sum but the number of clients (up to the order of sums)."""
    users = np.repeat(np.arange(13), small.interactions.history_lengths)
    more = Interactions.from_arrays(
        users, small.interactions.item_ids, small.interactions.strengths, num_users=23, num_items=17
    )
    y = jnp.asarray(small.item_factors, jnp.float32)
    few, _ = summed(y, small.clients)
    many, _ = summed(y, pack_clients(more, row_width=4, chunk_clients=64))
    assert int(many.num_clients) == 23
    # the users solved are the same; a sum over more rows may associate otherwise, hence one float32 rounding
    for name in ("upload", "user_gram", "loss"):
        np.testing.assert_allclose(getattr(many, name), getattr(few, name), rtol=1e-5, atol=1e-5)
    empty = Interactions.from_arrays([], [], [], num_users=4, num_items=17)
    sums, error = summed(y, pack_clients(empty, row_width=4, chunk_clients=5))
    assert not np.asarray(sums.upload).any() and not np.asarray(sums.user_gram).any()
    assert float(sums.loss) == 0.0 and float(error) == 0.0 and not np.asarray(sums.confidence_sum).any()


@jax.jit
def worst_error(item_factors, clients, alpha, regularization, w0):
    model = Model(implicit_feedback(alpha=alpha), regularization, w0)
    return cohort_sum(model, item_factors, clients)[1]


@pytest.mark.parametrize(("alpha", "regularization", "w0"), [
    (0.1, -1.0, 1.0), (100.0, -1.0, 1.0), (0.1, -30.0, 1.0), (-5.0, 0.1, 1.0), (0.1, 0.1, -1.0),
])  # fmt: skip
def test_error_of_equations_without_a_minimum_is_infinite(small, alpha, regularization, w0):
    y = jnp.asarray(small.item_factors, jnp.float32) * 0.1
    c, _ = dense_weights(small.strengths, small.strengths > 0, alpha=alpha, unobserved_weight=w0)
    least = min(np.linalg.eigvalsh((y.T * row) @ y + regularization * np.eye(len(y.T)))[0] for row in c)
    assert least < 0
    assert float(worst_error(y, small.clients, alpha, regularization, w0)) == np.inf


@pytest.mark.parametrize("alpha", [0.1, 100.0], ids=["conjugate gradients", "direct"])
def test_error_of_factors_that_are_not_finite_is_infinite(small, alpha):
    y = jnp.asarray(small.item_factors, jnp.float32)
    for wrong in (jnp.nan * y, y.at[3, 1].set(jnp.nan), y.at[3, 1].set(jnp.inf)):
        assert float(worst_error(wrong, small.clients, alpha, 1.0, 1.0)) == np.inf
    assert float(worst_error(y, small.clients, alpha, 1.0, 1.0)) < 1e-3
