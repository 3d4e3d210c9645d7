"""Federations side by side, each as if it were alone."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.side_by_side import _run_all, run_mesh, run_side_by_side

KEYS = jax.random.split(jax.random.key(5), 3)
HYPERPARAMETERS = {"alpha": np.array([1.0, 4.0, 8.0]), "rate": np.array([0.1, 0.05, 0.02])}


def make(hyperparameters, cohort_size=None):
    return federated_cf(
        optax.adam(hyperparameters["rate"]), implicit_feedback(alpha=hyperparameters["alpha"]),
        num_items=17, num_factors=3, regularization=1.0, cohort_size=cohort_size,
    )  # fmt: skip


def make_sampled(hyperparameters):
    return make(hyperparameters, cohort_size=4)


@pytest.mark.parametrize("make_federation", [make, make_sampled])
@pytest.mark.parametrize(("at_a_time", "mesh"), [(None, None), (2, None), (1, run_mesh())])
def test_each_run_equals_the_run_alone(small, make_federation, at_a_time, mesh):
    states, infos = run_side_by_side(
        make_federation, KEYS, HYPERPARAMETERS, small.clients, num_rounds=3, at_a_time=at_a_time, mesh=mesh
    )
    for run, key in enumerate(KEYS):
        alone = make_federation({name: float(values[run]) for name, values in HYPERPARAMETERS.items()})
        expected, info = run_rounds(alone, key, alone.init(key), small.clients, num_rounds=3)
        # float32, products associated otherwise under vmap; Adam magnifies the rounding of small gradients
        np.testing.assert_allclose(states.item_factors[run], expected.item_factors, atol=1e-4)
        np.testing.assert_array_equal(infos.client_ids[run], info.client_ids)
        np.testing.assert_allclose(infos.loss[run], info.loss, rtol=1e-4)


def test_other_hyperparameters_compile_nothing(small):
    run_side_by_side(make, KEYS, HYPERPARAMETERS, small.clients, num_rounds=2)
    compiled = _run_all._cache_size()
    others = {name: 0.5 * values for name, values in HYPERPARAMETERS.items()}
    run_side_by_side(make, KEYS, others, small.clients, num_rounds=2)
    assert _run_all._cache_size() == compiled


def test_a_missing_axis_of_runs_is_named(small):
    with pytest.raises(ValueError, match="expected hyperparameters with a leading axis of 3 runs"):
        run_side_by_side(make, KEYS, {"alpha": 1.0, "rate": jnp.ones(3)}, small.clients, num_rounds=1)
