"""Centralised ALS, the yardstick."""

import jax
import numpy as np
import optax
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION, als_sweep, gradient, relative_error

from fcf_jax.als import centralized_als, fit_als, run_sweeps
from fcf_jax.core.federation import federated_cf
from fcf_jax.core.weighting import implicit_feedback

MODEL = {"num_factors": NUM_FACTORS, "regularization": REGULARIZATION}
WEIGHTING = implicit_feedback(alpha=ALPHA)


def test_sweep_matches_dense_reference(small, in_float64):
    als = centralized_als(WEIGHTING, num_items=17, **MODEL)
    clients, items = in_float64(small.clients), in_float64(small.items)
    factors, _ = run_sweeps(als, jnp.asarray(small.item_factors), clients, items, num_sweeps=1)
    x, y = als_sweep(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert relative_error(factors.user_factors, x) <= 1e-9  # float64
    assert relative_error(factors.item_factors, y) <= 1e-9


def test_loss_falls_in_every_sweep(small):
    _, info = fit_als(jax.random.key(0), small.clients, small.items, WEIGHTING, **MODEL, num_sweeps=15)
    losses = np.asarray(info.loss)
    assert (np.diff(losses) <= 1e-6 * losses[0]).all()  # float32 rounding once it has converged
    assert losses[-1] < losses[0]


def test_same_start_as_the_federation_from_the_same_key():
    key = jax.random.key(5)
    als = centralized_als(WEIGHTING, num_items=17, **MODEL)
    federation = federated_cf(optax.sgd(0.1), WEIGHTING, num_items=17, **MODEL)
    np.testing.assert_array_equal(als.init(key), federation.init(key).item_factors)


def test_federated_gradient_vanishes_at_the_fixed_point_of_als(small, in_float64):
    clients, items = in_float64(small.clients), in_float64(small.items)
    factors, _ = fit_als(jax.random.key(0), clients, items, WEIGHTING, **MODEL, num_sweeps=2000)
    federation = federated_cf(optax.sgd(0.0), WEIGHTING, num_items=17, **MODEL)
    state = federation.init(jax.random.key(0))._replace(item_factors=factors.item_factors)
    _, info = jax.jit(federation.round)(jax.random.key(0), state, clients)
    start = gradient(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert float(info.gradient_norm) <= 1e-6 * np.linalg.norm(start)  # ALS converges linearly; float64
