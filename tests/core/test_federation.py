"""Rounds: their keys, their compilation, their memory, their hyperparameters."""

import jax
import jax.extend
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, objective, relative_error, sgd_round, solve_users
from small_data import MODEL

from fcf_jax import channel
from fcf_jax.core.federation import (
    cohort_rows,
    draw_item_factors,
    federated_cf,
    run_rounds,
    server_init,
    setup_of,
)
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.packing import pack_clients
from fcf_jax.core.records import CohortSum, Model
from fcf_jax.core.server import server_update
from fcf_jax.data import Interactions
from fcf_jax.optimizers import guarded_gram, paper_adam, running_sums
from fcf_jax.parallel.stream import run_rounds_streamed

SIZES = {"num_items": 17, "num_factors": NUM_FACTORS}
KEY = jax.random.key(7)
NUMBERS = {"alpha": 4.0, "regularization": 0.7, "w0": 1.0, "noise_multiplier": 0.1, "clip_norm": 5.0}
OTHER_NUMBERS = {"alpha": 1.5, "regularization": 2.0, "w0": 0.5, "noise_multiplier": 0.3, "clip_norm": 1.0}
ADAM = optax.adam(0.05)
THREE_ROUNDS = {"num_rounds": 3, "row_capacity": 16}  # one program for all who run it


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def federation():
    return federated_cf(MODEL, running_sums(), cohort_size=4, **SIZES)


def test_run_rounds_agrees_with_a_loop_of_rounds(small):
    # running_sums of four clients would magnify the rounding
    federation = federated_cf(MODEL, ADAM, cohort_size=4, **SIZES)
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
    assert cohort_rows(federation, KEY, start, small.clients, num_rounds=6) <= 16
    whole, info = run_rounds(federation, KEY, start, small.clients, num_rounds=6, row_capacity=16)
    half, first = run_rounds(federation, KEY, start, small.clients, **THREE_ROUNDS)
    joined, second = run_rounds(federation, KEY, half, small.clients, **THREE_ROUNDS)
    same(joined, whole)  # bit for bit
    same(jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second), info)


def trained_on(interactions, item_factors, *, chunk_slots=32, chunk_clients=5):
    clients = pack_clients(interactions, row_width=4, chunk_slots=chunk_slots, chunk_clients=chunk_clients)
    federation, state = federated_cf(MODEL, ADAM, **SIZES), server_init(item_factors, ADAM)
    state, info = run_rounds(federation, KEY, state, clients, num_rounds=5)
    return np.asarray(state.item_factors), np.asarray(info.loss)


@pytest.fixture(scope="module")
def trained(small):
    """The item factors to start from; those after five rounds of everyone, and the losses."""
    start = federated_cf(MODEL, ADAM, **SIZES).init(KEY).item_factors
    return start, *trained_on(small.interactions, start)


@pytest.mark.parametrize("change", ["larger chunks", "smaller chunks", "users permuted", "items permuted"])
def test_training_invariant_to(change, small, trained):
    data, (start, expected, losses) = small.interactions, trained
    users, items = np.random.default_rng(0).permutation(13), np.random.default_rng(1).permutation(17)
    if change == "larger chunks":
        found, found_losses = trained_on(data, start, chunk_slots=1000, chunk_clients=500)
    elif change == "smaller chunks":
        found, found_losses = trained_on(data, start, chunk_clients=3)
    elif change == "users permuted":
        found, found_losses = trained_on(relabeled(data, users, np.arange(17)), start)
    else:
        found, found_losses = trained_on(relabeled(data, np.arange(13), items), start[np.argsort(items)])
        found = found[items]
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(found_losses, losses, rtol=1e-6)


def relabeled(data, users, items):
    """Give user u the number users[u], and items likewise."""
    return Interactions.from_arrays(
        users[data.user_ids], items[data.item_ids], data.strengths, num_users=13, num_items=17
    )


def set_up(numbers, optimizer=ADAM, **options):
    """Set a federation up with these numbers, everything else new but the optimizer object."""
    clip_norm = numbers["clip_norm"]
    noisy = channel.clip_and_noise(
        clip_norms=channel.Pieces(4 * clip_norm, clip_norm, 6 * clip_norm, None),
        noise_multiplier=numbers["noise_multiplier"],
        expected_cohort_size=13.0,
    )
    model = Model(implicit_feedback(alpha=numbers["alpha"]), numbers["regularization"], numbers["w0"])
    return federated_cf(model, optimizer, channel=noisy, **SIZES, **options)


