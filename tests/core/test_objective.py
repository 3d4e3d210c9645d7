"""Confidence, preference, and the objective of one user against finite differences."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.core import objective
from fcf_jax.core.objective import confidence, explicit_ratings, implicit_feedback
from fcf_jax.core.records import ClientData, Model
from fcf_jax.core.solve import solve_user_factor

item_gradient, loss = jax.jit(objective.item_gradient), jax.jit(objective.loss)
solve = jax.jit(solve_user_factor)
WEIGHTING = implicit_feedback(alpha=1.0)  # of observations that are weighted already
DATA = ClientData(jnp.array([4, 1]), jnp.array([2.0, 0.5]), jnp.array([True, False]))


def test_known_answer_implicit_feedback():
    observations = implicit_feedback(alpha=3.0)(DATA)
    assert observations.confidence.tolist() == [7.0, 2.5]
    assert observations.preference.tolist() == [1.0, 1.0]
    assert observations.item_ids.tolist() == [4, 1] and observations.mask.tolist() == [True, False]


def test_known_answer_explicit_ratings():
    observations = explicit_ratings(mean=1.5)(DATA)
    assert observations.confidence.tolist() == [1.0, 1.0] and observations.preference.tolist() == [0.5, -1.0]


def test_limit_alpha_zero_recovers_equal_confidence():
    assert confidence(DATA.strengths, alpha=0.0).tolist() == [1.0, 1.0]


@pytest.fixture
def client(observed, float64):
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(size=(17, 5)))
    return y, observed([2, 9, 16], [5.0, 2.0, 9.0], [1.0, -0.5, 2.0], slots=4, dtype=jnp.float64)


@pytest.mark.parametrize("w0", [0.0, 0.1, 1.0, 2.0])
def test_item_gradient_matches_finite_difference(client, w0):
    (y, observations), model = client, Model(WEIGHTING, 0.5, w0)
    x = jnp.linspace(-1.0, 1.0, 5)

    def value(y):
        return loss(model, y, x, observations)

    gradient = item_gradient(model, y, x, observations)
    np.testing.assert_allclose(gradient, jax.grad(value)(y), rtol=1e-10, atol=1e-12)  # float64 rounding
    direction = jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
    slope = (value(y + 1e-4 * direction) - value(y - 1e-4 * direction)) / 2e-4
    # the loss is quadratic in Y: the central difference is exact but for rounding: eps 1e3 / 1e-4
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-8)


@pytest.mark.parametrize("w0", [0.0, 1.0])
def test_envelope_gradient_matches_finite_difference(client, w0):
    """The derivative of min_x J needs no derivative of x."""
    (y, observations), model = client, Model(WEIGHTING, 0.5, w0)

    @jax.jit
    def least(y):
        return loss(model, y, solve(model, y, observations), observations)

    x = solve(model, y, observations)
    gradient = item_gradient(model, y, x, observations)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=y.shape))
    slope = (least(y + 1e-5 * direction) - least(y - 1e-5 * direction)) / 2e-5
    # central difference: step^2 = 1e-10 of a third derivative, and rounding eps 1e1 / 1e-5
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(least)(y), gradient, rtol=1e-8, atol=1e-9)  # x solved to 1e-12
