"""The server steps of our own."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION
from small_data import MODEL

from fcf_jax.als import run_sweeps
from fcf_jax.core.federation import draw_item_factors, federated_cf, run_rounds
from fcf_jax.optimizers import gram_preconditioned, guarded_gram, paper_adam, running_sums


def run(optimizer, small, num_rounds):
    federation = federated_cf(MODEL, optimizer, num_items=17, num_factors=NUM_FACTORS)
    state = federation.init(jax.random.key(0))
    return run_rounds(federation, jax.random.key(1), state, small.clients, num_rounds=num_rounds)


def test_known_answer_first_two_steps_of_paper_adam():
    optimizer = paper_adam(0.1, b1=0.5, b2=0.75, eps=0.0)
    gradient = jnp.array([[2.0, -4.0]])
    step, state = optimizer.update(gradient, optimizer.init(jnp.zeros((1, 2))))
    np.testing.assert_allclose(step, [[-0.1, 0.1]], rtol=1e-6)  # m/(1-b1) = g, v/(1-b2) = g^2
    step, _ = optimizer.update(gradient, state)
    # m = .75 g over .5 is 1.5 g; v = .4375 g^2 over .25 is 1.75 g^2
    expected = 0.1 * 1.5 / np.sqrt(1.75)
    np.testing.assert_allclose(step, [[-expected, expected]], rtol=1e-6)


def test_first_steps_of_both_adams_agree():
    gradient = jnp.array([[2.0, -4.0]])
    steps = [o.update(gradient, o.init(gradient))[0] for o in (paper_adam(0.1), optax.adam(0.1, b2=0.99))]
    np.testing.assert_allclose(*steps, rtol=1e-5)  # float32: 1 - b^1 in two ways


def sums_of_a_round(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(20, NUM_FACTORS))
    return rng.normal(size=(17, NUM_FACTORS)), root.T @ root, rng.uniform(0, 30, 17)


def explicit_step(gradient, user_gram, curvature, learning_rate=1.0):
    hessians = 2 * (curvature[:, None, None] * user_gram + REGULARIZATION * np.eye(NUM_FACTORS))
    return -learning_rate * np.linalg.solve(hessians, gradient[:, :, None])[:, :, 0]


def test_gram_preconditioned_matches_dense_reference():
    gradient, user_gram, confidence_sum = sums_of_a_round()
    optimizer = gram_preconditioned(0.5, confidence_factor=2.0)
    sums = {
        "model": MODEL._replace(unobserved_weight=0.1),
        "user_gram": jnp.float32(user_gram),
        "confidence_sum": jnp.float32(confidence_sum),
        "num_users": 13,
    }
    y = jnp.zeros((17, NUM_FACTORS))
    step, _ = optimizer.update(jnp.float32(gradient), optimizer.init(y), y, **sums, value=jnp.float32(0))
    expected = explicit_step(gradient, user_gram, 0.1 + 2.0 * confidence_sum / 13, 0.5)
    np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-6)  # float32 eigendecomposition


def test_guarded_gram_goes_back_when_the_value_rose_and_speeds_up_when_it_fell():
    gradient, user_gram, confidence_sum = sums_of_a_round()
    optimizer = guarded_gram(initial_damping=2.0)
    sums = {
        "model": MODEL,
        "user_gram": jnp.float32(user_gram),
        "confidence_sum": jnp.float32(confidence_sum),
        "num_users": 13,
    }
    curvature = 1.0 + confidence_sum / 13
    update = jax.jit(lambda g, s, y, value: optimizer.update(g, s, y, **sums, value=value))
    start = jnp.asarray(np.random.default_rng(1).normal(size=(17, NUM_FACTORS)), jnp.float32)
    step, state = update(jnp.float32(gradient), optimizer.init(start), start, jnp.float32(100.0))
    np.testing.assert_allclose(step, explicit_step(gradient, user_gram, 2 * curvature), rtol=1e-4, atol=1e-6)
    assert float(state.damping) == 2.0
    predicted = float(state.predicted_decrease)
    np.testing.assert_allclose(predicted, -0.5 * np.sum(gradient * np.asarray(step)), rtol=1e-5)
    moved = start + step

    for worse in (101.0, np.nan):
        back, rejected = update(jnp.float32(gradient), state, moved, jnp.float32(worse))
        assert float(rejected.damping) == 8.0
        # the step is taken from the last Y, with its gradient and four times the damping
        expected = np.asarray(start) + explicit_step(gradient, user_gram, 8 * curvature)
        np.testing.assert_allclose(moved + back, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(rejected.accepted.item_factors, start)

    for share, factor in ((1.0, 1 / 1.2), (0.5, 1.0), (0.1, 2.0)):  # of the predicted decrease
        _, accepted = update(jnp.float32(gradient), state, moved, jnp.float32(100.0 - share * predicted))
        np.testing.assert_allclose(accepted.damping, 2.0 * factor, rtol=1e-6)
        np.testing.assert_array_equal(accepted.accepted.item_factors, moved)


def test_guarded_gram_reaches_the_loss_of_als(small):
    _, info = run(guarded_gram(), small, 31)
    item_factors = draw_item_factors(jax.random.key(0), num_items=17, num_factors=NUM_FACTORS)
    for _ in range(4):  # 40 sweeps, with the program of the tests of ALS
        item_factors, als = run_sweeps(MODEL, item_factors, small.clients, small.items, num_sweeps=10)
    assert float(info.loss[-1]) <= 1.005 * float(als.loss[-1])  # half a percent in 30 rounds


def test_limit_full_weight_recovers_gram_preconditioned(small):
    plain, _ = run(gram_preconditioned(0.5, confidence_factor=3.0), small, 4)
    full_weight = running_sums(0.5, confidence_factor=3.0, averaging=lambda t: jnp.ones_like(t))
    averaged, _ = run(full_weight, small, 4)
    np.testing.assert_allclose(
        averaged.item_factors, plain.item_factors, rtol=1e-3, atol=1e-4
    )  # float32, 4 rounds


def test_running_sums_forget_nothing_of_an_item_whose_users_stayed_away():
    gradient, user_gram, confidence_sum = (jnp.asarray(leaf, jnp.float32) for leaf in sums_of_a_round())
    present = jnp.arange(17) % 2 == 0  # in the second round, at the same Y
    point = jnp.zeros_like(gradient)
    steps = []
    for weight in (0.3, 0.9):
        optimizer = running_sums(1.0, averaging=lambda t, w=weight: jnp.where(t == 0, 1.0, w))
        extra = {"model": MODEL._replace(regularization=1.0), "user_gram": user_gram, "num_users": 20}
        state = optimizer.init(point)
        _, state = optimizer.update(gradient, state, point, confidence_sum=confidence_sum, **extra)
        second = {"confidence_sum": jnp.where(present, confidence_sum, 0.0)}
        step, _ = optimizer.update(
            jnp.where(present[:, None], gradient, 0.0), state, point, **second, **extra
        )
        steps.append(step)
    np.testing.assert_allclose(steps[0][1::2], steps[1][1::2], rtol=1e-4)  # float32
    assert float(jnp.abs(steps[0][1::2]).max()) > 0


def test_without_weight_confidences_are_not_used():
    gradient, user_gram, confidence_sum = (jnp.asarray(leaf, jnp.float32) for leaf in sums_of_a_round())
    point = jnp.zeros_like(gradient)
    for weight, is_same in ((0.0, True), (3.0, False)):
        optimizer, steps = running_sums(confidence_factor=weight), []
        for sent in (confidence_sum, jnp.full(17, jnp.nan) if is_same else 2.0 * confidence_sum):
            extra = {"model": MODEL, "user_gram": user_gram, "num_users": 20, "confidence_sum": sent}
            _, state = optimizer.update(gradient, optimizer.init(point), point, **extra)
            extra["confidence_sum"] = 0.5 * sent
            steps.append(optimizer.update(gradient, state, point, **extra)[0])
        assert np.array_equal(*steps) == is_same


@pytest.mark.parametrize("optimizer", [optax.adam(0.05), paper_adam(0.02)], ids=["optax", "paper"])
def test_adam_lowers_the_loss(optimizer, small):
    _, info = run(optimizer, small, 25)
    assert float(info.loss[-1]) < 0.9 * float(info.loss[0])


@pytest.mark.parametrize(("memory", "is_solved"), [(0, False), (5, True)])
def test_acceleration_solves_a_quadratic_in_few_rounds(memory, is_solved):
    """Three item groups, each of another curvature: as a Krylov method does, it needs few steps."""
    gradient_at_one, user_gram, confidence_sum = (
        jnp.asarray(leaf, jnp.float32) for leaf in sums_of_a_round()
    )
    goal = gradient_at_one
    stiffness = jnp.asarray(np.resize([0.1, 0.3, 0.9], 17), jnp.float32)[:, None]
    hessian = user_gram + jnp.eye(NUM_FACTORS)
    optimizer = guarded_gram(confidence_factor=0.0, initial_damping=1.0, memory=memory)
    point = jnp.zeros_like(goal)
    state, model = optimizer.init(point), MODEL._replace(regularization=1.0)
    extra = {"model": model, "confidence_sum": confidence_sum, "num_users": 20}

    @jax.jit
    def one_round(point, state):
        error = point - goal
        gradient = 2 * stiffness * (error @ hessian)
        value = jnp.sum(stiffness * (error @ hessian) * error)
        updates, state = optimizer.update(gradient, state, point, user_gram=user_gram, value=value, **extra)
        return point + updates, state

    for _ in range(8):
        point, state = one_round(point, state)
    distance = float(jnp.linalg.norm(point - goal) / jnp.linalg.norm(goal))
    assert (distance < 1e-3) == is_solved  # a plain step leaves .9 of the softest group, .9^8 = .43


def test_guarded_gram_updates_its_memory_in_place():
    """The memory is the largest part of a server: no step may copy it."""
    num_items, num_factors = 400, 256
    point, optimizer = jnp.ones((num_items, num_factors)), guarded_gram(memory=20)
    sums = {"user_gram": jnp.eye(num_factors), "confidence_sum": jnp.ones(num_items), "num_users": 20}

    def update(state, point, gradient):
        return optimizer.update(gradient, state, point, model=MODEL, value=jnp.sum(point), **sums)

    state = optimizer.init(point)
    compiled = jax.jit(update, donate_argnums=0).lower(state, point, point).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < state.memory.point_changes.nbytes
