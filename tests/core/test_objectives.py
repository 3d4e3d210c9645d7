"""Biases, logistic matrix factorization and BPR, against dense float64 references and finite differences."""

from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import relative_error
from scipy.optimize import minimize

from fcf_jax import optimizers
from fcf_jax.als import run_sweeps
from fcf_jax.channel import Pieces, choose_formats, clip_and_noise, fixed_point
from fcf_jax.core.biases import biases, with_biases
from fcf_jax.core.client import client_update
from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.objective import explicit_ratings, implicit_feedback, loss, observe
from fcf_jax.core.objectives.bpr import bpr
from fcf_jax.core.objectives.logistic import logistic, sampled_feedback
from fcf_jax.core.packing import pack_clients, pack_items
from fcf_jax.core.records import ClientData, Model
from fcf_jax.data.sampled import with_negatives, with_pairs
from fcf_jax.joint import fit_jointly

LAMBDA, ALPHA = 0.6, 0.5
NUM_USERS, NUM_ITEMS, NUM_FACTORS = 13, 17, 5
PACKING: dict[str, Any] = {"row_width": 4, "chunk_slots": 64, "chunk_clients": 5}
MODELS = {
    "biases, implicit": Model(implicit_feedback(alpha=4.0), LAMBDA, 0.8, biases=biases()),
    "biases, ratings": Model(explicit_ratings(mean=3.0), LAMBDA, 0.0, biases=biases()),
    "logistic": Model(sampled_feedback(alpha=ALPHA), LAMBDA, 0.0, objective=logistic()),
    "logistic, biases": Model(
        sampled_feedback(alpha=ALPHA), LAMBDA, 0.0, objective=logistic(), biases=biases()
    ),
    "logistic over w0": Model(sampled_feedback(alpha=ALPHA), LAMBDA, 0.1, objective=logistic()),
    "bpr": Model(implicit_feedback(alpha=0.0), LAMBDA, 0.0, objective=bpr()),
    "bpr, biases": Model(implicit_feedback(alpha=0.0), LAMBDA, 0.0, objective=bpr(), biases=biases()),
}
SYMMETRIC = [name for name in MODELS if "bpr" not in name]


def histories_of(name, small):
    if "bpr" in name:
        return with_pairs(small.interactions, num_negatives=2, seed=1)
    return (
        with_negatives(small.interactions, num_negatives=1, seed=1)
        if "logistic" in name
        else small.interactions
    )


def first_factors(name, small):
    rng = np.random.default_rng(3)
    y = np.asarray(small.item_factors)
    if MODELS[name].biases is not None:
        y = np.array(with_biases(jnp.asarray(y), biases()))
        y[:, -2] = rng.normal(size=NUM_ITEMS)
    return y


def dense_loss(name, histories, x, y, *, of_items=True):
    """J in float64: one term for each observed item or pair, and w0 for all others."""
    model = MODELS[name]
    users = np.repeat(np.arange(NUM_USERS), np.diff(histories.indptr))
    items, strengths, scores = histories.item_ids, histories.strengths, x @ y.T
    observed = scores[users, items]
    if "bpr" in name:
        losses = 2 * np.logaddexp(0, scores[users, histories.negative_ids] - observed)
    elif "logistic" in name:
        losses = (1 + ALPHA * strengths) * 2 * (np.logaddexp(0, observed) - (strengths > 0) * observed)
    elif "ratings" in name:
        losses = (strengths - 3.0 - observed) ** 2
    else:
        losses = (1 + 4.0 * strengths) * (1 - observed) ** 2
    w0 = model.unobserved_weight
    total = np.sum(losses) - w0 * np.sum(observed**2) + w0 * np.sum(scores**2)
    learned_x, learned_y = (x, y) if model.biases is None else (np.delete(x, -2, 1), np.delete(y, -1, 1))
    return total + LAMBDA * (np.sum(learned_x**2) + of_items * np.sum(learned_y**2))


def dense_users(name, histories, y):
    """Each user's factor by a general minimizer; the constant coordinate is held at 1."""
    with_constant = MODELS[name].biases is not None
    free = [k for k in range(y.shape[1]) if not (with_constant and k == y.shape[1] - 2)]

    def all_users(flat):
        x = np.ones((NUM_USERS, y.shape[1]))
        x[:, free] = flat.reshape(NUM_USERS, -1)
        return x

    found = minimize(
        lambda flat: dense_loss(name, histories, all_users(flat), y, of_items=False),
        np.zeros(NUM_USERS * len(free)), method="BFGS", options={"gtol": 1e-7},
    )  # fmt: skip
    return all_users(found.x)


def packed(histories):
    return pack_clients(histories, **PACKING)


@pytest.mark.parametrize("name", MODELS)
def test_round_matches_dense_reference(name, small, float64):
    histories, y = histories_of(name, small), first_factors(name, small)
    sums, error = jax.jit(cohort_sum)(MODELS[name], jnp.asarray(y), packed(histories))
    x = dense_users(name, histories, y)
    assert float(error) <= 1e-8
    of_users = dense_loss(name, histories, x, y, of_items=False)
    np.testing.assert_allclose(sums.loss, of_users, rtol=1e-9)
    assert relative_error(sums.user_gram, x.T @ x) <= 1e-5  # of BFGS

    def number(y):
        return dense_loss(name, histories, x, y, of_items=False)

    columns = y.shape[1] - (MODELS[name].biases is not None)
    step, expected = 1e-5, np.zeros_like(y)
    for place in np.ndindex(NUM_ITEMS, columns):
        moved = np.zeros_like(y)
        moved[place] = step
        expected[place] = (number(y + moved) - number(y - moved)) / (2 * step)
    assert relative_error(-2 * sums.upload[:, :columns], expected[:, :columns]) <= 1e-5


