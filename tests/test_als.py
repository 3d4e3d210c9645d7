"""Centralised ALS, the baseline."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from references import NUM_FACTORS, REGULARIZATION, als_sweep, gradient, relative_error
from small_data import MODEL

from fcf_jax.als import MIN_SWEEPS, TOLERANCE, converge_als, fit_als, has_converged, run_sweeps
from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.federation import draw_item_factors, federated_cf
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.parallel.mesh import client_mesh, place_clients

KEY = jax.random.key(0)


def fit(small, model=MODEL, *, num_sweeps=10):  # as many as `converge_als` takes at once: one program
    return fit_als(KEY, model, small.clients, small.items, num_factors=NUM_FACTORS, num_sweeps=num_sweeps)


def test_sweeps_match_dense_reference(small, float64):
    start = y = small.item_factors
    item_factors, _ = run_sweeps(MODEL, jnp.asarray(start), small.clients, small.items, num_sweeps=10)
    user_factors, _ = jax.jit(solve_clients)(MODEL, jnp.asarray(start), small.clients)
    x, _ = als_sweep(start, small.c, small.p, regularization=REGULARIZATION)
    for _ in range(10):
        _, y = als_sweep(y, small.c, small.p, regularization=REGULARIZATION)
    assert relative_error(user_factors, x) <= 1e-9  # float64
    assert relative_error(item_factors, y) <= 1e-9


def test_loss_falls_in_every_sweep(small):
    _, info = fit(small)
    losses = np.asarray(info.loss)
    assert (np.diff(losses) <= 1e-6 * losses[0]).all()  # float32 rounding once it has converged
    assert losses[-1] < losses[0]


def test_same_start_as_the_federation_from_the_same_key(small):
    federation = federated_cf(MODEL, optax.sgd(0.1), num_items=17, num_factors=NUM_FACTORS)
    item_factors, _ = fit(small, num_sweeps=0)
    np.testing.assert_array_equal(item_factors, federation.init(KEY).item_factors)


def test_federated_gradient_vanishes_at_the_fixed_point_of_als(small, float64):
    clients, items = small.clients, small.items
    item_factors = jnp.asarray(small.item_factors)
    for _ in range(200):
        item_factors, _ = run_sweeps(MODEL, item_factors, clients, items, num_sweeps=10)
    federation = federated_cf(MODEL, optax.sgd(0.0), num_items=17, num_factors=NUM_FACTORS)
    state = federation.init(KEY)._replace(item_factors=item_factors)
    _, info = jax.jit(federation.round)(KEY, state, clients)
    start = gradient(small.item_factors, small.c, small.p, regularization=REGULARIZATION)
    assert float(info.gradient_norm) <= 1e-6 * np.linalg.norm(start)  # ALS converges linearly; float64


def test_another_model_compiles_nothing(small, num_compiled):
    item_factors, _ = fit(small)
    before = num_compiled()
    for model in (
        Model(implicit_feedback(alpha=1.5), REGULARIZATION),
        MODEL._replace(regularization=2.0),
        MODEL._replace(unobserved_weight=0.5),
    ):
        other, _ = fit(small, model)
        assert relative_error(other, item_factors) > 1e-3
    assert num_compiled() == before


def test_converged_als_stops_once_a_sweep_gains_little(small):
    start = draw_item_factors(KEY, num_items=17, num_factors=NUM_FACTORS)
    blocks = []
    item_factors, report = converge_als(
        MODEL, start, small.clients, small.items, on_block=lambda *told: blocks.append(told)
    )
    losses = report.loss.tolist()
    assert len(losses) >= MIN_SWEEPS and len(losses) % 10 == 0
    assert losses[-2] - losses[-1] < TOLERANCE * losses[-2]
    assert blocks == [(count, losses[count - 1]) for count in range(10, len(losses) + 1, 10)]
    expected, info = run_sweeps(MODEL, start, small.clients, small.items, num_sweeps=len(losses))
    assert len(info.loss) == len(losses)
    np.testing.assert_allclose(item_factors, expected, atol=1e-5)  # float32, fused otherwise


def test_all_sweeps_are_one_program_on_a_mesh_as_well(small, num_compiled):
    mesh = client_mesh(1)
    clients, items = place_clients(small.clients, mesh), place_clients(small.items, mesh)
    start, counts = draw_item_factors(KEY, num_items=17, num_factors=NUM_FACTORS), []
    _, info = converge_als(
        MODEL, start, clients, items, mesh=mesh, on_block=lambda *told: counts.append(num_compiled())
    )
    losses = info.loss
    assert len(losses) >= MIN_SWEEPS and losses[-1] < losses[0]
    assert len(set(counts)) == 1  # nothing after the first block


@pytest.mark.parametrize(("after", "expected"), [(100.0 - 2e-3, False), (100.0 - 5e-4, True), (100.1, True)])
def test_known_answer_has_converged(after, expected):
    assert bool(has_converged(100.0, after)) is expected
