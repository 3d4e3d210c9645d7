"""Compression in rounds: its states, the server's step on item subsets, and where and how clients are run."""

import dense_uploads as dense
import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, gradient, relative_error, solve_users
from small_data import MODEL

from fcf_jax.channel import (
    chain,
    item_subset,
    quantize_uploads,
    quantize_with_feedback,
    step_of_sent_items,
    top_rows,
)
from fcf_jax.channel.item_choice import CHOICES, Bandit, Learned, rewards
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.packing import pack_clients
from fcf_jax.parallel.batch import run_side_by_side
from fcf_jax.parallel.mesh import client_mesh, place_state
from fcf_jax.parallel.stream import run_rounds_streamed

KEY = jax.random.key(3)
SIZES = {"num_items": 17, "num_factors": NUM_FACTORS}
STEP = step_of_sent_items(optax.adam(0.05))


def make(bits, mesh=None):
    """Build a federation with a state in two links of its channel."""
    channel = chain(
        item_subset(0.6, choice="popularity", **SIZES),
        quantize_with_feedback(bits, num_users=13, num_factors=NUM_FACTORS),
        quantize_uploads(6, is_stochastic=True),
    )
    return federated_cf(MODEL, STEP, channel=channel, cohort_size=6, mesh=mesh, **SIZES)


def test_rounds_side_by_side_and_streamed_over_a_mesh_agree(small, num_compiled):
    """In other chunks, too; another number of bits is another run of the same program."""
    keys, bits, others = jnp.stack([KEY, KEY]), jnp.array([4.0, 8.0]), jnp.array([3.0, 7.0])
    states, _ = run_side_by_side(make, keys, bits, small.clients, num_rounds=2)
    assert relative_error(states.item_factors[1], states.item_factors[0]) > 1e-4
    before = num_compiled()
    run_side_by_side(make, keys, others, small.clients, num_rounds=2)
    assert num_compiled() == before
    mesh = client_mesh(1)
    one = make(4.0, mesh)
    clients = pack_clients(small.interactions, row_width=4, chunk_slots=24, chunk_clients=3)
    state = place_state(one.init(KEY), mesh)
    state, _ = run_rounds_streamed(one, KEY, state, clients, num_rounds=2, block_chunks=1)
    (found, memory, _), (expected, expected_memory, _) = state.channel_state, states.channel_state
    np.testing.assert_allclose(state.item_factors, states.item_factors[0], rtol=1e-4, atol=1e-5)  # float32
    np.testing.assert_array_equal(found.is_sent, expected.is_sent[0])
    np.testing.assert_allclose(memory, expected_memory[0], atol=1e-5)
    assert np.count_nonzero(np.any(memory != 0, axis=1)) > 6  # those of both cohorts


def test_error_feedback_matches_dense_reference(small):
    """Two rounds of all clients: what each leaves out of the first is in the second."""
    link, rate, y = quantize_with_feedback(3, num_users=13, num_factors=NUM_FACTORS), 1e-3, small.item_factors
    one = federated_cf(MODEL, optax.sgd(rate), channel=link, **SIZES)
    state = one.init(KEY, jnp.asarray(y, jnp.float32))
    state, _ = run_rounds(one, KEY, state, small.clients, num_rounds=2)
    memory = np.zeros((13, NUM_FACTORS))
    for _ in range(2):
        x = solve_users(y, small.c, small.p, regularization=REGULARIZATION)
        wanted = x + memory
        sent = dense.rounded(wanted, 3)
        memory = wanted - sent
        scores = x @ y.T
        seen = np.where(small.p > 0, small.c * (small.p - scores) + scores, 0.0)
        gram = x.T @ sent
        upload = seen.T @ sent - y @ (0.5 * (gram + gram.T))
        y = y - rate * (-2 * upload + 2 * REGULARIZATION * y)
    assert relative_error(state.item_factors, y) <= 1e-5  # float32
    np.testing.assert_allclose(state.channel_state, memory, atol=1e-5)
    assert np.abs(memory).max() > 0.01