def train(numbers, clients, **options):
    federation = set_up(numbers, **options)
    return run_rounds(federation, KEY, federation.init(KEY), clients, **THREE_ROUNDS)


@pytest.mark.parametrize("cohort_size", [None, 4])
def test_other_numbers_compile_nothing(small, num_compiled, cohort_size):
    state, _ = train(NUMBERS, small.clients, cohort_size=cohort_size)
    before = num_compiled()
    for name, number in OTHER_NUMBERS.items():
        other, _ = train(NUMBERS | {name: number}, small.clients, cohort_size=cohort_size)
        assert relative_error(other.item_factors, state.item_factors) > 1e-3, name  # it was not ignored
    train(OTHER_NUMBERS, small.clients, cohort_size=cohort_size)
    assert num_compiled() == before


def test_rounds_added_and_another_key_compile_nothing(small, federation, num_compiled):
    state, _ = run_rounds(federation, KEY, federation.init(KEY), small.clients, **THREE_ROUNDS)
    key, before = jax.random.key(8), num_compiled()
    run_rounds(federation, KEY, state, small.clients, **THREE_ROUNDS)
    run_rounds(federation, key, state, small.clients, **THREE_ROUNDS)
    assert num_compiled() == before


def test_another_size_or_optimizer_object_does_compile(small, num_compiled):
    train(NUMBERS, small.clients)
    for options in ({"optimizer": optax.adam(0.05)}, {"cohort_size": 3}):
        before = num_compiled()
        train(NUMBERS, small.clients, **options)
        assert num_compiled() > before


STEPS = {
    "adam": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "guarded_gram": optax.inject_hyperparams(guarded_gram, static_args="memory")(confidence_factor=1.0),
    "running_sums": optax.inject_hyperparams(running_sums, static_args="averaging")(learning_rate=0.5),
}


@pytest.mark.parametrize(
    ("step", "name"),
    [("adam", "learning_rate"), ("guarded_gram", "confidence_factor"), ("running_sums", "learning_rate")],
)
def test_another_injected_learning_rate_compiles_nothing(small, num_compiled, step, name):
    federation = federated_cf(MODEL, STEPS[step], **SIZES)
    start = federation.init(KEY)

    def train(rate):
        optimizer_state = start.optimizer_state
        hyperparams = optimizer_state.hyperparams | {name: jnp.asarray(rate)}
        state = start._replace(optimizer_state=optimizer_state._replace(hyperparams=hyperparams))
        return run_rounds(federation, KEY, state, small.clients, num_rounds=3)[0].item_factors

    expected, before = train(0.1), num_compiled()
    assert relative_error(train(0.3), expected) > 1e-3
    assert num_compiled() == before


def test_vmap_over_all_numbers_equals_separate_runs(small):
    @jax.jit
    def final(numbers, learning_rate):
        state, info = train(numbers, small.clients, optimizer=optax.adam(learning_rate))
        return state.item_factors, info.gradient_norm

    runs, rates = (NUMBERS, OTHER_NUMBERS), (0.1, 0.02)
    stacked = {name: jnp.array([run[name] for run in runs]) for name in NUMBERS}
    together = jax.vmap(final)(stacked, jnp.array(rates))
    for run in range(2):
        alone = final(runs[run], rates[run])
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
    clients = pack_clients(interactions, row_width=4)
    federation = federated_cf(
        MODEL, running_sums(), num_items=num_items, num_factors=3, cohort_size=cohort_size
    )
    state = federation.init(KEY)
    capacity = cohort_rows(federation, KEY, state, clients, num_rounds=1)
    jaxpr = jax.make_jaxpr(lambda s: federation.round(KEY, s, clients, row_capacity=capacity))(state).jaxpr
    shapes = set(shapes_of(jaxpr))
    many = {num_users, clients.client_ids.shape[1], clients.owners.shape[1]}
    many |= {cohort_size, capacity} if cohort_size else set()  # without a cohort nothing is gathered
    assert any(num_items in shape for shape in shapes) and any(many & set(shape) for shape in shapes)
    assert not [shape for shape in shapes if num_items in shape and many & set(shape)]


