"""Federations and ALS side by side, each as if it were alone."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from small_data import make_small

from fcf_jax.als import run_sweeps
from fcf_jax.core.federation import draw_item_factors, federated_cf, run_rounds
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.packing import stack_clients
from fcf_jax.core.records import Model
from fcf_jax.parallel.batch import run_mesh, run_side_by_side, start_side_by_side, sweep_side_by_side

KEYS = jax.random.split(jax.random.key(5), 3)
HYPERPARAMETERS = {
    "alpha": np.array([1.0, 4.0, 8.0]),
    "regularization": np.array([1.0, 0.3, 2.0]),
    "w0": np.array([1.0, 1.0, 0.5]),
    "rate": np.array([0.1, 0.05, 0.02]),
}
ALL_ROWS = 64  # more than any cohort has
SIZES = {"num_items": 17, "num_factors": 3}


def model_of(hyperparameters):
    weighting = implicit_feedback(alpha=hyperparameters["alpha"])
    return Model(weighting, hyperparameters["regularization"], hyperparameters["w0"])


def make(hyperparameters, cohort_size=None):
    optimizer = optax.adam(hyperparameters["rate"])
    return federated_cf(model_of(hyperparameters), optimizer, cohort_size=cohort_size, **SIZES)


def make_sampled(hyperparameters):
    return make(hyperparameters, cohort_size=4)


def of_run(run):
    return {name: jnp.float32(values[run]) for name, values in HYPERPARAMETERS.items()}


def alone(make_federation, run, clients, *, num_rounds):
    return _alone(make_federation, num_rounds, KEYS[run], of_run(run), clients)


@partial(jax.jit, static_argnums=(0, 1))
def _alone(make_federation, num_rounds, key, hyperparameters, clients):
    federation = make_federation(hyperparameters)
    return run_rounds(
        federation, key, federation.init(key), clients, num_rounds=num_rounds, row_capacity=ALL_ROWS
    )


@jax.jit
def _als_alone(key, hyperparameters, clients, items):
    start = draw_item_factors(key, **SIZES)
    return run_sweeps(model_of(hyperparameters), start, clients, items, num_sweeps=3)


@pytest.fixture(scope="module")
def different():
    """A data set for each run, of the same users; their packings differ in size."""
    first, second = make_small(seed=0), make_small(seed=1)
    return [first, second, first]


@pytest.mark.parametrize(
    ("make_federation", "at_a_time", "mesh"), [(make, 2, None), (make_sampled, None, run_mesh())]
)
def test_each_run_equals_the_run_alone(small, make_federation, at_a_time, mesh):
    states, infos = run_side_by_side(
        make_federation, KEYS, HYPERPARAMETERS, small.clients, num_rounds=3, at_a_time=at_a_time, mesh=mesh
    )
    for run in range(3):
        expected, info = alone(make_federation, run, small.clients, num_rounds=3)
        # float32, products associated otherwise under vmap; Adam magnifies the rounding of small gradients
        np.testing.assert_allclose(states.item_factors[run], expected.item_factors, atol=1e-4)
        np.testing.assert_array_equal(infos.client_ids[run], info.client_ids)
        np.testing.assert_allclose(infos.loss[run], info.loss, rtol=1e-4)


def test_runs_on_their_own_data_go_on_where_they_stopped(different):
    stacked = stack_clients([one.clients for one in different])
    options = {"num_rounds": 2, "row_capacity": ALL_ROWS}
    states, _ = run_side_by_side(make_sampled, KEYS, HYPERPARAMETERS, stacked, **options)
    states, infos = run_side_by_side(make_sampled, KEYS, HYPERPARAMETERS, stacked, states=states, **options)
    for run in range(3):
        expected, info = alone(make_sampled, run, different[run].clients, num_rounds=4)
        np.testing.assert_allclose(states.item_factors[run], expected.item_factors, atol=1e-4)
        np.testing.assert_array_equal(infos.client_ids[run], info.client_ids[2:])


def test_each_als_equals_the_als_alone(different):
    clients, items = (
        stack_clients([getattr(one, side) for one in different]) for side in ("clients", "items")
    )
    start = start_side_by_side(make, KEYS, HYPERPARAMETERS).item_factors
    models = jax.vmap(model_of)(HYPERPARAMETERS)
    item_factors, infos = sweep_side_by_side(models, start, clients, items, num_sweeps=3)
    for run in range(3):
        data = different[run]
        expected, info = _als_alone(KEYS[run], of_run(run), data.clients, data.items)
        np.testing.assert_allclose(item_factors[run], expected, atol=1e-4)
        np.testing.assert_allclose(infos.loss[run], info.loss, rtol=1e-5)  # float32


@pytest.mark.parametrize(("make_federation", "at_a_time"), [(make, 2), (make_sampled, None)])
def test_other_hyperparameters_compile_nothing(small, num_compiled, make_federation, at_a_time):
    options = {"num_rounds": 3, "at_a_time": at_a_time}  # as above
    run_side_by_side(make_federation, KEYS, HYPERPARAMETERS, small.clients, **options)
    before = num_compiled()
    others = {name: 0.5 * values for name, values in HYPERPARAMETERS.items()}
    run_side_by_side(make_federation, KEYS, others, small.clients, **options)
    assert num_compiled() == before


def test_other_models_compile_nothing_in_als(small, num_compiled):
    def sweep(hyperparameters):
        models, start = jax.vmap(model_of)(hyperparameters), jnp.ones((3, 17, 3))
        return sweep_side_by_side(models, start, small.clients, small.items, num_sweeps=2)

    sweep(HYPERPARAMETERS)
    before = num_compiled()
    sweep({name: 0.5 * values for name, values in HYPERPARAMETERS.items()})
    assert num_compiled() == before


def test_a_missing_axis_of_runs_is_named(small):
    with pytest.raises(ValueError, match="expected hyperparameters with a leading axis of 3 runs"):
        run_side_by_side(make, KEYS, HYPERPARAMETERS | {"alpha": 1.0}, small.clients, num_rounds=1)
    with pytest.raises(ValueError, match="expected clients with a leading axis of 3 runs"):
        run_side_by_side(make, KEYS, HYPERPARAMETERS, stack_clients([small.clients] * 2), num_rounds=1)