def test_feedback_behind_another_link_is_refused(small):
    link = quantize_with_feedback(3, num_users=13, num_factors=NUM_FACTORS)
    one = federated_cf(MODEL, STEP, channel=chain(top_rows(0.5), link), **SIZES)
    with pytest.raises(ValueError, match="put quantization with error feedback first in the chain"):
        jax.eval_shape(one.round, KEY, one.init(KEY), small.clients)


def test_step_moves_the_items_that_were_sent_as_the_gradient_of_these_alone_says(small):
    """Plain descent on a subset is that of a catalogue of these items; others keep factors and momentum."""
    link = item_subset(0.6, choice="bandit", **SIZES)
    is_sent, y = np.asarray(link.init().is_sent), small.item_factors
    one = federated_cf(MODEL, step_of_sent_items(optax.sgd(1e-2, momentum=0.9)), channel=link, **SIZES)
    start = one.init(KEY, jnp.asarray(y, jnp.float32))
    start = start._replace(
        optimizer_state=jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.3), start.optimizer_state)
    )
    state, _ = run_rounds(one, KEY, start, small.clients, num_rounds=1)
    found = np.asarray(state.item_factors)
    slope = gradient(y[is_sent], small.c[:, is_sent], small.p[:, is_sent], regularization=REGULARIZATION)
    np.testing.assert_allclose(found[is_sent], y[is_sent] - 1e-2 * (slope + 0.9 * 0.3), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[~is_sent], start.item_factors[~is_sent])
    (momentum,) = jax.tree.leaves(state.optimizer_state)
    np.testing.assert_array_equal(momentum[~is_sent], np.float32(0.3))
    assert np.all(np.asarray(momentum[is_sent]) != 0.3)
    assert not np.array_equal(state.channel_state.is_sent, is_sent)  # others in the next round
    np.testing.assert_array_equal(state.channel_state.knowledge.count, is_sent)


def learned(num_items=4, *, sent=(0, 2), seed=0):
    rng, is_sent = np.random.default_rng(seed), np.isin(np.arange(num_items), sent)
    upload = rng.normal(size=(num_items, 3)) * is_sent[:, None]
    return Learned(jnp.asarray(is_sent), jnp.asarray(upload, jnp.float32), jnp.asarray([8.0, 0.0, 2.0, 0.0]))


def test_rewards_of_the_bandit_match_their_formula():
    bandit = CHOICES["bandit"].start(4, 3)
    last, average = np.zeros((4, 3)), np.zeros((4, 3))
    for time in range(1, 4):
        one = learned(sent=(0, time), seed=time)
        found, bandit = rewards(bandit, one)
        is_sent, upload = np.asarray(one.is_sent), np.asarray(one.upload, np.float64)
        now = np.where(is_sent[:, None], upload, last)
        average = 0.99 * average + 0.01 * now**2
        corrected = average / (1 - 0.99**time)
        with np.errstate(invalid="ignore"):
            cosine = (corrected * now).sum(1) / (
                np.linalg.norm(corrected, axis=1) * np.linalg.norm(now, axis=1)
            )
        reward = 0.001 * time * cosine + 0.999 / time * np.abs(now - last).sum(1)
        reward = np.where(is_sent, reward, 0.0)
        np.testing.assert_allclose(found, reward / reward.max(), rtol=1e-4, atol=1e-6)
        last = now


def test_choices_prefer_what_they_have_learned():
    """The bandit draws from the posterior of each mean reward; popularity by mean confidence sums."""
    sums, count = jnp.array([9.0, 0.0, 1.0]), jnp.array([9, 0, 9])
    zeros = jnp.zeros((3, 2))
    drawn = jax.vmap(
        lambda key: CHOICES["bandit"].draw(key, Bandit(sums, count, zeros, zeros, jnp.int32(9)), 3)
    )(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(drawn.mean(axis=0), [0.9, 0.0, 0.1], atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(drawn.std(axis=0), [0.1**0.5, 1.0, 0.1**0.5], rtol=0.1)
    choice = CHOICES["popularity"]
    known = choice.learn(choice.start(4, 3), learned())  # 8 and 2; others, never sent, count as 5
    first = jax.vmap(lambda key: jnp.argmax(choice.draw(key, known, 4)))(jax.random.split(KEY, 4000))
    shares = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(shares, np.array([8, 5, 2, 5]) / 20, atol=5 * 0.5 / np.sqrt(4000))
