"""Lambda of each user and item, lambda (n + w0 N)^nu, against dense references."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import relative_error, solve_user

from fcf_jax import optimizers
from fcf_jax.als import run_sweeps
from fcf_jax.core.client import client_update
from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.objective import for_items, implicit_feedback, loss, observe, regularization_of
from fcf_jax.core.records import ClientData, Model

NU, W0, LAMBDA = 0.7, 0.8, 0.3
NUM_USERS, NUM_ITEMS = 13, 17


def model_of(alpha=4.0, exponent=NU):
    return Model(implicit_feedback(alpha=alpha), LAMBDA, W0, regularization_exponent=exponent)


def dense(small, alpha, item_factors):
    """Return c, p, X and the lambdas of users and items, in float64."""
    strengths = small.strengths
    seen = strengths > 0
    c, p = np.where(seen, 1.0 + alpha * strengths, W0), np.where(seen, 1.0, 0.0)
    of_users = LAMBDA * (seen.sum(1) + W0 * NUM_ITEMS) ** NU
    of_items = LAMBDA * (seen.sum(0) + W0 * NUM_USERS) ** NU
    users = zip(c, p, of_users, strict=True)
    x = np.stack([solve_user(item_factors, *row, regularization=own) for *row, own in users])
    return c, p, x, of_users, of_items


@pytest.mark.parametrize("alpha", [0.1, 4.0, 1e4], ids=["light", "mixed", "heavy"])
def test_round_matches_dense_reference(alpha, small):
    y = np.asarray(small.item_factors, np.float64)
    c, p, x, of_users, of_items = dense(small, alpha, y)
    sums, error = jax.jit(cohort_sum)(model_of(alpha), jnp.asarray(y, jnp.float32), small.clients)
    assert relative_error(sums.upload, (c * (p - x @ y.T)).T @ x) <= 2e-5
    assert relative_error(sums.user_gram, x.T @ x) <= 1e-5
    expected = np.sum(c * (p - x @ y.T) ** 2) + np.sum(of_users * np.sum(x**2, axis=1))
    assert relative_error(sums.loss, expected) <= 1e-5 and float(error) <= 1e-4
    for_server = for_items(model_of(alpha), small.clients.item_counts, NUM_USERS)
    np.testing.assert_allclose(for_server.regularization[:, 0], of_items, rtol=1e-6)


def test_one_client_alone_equals_its_place_in_a_batch(small):
    y, user = small.item_factors, 5
    ids, strengths = small.interactions.item_ids, small.interactions.strengths
    own = slice(*small.interactions.indptr[user : user + 2])
    data = ClientData(
        jnp.asarray(ids[own]), jnp.asarray(strengths[own]), jnp.ones(own.stop - own.start, bool)
    )
    history = observe(model_of(), data)
    update, info = client_update(model_of(), y, history)
    _, _, x, _, _ = dense(small, 4.0, np.asarray(y, np.float64))
    assert relative_error(update.user_factor, x[user]) <= 1e-5
    np.testing.assert_allclose(info.loss, loss(model_of(), y, update.user_factor, history), rtol=1e-5)


def test_sweeps_of_als_match_dense_reference(small, float64):
    y = np.asarray(small.item_factors, np.float64)
    found, info = run_sweeps(model_of(), jnp.asarray(y), small.clients, small.items, num_sweeps=2)
    losses = []
    for _ in range(2):
        c, p, x, of_users, of_items = dense(small, 4.0, y)
        penalties = np.sum(of_users * np.sum(x**2, axis=1)) + np.sum(of_items * np.sum(y**2, axis=1))
        losses.append(np.sum(c * (p - x @ y.T) ** 2) + penalties)
        items = zip(c.T, p.T, of_items, strict=True)
        y = np.stack([solve_user(x, *row, regularization=own) for *row, own in items])
    assert relative_error(found, y) <= 1e-9
    np.testing.assert_allclose(info.loss, losses, rtol=1e-9)


@pytest.mark.parametrize("step", [optimizers.guarded_gram, optimizers.gram_preconditioned])
def test_federation_reaches_the_loss_of_als(step, small, float64):
    start = jnp.asarray(small.item_factors, jnp.float64)
    federation = federated_cf(model_of(), step(), num_items=NUM_ITEMS, num_factors=start.shape[1])
    state = federation.init(jax.random.key(0), start)
    _, info = run_rounds(federation, jax.random.key(0), state, small.clients, num_rounds=60)
    _, expected = run_sweeps(model_of(), start, small.clients, small.items, num_sweeps=60)
    np.testing.assert_allclose(info.loss[-1], expected.loss[-1], rtol=1e-4)


def test_exponent_of_0_is_one_lambda_for_all(small):
    zero, none = (
        jax.jit(cohort_sum)(model_of(exponent=exponent), small.item_factors, small.clients)[0]
        for exponent in (0.0, None)
    )
    assert relative_error(zero.upload, none.upload) <= 1e-5
    np.testing.assert_allclose(zero.loss, none.loss, rtol=1e-6)
    assert float(regularization_of(model_of(exponent=0.0), 3, 5)) == pytest.approx(LAMBDA)


def test_derivative_by_the_exponent_matches_finite_difference(small, float64):
    y = jnp.asarray(small.item_factors, jnp.float64)

    @jax.jit
    def number(exponent):
        sums, _ = cohort_sum(model_of(1.0, exponent), y, small.clients)
        return jnp.sum(jnp.sin(sums.upload)) + sums.loss

    expected = (number(NU + 1e-5) - number(NU - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(number))(NU), expected, rtol=1e-6)
