"""All public functions with 64-bit types, with mixed types, and under JAX's own debugging checks."""

import gc
import inspect
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from small_data import make_small

import fcf_jax as fcf
from fcf_jax.channel import Pieces
from fcf_jax.core.server import draw_item_factors
from fcf_jax.evaluation.recommend import recommend, recommend_many, solve_new_users

NUM_ITEMS, NUM_FACTORS = 17, 3
KEY = jax.random.key(0)
NORMS = Pieces(1.0, 1.0, 1.0, 1.0)


class Case(NamedTuple):
    """Types to run everything with, and the settings of JAX while it runs.

    Attributes:
        settings: names and values of `jax.config`.
        item_factors: type of Y.
        numbers: type of alpha, lambda, w0 and sigma; None: Python numbers.
        histories: type of strengths, confidence and preference.
    """

    settings: dict
    item_factors: str
    numbers: str | None
    histories: str

    @property
    def result(self):
        """Type of all results but the next item factors."""
        return "float64" if self.item_factors == "float64" else "float32"

    def number(self, value):
        return value if self.numbers is None else jnp.asarray(value, self.numbers)

    def model(self):
        weighting = fcf.implicit_feedback(alpha=self.number(2.0))
        return fcf.Model(weighting, self.number(0.9), self.number(1.0))


X64, STRICT = {"jax_enable_x64": True}, {"jax_numpy_dtype_promotion": "strict"}
KEYS, LEAKS = {"jax_debug_key_reuse": True}, {"jax_check_tracer_leaks": True}
CASES = {
    "float64": Case(X64, "float64", None, "float32"),
    "float32 of float64, strict": Case(X64 | STRICT, "float32", "float64", "float64"),
    "bfloat16, keys": Case(KEYS, "bfloat16", "float32", "float32"),
}


@contextmanager
def configured(settings, *, as_context):
    """Set JAX up, by its context managers or globally."""
    if as_context:
        with ExitStack() as stack:
            for name, value in settings.items():
                stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
            yield
        return
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


class Parts(NamedTuple):
    case: Case
    model: fcf.Model
    small: object
    clients: fcf.PackedClients
    items: fcf.PackedClients
    observations: fcf.Observations
    item_factors: jax.Array


def parts_of(case, small):
    def packed(clients):
        rows = clients.rows._replace(strengths=clients.rows.strengths.astype(case.histories))
        return clients._replace(rows=rows)

    model = case.model()
    data = fcf.ClientData(
        jnp.array([3, 8, 0]), jnp.array([1.0, 2.0, 0.0], case.histories), jnp.array([True, True, False])
    )
    factors = jnp.asarray(small.item_factors[:, :NUM_FACTORS], case.item_factors)
    return Parts(
        case, model, small, packed(small.clients), packed(small.items), model.weighting(data), factors
    )


def one_client(parts):
    model, y, observations = parts.model, parts.item_factors, parts.observations
    update, info = fcf.client_update(model, y, observations)
    return (
        update, info, fcf.solve_user_factor(model, y, observations),
        fcf.dense_upload(model, y, update, observations),
        fcf.item_gradient(model, y, update.user_factor, observations),
        fcf.loss(model, y, update.user_factor, observations),
    )  # fmt: skip


def rounds(parts, *, step=None, cohort_size=3, channel=None, sampling="shuffled", num_rounds=2):
    """Run rounds from these item factors; the state keeps its types."""
    step = step or fcf.guarded_gram()
    federation = fcf.federated_cf(
        parts.model, step, num_items=NUM_ITEMS, num_factors=NUM_FACTORS, cohort_size=cohort_size,
        channel=channel, sampling=sampling,
    )  # fmt: skip
    state = fcf.server_init(parts.item_factors, step)
    if channel is not None:
        state = state._replace(channel_state=channel.init())
    end, info = fcf.run_rounds(federation, KEY, state, parts.clients, num_rounds=num_rounds, row_capacity=8)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        assert before.dtype == after.dtype
    return info.loss, info.solve_error, info.gradient_norm


def private_rounds(parts):
    sigma, size = parts.case.number(0.1), parts.case.number(3.0)
    options = {"clip_norms": NORMS, "noise_multiplier": sigma, "expected_cohort_size": size}
    links = [
        fcf.channel.clip_and_noise(**options, item_weights=jnp.ones(NUM_ITEMS)),
        fcf.channel.clip_and_noise(**options, is_local=True),
        fcf.channel.adaptive_clip_and_noise(**options),
        fcf.channel.fixed_point(fcf.channel.choose_formats(NORMS, max_clients=13), max_clients=13),
    ]
    samplings = ("poisson", "independent", "shuffled", "shuffled")
    return [
        rounds(parts, channel=link, sampling=sampling, num_rounds=1)
        for link, sampling in zip(links, samplings, strict=True)
    ]


