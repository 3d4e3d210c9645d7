"""Rounds: their keys, their compilation, their memory, their hyperparameters."""

import jax
import jax.extend
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION

from fcf_jax.core.federation import _scan_rounds, cohort_rows, federated_cf, run_rounds
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.server import server_init
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.data import Interactions
from fcf_jax.optimizers import running_sums

MODEL = {"num_items": 17, "num_factors": NUM_FACTORS, "regularization": REGULARIZATION}
KEY = jax.random.key(7)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def federation():
    optimizer = running_sums(regularization=REGULARIZATION)
    return federated_cf(optimizer, implicit_feedback(alpha=ALPHA), cohort_size=4, **MODEL)


def test_run_rounds_agrees_with_a_loop_of_rounds(small):
    step = optax.adam(0.05)  # running_sums of four clients would magnify the rounding
    federation = federated_cf(step, implicit_feedback(alpha=ALPHA), cohort_size=4, **MODEL)
    start = federation.init(KEY)
    capacity = cohort_rows(federation, KEY, start, small.clients, num_rounds=7)
    whole, info = run_rounds(federation, KEY, start, small.clients, num_rounds=7)
    one_round = jax.jit(lambda state: federation.round(KEY, state, small.clients, row_capacity=capacity))
    state, cohorts = start, []
    for _ in range(7):
        state, round_info = one_round(state)
        cohorts.append(round_info.client_ids)
    np.testing.assert_array_equal(info.client_ids, jnp.stack(cohorts))
    np.testing.assert_allclose(
        state.item_factors, whole.item_factors, rtol=1e-4, atol=1e-5
    )  # other fusion, float32
    assert info.loss.shape == (7,) and int(whole.round_index) == 7


def test_split_run_equals_an_unbroken_one(small, federation):
    start = federation.init(KEY)
    options = {"row_capacity": cohort_rows(federation, KEY, start, small.clients, num_rounds=7)}
    whole, info = run_rounds(federation, KEY, start, small.clients, num_rounds=7, **options)
    half, first = run_rounds(federation, KEY, start, small.clients, num_rounds=3, **options)
    joined, second = run_rounds(federation, KEY, half, small.clients, num_rounds=4, **options)
    same(joined, whole)  # bit for bit
    same(jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second), info)


@pytest.mark.parametrize("change", ["larger chunks", "smaller chunks", "users permuted", "items permuted"])
def test_training_invariant_to(change, small):
    step = optax.adam(0.05)
    federation = federated_cf(step, implicit_feedback(alpha=ALPHA), **MODEL)

    def train(interactions, item_factors, *, chunk_slots=32, chunk_clients=5):
        options = {"chunk_slots": chunk_slots, "chunk_clients": chunk_clients}
        clients = batch_clients(interactions, row_width=4, **options)
        state, info = run_rounds(federation, KEY, server_init(item_factors, step), clients, num_rounds=5)
        return np.asarray(state.item_factors), np.asarray(info.loss)

    data, start = small.interactions, federation.init(KEY).item_factors
    expected, losses = train(data, start)
    users, items = np.random.default_rng(0).permutation(13), np.random.default_rng(1).permutation(17)
    if change == "larger chunks":
        found, found_losses = train(data, start, chunk_slots=1000, chunk_clients=500)
    elif change == "smaller chunks":
        found, found_losses = train(data, start, chunk_clients=3)
    elif change == "users permuted":
        found, found_losses = train(relabeled(data, users, np.arange(17)), start)
    else:
        found, found_losses = train(relabeled(data, np.arange(13), items), start[np.argsort(items)])
        found = found[items]
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(found_losses, losses, rtol=1e-6)


def relabeled(data, users, items):
    """Give user u the number users[u], and items likewise."""
    return Interactions.from_arrays(
        users[data.user_ids], items[data.item_ids], data.strengths, num_users=13, num_items=17
    )


def test_does_not_recompile(small, federation):
    options = {"num_rounds": 3, "row_capacity": 16}
    state, _ = run_rounds(federation, KEY, federation.init(KEY), small.clients, **options)
    compiled = _scan_rounds._cache_size()
    run_rounds(federation, jax.random.key(8), state, small.clients, **options)
    assert _scan_rounds._cache_size() == compiled


def test_vmap_over_hyperparameters_equals_separate_runs(small):
    def final(alpha, learning_rate):
        federation = federated_cf(optax.adam(learning_rate), implicit_feedback(alpha=alpha), **MODEL)
        state, info = run_rounds(
            federation, KEY, federation.init(KEY), small.clients, num_rounds=3, row_capacity=1
        )
        return state.item_factors, info.loss

    alphas, rates = jnp.array([1.0, 8.0]), jnp.array([0.1, 0.02])
    together = jax.jit(jax.vmap(final))(alphas, rates)
    for run in range(2):
        alone = final(float(alphas[run]), float(rates[run]))
        # float32, products associated otherwise under vmap; Adam magnifies the rounding of small gradients
        np.testing.assert_allclose(together[0][run], alone[0], atol=1e-4)
        np.testing.assert_allclose(together[1][run], alone[1], rtol=1e-4)


def shapes_of(jaxpr):
    """The shapes of every intermediate, through scan, jit, cond and vmap alike."""
    for equation in jaxpr.eqns:
        yield from (getattr(v.aval, "shape", ()) for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_of(inner)


@pytest.mark.parametrize("cohort_size", [None, 67])
def test_no_intermediate_has_both_clients_and_items(cohort_size):
    num_users, num_items = 71, 97  # primes that nothing else here has
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((num_users, num_items)) < 0.1)
    interactions = Interactions.from_arrays(users, items, num_users=num_users, num_items=num_items)
    clients = batch_clients(interactions, row_width=4)
    federation = federated_cf(
        running_sums(regularization=1.0), implicit_feedback(alpha=1.0), num_items=num_items, num_factors=3,
        regularization=1.0, cohort_size=cohort_size,
    )  # fmt: skip
    state = federation.init(KEY)
    capacity = cohort_rows(federation, KEY, state, clients, num_rounds=1)
    jaxpr = jax.make_jaxpr(lambda s: federation.round(KEY, s, clients, row_capacity=capacity))(state).jaxpr
    shapes = set(shapes_of(jaxpr))
    many = {num_users, clients.client_ids.shape[1], clients.owners.shape[1]}
    many |= {cohort_size, capacity} if cohort_size else set()  # everybody's rows are not gathered
    assert any(num_items in shape for shape in shapes) and any(many & set(shape) for shape in shapes)
    assert not [shape for shape in shapes if num_items in shape and many & set(shape)]


@pytest.mark.parametrize("name", ["num_items", "num_factors", "cohort_size"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        federated_cf(optax.sgd(0.1), implicit_feedback(alpha=1.0), **(MODEL | {name: 0}))


def test_a_cohort_larger_than_everybody_is_named(small):
    federation = federated_cf(optax.sgd(0.1), implicit_feedback(alpha=1.0), cohort_size=14, **MODEL)
    with pytest.raises(ValueError, match=r"cohort_size of at most .*13.*, got 14"):
        run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=1)