@pytest.mark.parametrize("name", ["num_items", "num_factors", "cohort_size"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        federated_cf(MODEL, optax.sgd(0.1), **(SIZES | {name: 0}))


def test_a_cohort_larger_than_all_users_is_named(small):
    federation = federated_cf(MODEL, optax.sgd(0.1), cohort_size=14, **SIZES)
    with pytest.raises(ValueError, match=r"cohort_size of at most .*13.*, got 14"):
        run_rounds(federation, KEY, federation.init(KEY), small.clients, num_rounds=1)


@pytest.mark.parametrize("cohort_size", [None, 4])
def test_sgd_round_matches_dense_reference(small, cohort_size):
    optimizer = optax.sgd(1e-3)
    federation = federated_cf(MODEL, optimizer, cohort_size=cohort_size, **SIZES)
    y = small.item_factors
    state = server_init(jnp.asarray(y, jnp.float32), optimizer)
    state, info = run_rounds(federation, jax.random.key(2), state, small.clients, num_rounds=1)
    cohort = np.asarray(info.client_ids[0])
    step = {"learning_rate": 1e-3, "regularization": REGULARIZATION}
    expected = sgd_round(y, small.c, small.p, **step, cohort=cohort)
    assert (
        relative_error(state.item_factors - y, expected - y) <= 2e-5
    )  # float32; Y rounds at 1e-7 of a 1e-2 step
    assert int(info.num_clients[0]) == (cohort_size or 13) and int(state.round_index) == 1
    if cohort_size is None:
        x = solve_users(y, small.c, small.p, regularization=REGULARIZATION)
        dense = objective(x, y, small.c, small.p, regularization=REGULARIZATION)
        np.testing.assert_allclose(info.loss[0], dense, rtol=1e-5)  # float32


def test_limit_no_client_took_part_leaves_everything():
    optimizer = optax.adam(0.1)
    state = server_init(jnp.ones((3, 2)), optimizer)
    zeros = jnp.zeros
    nothing = CohortSum(zeros((3, 2)), zeros((2, 2)), zeros(3), zeros(()), *[jnp.zeros((), jnp.int32)] * 2)
    after, _ = server_update(MODEL, state, nothing, optimizer, num_users=5)
    assert int(after.round_index) == 1
    jax.tree.map(np.testing.assert_array_equal, after._replace(round_index=state.round_index), state)


def test_start_is_a_pure_function_of_the_key_with_the_asked_scale():
    sizes = {"num_items": 400, "num_factors": 5}
    start = draw_item_factors(jax.random.key(0), **sizes, init_scale=0.3)
    np.testing.assert_array_equal(start, draw_item_factors(jax.random.key(0), **sizes, init_scale=0.3))
    np.testing.assert_allclose(np.std(start), 0.3, rtol=0.1)  # 2000 draws: standard error 1.6 %


def test_setup_of_another_federation_is_refused(federation):
    assert setup_of(federation).cohort_size == 4
    with pytest.raises(ValueError, match="expected a federation made by federated_cf, got another"):
        setup_of(federation._replace(round=lambda key, state, clients: (state, None)))


def test_a_federation_starts_from_the_item_factors_that_are_given():
    federation = federated_cf(MODEL, optax.adam(0.1), num_items=17, num_factors=3)
    given = jnp.arange(51.0).reshape(17, 3)
    state, drawn = federation.init(jax.random.key(0), given), federation.init(jax.random.key(0))
    np.testing.assert_array_equal(state.item_factors, given)
    assert jax.tree.structure(state) == jax.tree.structure(drawn)
    with pytest.raises(ValueError, match=r"expected item factors of shape \(17, 3\), got \(17, 4\)"):
        federation.init(jax.random.key(0), jnp.zeros((17, 4)))


@pytest.mark.parametrize("make_step", [guarded_gram, lambda: paper_adam(0.1), lambda: optax.adam(0.1)])
def test_a_fresh_state_can_be_donated(small, make_step):
    federation = federated_cf(MODEL, make_step(), **SIZES)
    for init in (federation.init, jax.jit(federation.init)):
        state = init(KEY)
        after, _ = run_rounds(federation, KEY, state, small.clients, num_rounds=1, donate=True)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.item_factors))
        assert np.isfinite(after.item_factors).all()


def test_a_replaced_round_is_obeyed_or_refused_but_not_ignored(small, federation):
    def lazy(key, state, clients):
        _, info = federation.round(key, state, clients)
        return state._replace(round_index=state.round_index + 2), info

    replaced, start = federation._replace(round=lazy), federation.init(KEY)
    state, info = run_rounds(replaced, KEY, start, small.clients, num_rounds=3)
    assert int(state.round_index) == 6 and info.loss.shape == (3,)
    np.testing.assert_array_equal(state.item_factors, start.item_factors)
    with pytest.raises(ValueError, match="expected a federation made by federated_cf"):
        run_rounds_streamed(replaced, KEY, start, small.clients, num_rounds=1, block_chunks=1)
