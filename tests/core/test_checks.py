"""Wrong arguments: each is named before anything is traced, with what was given and what to do."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS
from small_data import MODEL

from fcf_jax.als import fit_als
from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.federation import federated_cf, run_rounds, server_init
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.packing import pack_clients
from fcf_jax.data import Interactions
from fcf_jax.parallel.stream import run_rounds_streamed

KEY = jax.random.key(7)
STEP = optax.sgd(0.1)
SIZES = {"num_items": 17, "num_factors": NUM_FACTORS}


def unannotated(function):
    """The function without the checks of its annotations, which only the tests execute."""
    return getattr(function, "__wrapped__", function)


def federation(model=MODEL, optimizer=STEP, **options):
    return unannotated(federated_cf)(model, optimizer, **(SIZES | options))


def trained(small, clients=None, key=KEY, **options):
    one = federation(**{name: options.pop(name) for name in list(options) if name in SIZES})
    state = one.init(KEY)
    clients = small.clients if clients is None else clients
    return unannotated(run_rounds)(one, key, state, clients, **({"num_rounds": 1} | options))


def factors(small, num_items):
    return np.asarray(small.item_factors[:num_items], np.float32)


def nobody():
    return pack_clients(Interactions.from_arrays([], [], num_users=0, num_items=17))


def begun_elsewhere(small):
    state = server_init(jnp.ones((17, NUM_FACTORS + 1)), STEP)
    return run_rounds(federation(), KEY, state, small.clients, num_rounds=1)


def streamed(small, **options):
    one = federation()
    options = {"num_rounds": 1, "block_chunks": 1} | options
    return unannotated(run_rounds_streamed)(one, KEY, one.init(KEY), small.clients, **options)


def als(small, clients=None, items=None, **options):
    options = {"num_factors": 3, "num_sweeps": 1} | options
    return unannotated(fit_als)(KEY, MODEL, clients or small.clients, items or small.items, **options)


WRONG = {
    "a catalogue that is too small": (
        lambda small: trained(small, num_items=16),
        "expected clients of 16 items, as num_items says, got 17 items; use clients and num_items of one",
    ),
    "a catalogue that is too large": (lambda small: trained(small, num_items=20), "of 20 items.*got 17"),
    "items where clients belong": (lambda small: trained(small, small.items), "of 17 items.*got 13 items"),
    "interactions that are not packed": (
        lambda small: trained(small, small.interactions), "got an Interactions; build them with pack_clients",
    ),
    "no users": (lambda small: trained(small, nobody()), "at least one user, got 0 users"),
    "a number for a key": (lambda small: trained(small, key=3), r"got 3; make one with jax.random.key\(0\)"),
    "rounds below 0": (lambda small: trained(small, num_rounds=-1), "num_rounds of at least 0, got -1"),
    "half a round": (lambda small: trained(small, num_rounds=0.5), "num_rounds of at least 0, got 0.5"),
    "no rows": (lambda small: trained(small, row_capacity=0), "row_capacity of at least 1, got 0"),
    "a state of other sizes": (begun_elsewhere, r"item factors \(17, 5\), .* got \(17, 6\); begin with"),
    "streamed rounds below 0": (lambda small: streamed(small, num_rounds=-1), "num_rounds of at least 0"),
    "negative lambda": (
        lambda small: federation(MODEL._replace(regularization=-1.0)),
        r"expected regularization \(lambda\) of at least 0 and finite, got -1.0; 1.0 suits",
    ),
    "lambda in words": (lambda small: federation(MODEL._replace(regularization="1")), "got '1'"),
    "lambda that is nan": (lambda small: federation(MODEL._replace(regularization=np.nan)), "got nan"),
    "negative w0": (lambda small: federation(MODEL._replace(unobserved_weight=-1)), r"\(w0\) of at least 0"),
    "negative w0 in a sum": (
        lambda small: cohort_sum(MODEL._replace(unobserved_weight=-1.0), factors(small, 17), small.clients),
        r"\(w0\) of at least 0",
    ),
    "negative alpha": (lambda small: implicit_feedback(alpha=-1.0), "alpha of at least 0 and finite, got -1"),
    "another model": (lambda small: federation(None), "expected model to be a Model, got a NoneType"),
    "sampling without a cohort": (lambda small: federation(sampling="once"), "sampling to be one of.*'once'"),
    "an optimizer that was not called": (
        lambda small: federation(optimizer=optax.adam), "got the function adam; call what builds it",
    ),
    "a line search": (
        lambda small: run_rounds(
            one := federation(optimizer=optax.lbfgs()), KEY, one.init(KEY), small.clients, num_rounds=1
        ),
        "asks for more: .*value_fn.* switch it off, such as by linesearch=None",
    ),
    "factors of other items": (
        lambda small: cohort_sum(MODEL, factors(small, 10), small.clients), "of 10 items, as item_factors",
    ),
    "user factors for item factors": (
        lambda small: solve_clients(MODEL, factors(small, 13), small.clients), "of 13 items, as item_factors",
    ),
    "items of another set": (
        lambda small: als(small, items=small.clients), r"got \(13, 17\) and \(17, 13\); pack both from",
    ),
    "sweeps below 0": (lambda small: als(small, num_sweeps=-1), "num_sweeps of at least 0, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_a_remedy(small, name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(small)


def test_numpy_leaves_are_taken_like_arrays_of_jax(small):
    host = jax.tree.map(np.asarray, small.clients)
    x, loss = solve_clients(MODEL, factors(small, 17), host)
    expected, expected_loss = solve_clients(MODEL, jnp.asarray(factors(small, 17)), small.clients)
    np.testing.assert_array_equal(x, expected)
    one = federation(cohort_size=4)
    state = jax.tree.map(np.asarray, one.init(KEY))
    _, info = one.round(KEY, state, host)
    assert np.isfinite(info.loss) and loss == expected_loss


def test_limit_no_rounds_leave_the_state_in_every_runner(small):
    one = federation(cohort_size=4)
    start = one.init(KEY)
    state, info = run_rounds(one, KEY, start, small.clients, num_rounds=0)
    streamed_state, streamed_info = run_rounds_streamed(
        one, KEY, start, small.clients, num_rounds=0, block_chunks=1
    )
    for found in (state, streamed_state):
        jax.tree.map(np.testing.assert_array_equal, found, start)
    shapes = [jax.tree.map(np.shape, each) for each in (info, streamed_info)]
    assert shapes[0] == shapes[1] and shapes[0].client_ids == (0, 4)


def test_whole_numbers_of_a_model_compile_nothing_new(small, num_compiled):
    def train(alpha, regularization, w0):
        one = federation(MODEL._replace(
            weighting=implicit_feedback(alpha=alpha), regularization=regularization, unobserved_weight=w0
        ))  # fmt: skip
        _, info = run_rounds(one, KEY, start, small.clients, num_rounds=1)
        return float(np.asarray(info.loss)[0])

    start = federation().init(KEY)
    expected, before = train(4.0, 1.0, 1.0), num_compiled()
    assert train(4, 1, 1) == expected and train(np.float64(4), np.int32(1), np.float32(1)) == expected
    assert num_compiled() == before