@pytest.mark.parametrize("name", ["biases, ratings", "logistic, biases", "bpr, biases"])
def test_federation_reaches_the_loss_of_central_training(name, small, float64):
    histories, start = histories_of(name, small), jnp.asarray(first_factors(name, small))
    model, clients = MODELS[name], packed(histories)
    federation = federated_cf(model, optimizers.guarded_gram(), num_items=NUM_ITEMS, num_factors=NUM_FACTORS)
    state = federation.init(jax.random.key(0), start)
    state, info = run_rounds(federation, jax.random.key(0), state, clients, num_rounds=200)
    _, losses = fit_jointly(model, start, clients, num_steps=200)
    np.testing.assert_allclose(info.loss[-1], losses[-1], rtol=1e-5)
    assert np.all(np.asarray(state.item_factors)[:, -1] == 1)
    if "bpr" not in name:
        _, sweeps = run_sweeps(model, start, clients, pack_items(histories, **PACKING), num_sweeps=60)
        np.testing.assert_allclose(sweeps.loss[-1], losses[-1], rtol=1e-4)


@pytest.mark.parametrize("name", ["biases, implicit", "logistic, biases"])
def test_loss_and_first_derivatives_of_a_round_match_finite_differences(name, small, float64):
    clients, y = packed(histories_of(name, small)), jnp.asarray(first_factors(name, small))

    @jax.jit
    def number(shift):
        model = MODELS[name]._replace(regularization=LAMBDA * (1 + shift))
        moved = y.at[:, :NUM_FACTORS].multiply(1 + shift)
        sums, _ = cohort_sum(model, moved, clients)
        return jnp.sum(jnp.sin(sums.upload[:, :NUM_FACTORS])) + sums.loss

    expected = (number(1e-5) - number(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(number))(0.0), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(number, (0.0,), (1.0,))[1], expected, rtol=1e-6)


def test_one_client_alone_equals_its_place_in_a_batch(small, float64):
    name, user = "logistic, biases", 5
    histories, y = histories_of(name, small), jnp.asarray(first_factors(name, small))
    own = slice(*histories.indptr[user : user + 2])
    data = ClientData(
        jnp.asarray(histories.item_ids[own]),
        jnp.asarray(histories.strengths[own]),
        jnp.ones(own.stop - own.start, bool),
    )
    observations = observe(MODELS[name], data)
    update, info = jax.jit(client_update)(MODELS[name], y, observations)
    x, _ = jax.jit(solve_clients)(MODELS[name], y, packed(histories))
    assert relative_error(update.user_factor, x[user]) <= 1e-6
    np.testing.assert_allclose(info.loss, loss(MODELS[name], y, update.user_factor, observations), rtol=1e-6)


def test_damped_steps_find_the_minimum_where_whole_steps_never_do(float64):
    rng = np.random.default_rng(245)  # found by search: whole Newton steps oscillate for ever
    y = jnp.asarray(rng.normal(size=(6, 2)) * rng.choice([0.3, 1, 10], size=(6, 1)))
    strengths = jnp.asarray(rng.random(6) < 0.8, jnp.float64)
    model = Model(sampled_feedback(alpha=0.0), 1e-3, 0.0, objective=logistic())
    observations = observe(model, ClientData(jnp.arange(6), strengths, jnp.ones(6, bool)))
    update, info = jax.jit(client_update)(model, y, observations)
    slope = jax.grad(lambda x: loss(model, y, x, observations))(update.user_factor)
    assert float(info.solve_error) <= 1e-10 and np.abs(slope).max() <= 1e-10


@pytest.mark.parametrize(("model", "histories", "message"), [
    (MODELS["bpr"], lambda small: small.interactions, "with_pairs"),
    (MODELS["logistic"], lambda small: with_pairs(small.interactions, num_negatives=1), "pairwise objective"),
    (MODELS["bpr"]._replace(unobserved_weight=1.0), lambda small: small.interactions, "of 0 with bpr"),
    (MODELS["bpr"]._replace(objective="bpr"), lambda small: small.interactions, "logistic()"),
    (MODELS["bpr"]._replace(biases=True), lambda small: small.interactions, "biases()"),
])  # fmt: skip
def test_models_and_histories_that_do_not_fit_are_refused(model, histories, message, small):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        cohort_sum(model, small.item_factors, packed(histories(small)))


def test_pairs_are_neither_clipped_nor_summed_in_fixed_point(small):
    clients = packed(with_pairs(small.interactions, num_negatives=1))
    links = (
        clip_and_noise(
            clip_norms=Pieces(1.0, None, None, None), noise_multiplier=0.0, expected_cohort_size=5
        ),
        fixed_point(choose_formats(Pieces(1.0, 1.0, 1.0, 1.0), max_clients=20), max_clients=20),
    )
    for link in links:
        with pytest.raises(ValueError, match="stand alone"):
            cohort_sum(MODELS["bpr"], small.item_factors, clients, channel=link, key=jax.random.key(0))
