"""Derivatives of all orders through the packed functions, against finite differences in float64."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import relative_error
from small_data import make_small

from fcf_jax.als import run_sweeps
from fcf_jax.core.federation import federated_cf, run_rounds, server_init
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.optimizers import guarded_gram, paper_adam, running_sums

NUM_ITEMS, NUM_FACTORS, STEP = 7, 3, 1e-5
NUMBERS = np.array([0.4, 0.9, 0.7, 0.01])  # alpha, lambda, w0, learning rate


@pytest.fixture(scope="module")
def tiny():
    """Return clients and items of 6 users and 7 items, and item factors."""
    with jax.enable_x64(True):
        small = make_small(6, NUM_ITEMS)
        start = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_ITEMS, NUM_FACTORS)))
        return small.clients, small.items, start


def model_of(numbers):
    alpha, regularization, w0, _ = numbers
    return Model(implicit_feedback(alpha=alpha), regularization, w0)


def number_after_rounds(make_step, clients):
    """Return a function of the hyperparameters and Y: a number made of Y and the loss of three rounds."""

    def number(numbers, item_factors):
        step = make_step(numbers[3])
        federation = federated_cf(
            model_of(numbers), step, num_items=NUM_ITEMS, num_factors=NUM_FACTORS, cohort_size=4
        )
        state = server_init(item_factors, step)
        key = jax.random.key(0)
        state, info = run_rounds(federation, key, state, clients, num_rounds=3, row_capacity=8)
        return jnp.sum(jnp.sin(state.item_factors)) + 0.01 * info.loss[-1]

    return number


def check_gradient(graded, numbers, item_factors):
    """Compare reverse mode with central differences, whose error is of order STEP^2."""

    def slope_along(of_numbers, of_factors):
        ahead, behind = (
            graded(numbers + sign * STEP * of_numbers, item_factors + sign * STEP * of_factors)[0]
            for sign in (1, -1)
        )
        return (ahead - behind) / (2 * STEP)

    _, (of_numbers, of_factors) = graded(numbers, item_factors)
    for place, slope in enumerate(of_numbers):
        expected = slope_along(np.eye(len(numbers))[place], 0.0)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)
    direction = np.random.default_rng(1).normal(size=item_factors.shape)
    np.testing.assert_allclose(np.vdot(of_factors, direction), slope_along(0.0, direction), rtol=1e-5)


def graded(number):
    """Compile value and gradient as one program."""
    return jax.jit(jax.value_and_grad(number, argnums=(0, 1)))


def test_first_and_second_derivatives_through_three_rounds_match_finite_differences(tiny, float64):
    clients, _, start = tiny
    number = number_after_rounds(optax.sgd, clients)

    @jax.jit  # both orders in one program: compiling is what takes time
    def both(numbers, item_factors):
        def of_numbers(numbers):
            value, slopes = jax.value_and_grad(number, argnums=(0, 1))(numbers, item_factors)
            return slopes[0], (value, slopes)

        return jax.jacfwd(of_numbers, has_aux=True)(numbers)

    def first(numbers, item_factors):
        return both(numbers, item_factors)[1]

    for alpha in (0.1, 0.4, 16.0):  # all solved by conjugate gradients, some directly, all directly
        numbers = np.array([alpha, *NUMBERS[1:]])
        check_gradient(first, numbers, start)
        hessian, _ = both(numbers, start)
        for place, row in enumerate(hessian.T):
            shift = STEP * np.eye(len(numbers))[place]
            ahead, behind = (first(numbers + sign * shift, start)[1][0] for sign in (1, -1))
            assert relative_error(row, (ahead - behind) / (2 * STEP)) <= 1e-5
        assert relative_error(hessian, hessian.T) <= 1e-9


def test_gradient_through_guarded_steps_matches_finite_difference(tiny, float64):
    clients, _, start = tiny
    number = number_after_rounds(lambda rate: guarded_gram(confidence_factor=1 + rate, memory=2), clients)
    check_gradient(graded(number), NUMBERS, start)


def test_gradient_through_als_matches_finite_difference(tiny, float64):
    clients, items, start = tiny

    def number(numbers, item_factors):
        found, info = run_sweeps(model_of(numbers), item_factors, clients, items, num_sweeps=2)
        return jnp.sum(jnp.sin(found)) + 0.01 * info.loss[-1]

    check_gradient(graded(number), NUMBERS, start)


def test_equal_eigenvalues_of_the_user_gram_have_a_derivative(float64):
    sums = {"model": Model(implicit_feedback(alpha=1.0), 0.5), "num_users": 5}
    y = jnp.ones((NUM_ITEMS, NUM_FACTORS))

    @jax.jit
    def length(scale):
        step, _ = running_sums(1.0).update(
            y, running_sums().init(y), y, user_gram=scale * jnp.eye(3), confidence_sum=jnp.ones(7), **sums
        )
        return jnp.sum(step**2)

    rise = length(2 + STEP) - length(2 - STEP)
    np.testing.assert_allclose(jax.jit(jax.grad(length))(2.0), rise / (2 * STEP), rtol=1e-7)


def test_paper_adam_has_a_derivative_where_the_gradient_is_zero():
    step = paper_adam(0.1)
    total = jax.jit(lambda g: jnp.sum(step.update(g, step.init(g))[0]))
    slope = jax.grad(total)(jnp.array([0.0, 1.0]))
    assert np.isfinite(slope).all()