def sweeps(parts):
    end, info = fcf.als.run_sweeps(parts.model, parts.item_factors, parts.clients, parts.items, num_sweeps=2)
    assert end.dtype == parts.item_factors.dtype
    return info


TRACED = {
    "one_client": one_client,
    "cohort_sum": lambda parts: fcf.cohort_sum(parts.model, parts.item_factors, parts.clients),
    "rounds_of_all": lambda parts: rounds(parts, cohort_size=None),
    "running_sums": lambda parts: rounds(parts, step=fcf.optimizers.running_sums()),
    "paper_adam": lambda parts: rounds(parts, step=fcf.optimizers.paper_adam(0.1)),
    "private_rounds": private_rounds,
    "sweeps": sweeps,
}


@pytest.mark.parametrize(("name", "as_context"), [*zip(CASES, (False, True, True), strict=True)])
def test_all_types_end_in_the_type_of_the_item_factors(name, as_context):
    """Types are decided in tracing, so nothing is compiled."""
    case = CASES[name]
    with configured(case.settings, as_context=as_context):
        parts = parts_of(case, make_small())
        for of_run, run in TRACED.items():
            results = jax.eval_shape(
                lambda y, run=run: run(parts._replace(item_factors=y)), parts.item_factors
            )
            types = {leaf.dtype.name for leaf in jax.tree.leaves(results)}
            assert {found for found in types if "float" in found} == {case.result}, of_run


def streamed(parts):
    step = optax.sgd(0.1)
    federation = fcf.federated_cf(parts.model, step, num_items=NUM_ITEMS, num_factors=NUM_FACTORS)
    state = fcf.server_init(parts.item_factors, step)
    end, _ = fcf.parallel.run_rounds_streamed(
        federation, KEY, state, parts.clients, num_rounds=1, block_chunks=8
    )
    return end.item_factors


def side_by_side(parts):
    def make(rate):
        return fcf.federated_cf(parts.model, optax.sgd(rate), num_items=NUM_ITEMS, num_factors=NUM_FACTORS)

    rates = jnp.array([0.1, 0.2], parts.item_factors.dtype)
    keys = jax.random.split(jax.random.key(1), 2)
    end, _ = fcf.parallel.run_side_by_side(make, keys, rates, parts.clients, num_rounds=1)
    return end.item_factors


def estimated(parts):
    views = parts.small.interactions.to_scipy()
    model = fcf.FederatedCollaborativeFilter(num_factors=NUM_FACTORS, num_rounds=1)
    model.fit(views, show_progress=False).recommend(0, views[0])
    return model.item_factors


def recommended(parts):
    histories = parts.small.interactions
    users = solve_new_users(parts.model, parts.item_factors, histories)
    recommend_many(parts.item_factors, users, histories)
    return recommend(parts.item_factors, jnp.asarray(users[0]), [1]).scores


def evaluated(parts):
    split = fcf.split_per_user(parts.small.interactions, test_fraction=0.4, seed=0)
    train, test = split.train, split.test
    values = fcf.evaluate(parts.model, parts.item_factors, train, test, k=3)
    assert 0 < values["auc"] < 1
    nothing = fcf.evaluate(parts.model, parts.item_factors * jnp.nan, train, test, k=3)
    assert np.isnan(list(nothing.values())).all()
    return np.array(values["auc"])


@pytest.mark.parametrize("run", [streamed, side_by_side, estimated, recommended, evaluated])
def test_functions_with_work_on_the_host_run_with_64_bits(run, float64):
    parts = parts_of(CASES["float64"], make_small())
    found = run(parts)
    assert np.isfinite(found).all() and found.dtype == np.float64


@pytest.fixture
def few_objects():
    """Hide all objects that there are from the collector: JAX calls it at every trace that it checks."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_numbers_of_an_optimizer_do_not_leak(few_objects):
    with configured(LEAKS, as_context=False):
        parts = parts_of(CASES["bfloat16, keys"], make_small())
        rates = jnp.array([0.1, 0.2])
        jax.eval_shape(
            jax.vmap(lambda rate: rounds(parts, step=optax.sgd(rate), cohort_size=None, num_rounds=1)), rates
        )


def test_item_factors_can_be_drawn_from_one_key_twice():
    with configured(KEYS, as_context=False):
        drawn = [draw_item_factors(KEY, num_items=3, num_factors=2) for _ in range(2)]
        np.testing.assert_array_equal(*drawn)


def test_every_public_function_is_in_a_test_above():
    source = inspect.getsource(inspect.getmodule(Case))
    builders = {"explicit_ratings", "pack_clients", "pack_items", "read_interactions", "server_update",
                "cohort_rows", "gather_cohort", "load_run"}  # fmt: skip
    functions = {name for name in fcf.__all__ if inspect.isfunction(getattr(fcf, name))}
    assert {name for name in functions - builders if f"fcf.{name}(" not in source} == set()
