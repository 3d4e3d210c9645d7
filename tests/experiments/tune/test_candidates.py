"""Candidates agree with the trainings that they stand for, and other numbers compile nothing."""

import jax
import numpy as np
import pytest
from common import count_compilations
from jax import numpy as jnp

from fcf_jax.als import fit_als
from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import Model
from fcf_jax.evaluation import evaluate_data, summarize
from fcf_jax.experiments.build.held_out import load_held_out
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config, with_values
from fcf_jax.experiments.tune.candidates import (
    advance,
    als_learner,
    begin,
    candidate_data,
    candidate_mesh,
    federated_learner,
)
from fcf_jax.experiments.tune.space import server_start

SIZES = ["data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4"]
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mesh():
    return candidate_mesh(2)


@pytest.fixture(scope="module")
def held_out():
    return load_held_out(load_config(None, SIZES))


@pytest.fixture(scope="module")
def data(held_out, mesh):
    return candidate_data(held_out.train, held_out.validation, mesh)


@pytest.fixture(scope="module")
def problem_of(held_out):
    """Resolve a problem with these settings."""
    return lambda *overrides: resolve(load_config(None, [*SIZES, *overrides]), held_out.dataset)


def test_als_candidates_agree_with_fit_als_and_do_not_recompile(data, mesh, problem_of):
    learner = als_learner(problem_of(), data)
    exponents = [0.0, 0.5]
    settings = {
        "model.alpha": [4.0, 1.0], "model.regularization": [1.0, 3.0],
        "model.regularization_exponent": exponents,
    }  # fmt: skip
    batch, report = advance(learner, begin(learner, settings, mesh, num_places=2), data, [3, 5])
    batch, after = advance(learner, batch, data, [2, 0])
    for place, last in enumerate((after, report)):
        model = Model(
            implicit_feedback(alpha=settings["model.alpha"][place]),
            settings["model.regularization"][place],
            regularization_exponent=exponents[place],
        )
        item_factors, info = fit_als(KEY, model, data.clients, data.items, num_factors=4, num_sweeps=5)
        np.testing.assert_allclose(batch.states[place], item_factors, atol=1e-5)
        np.testing.assert_allclose(last.loss[place], info.loss[-1], rtol=1e-5)
        np.testing.assert_allclose(last.previous_loss[place], info.loss[-2], rtol=1e-5)
        score = summarize(jax.tree.map(lambda leaf, place=place: leaf[place], last.metrics))
        expected = evaluate_data(model, item_factors, data.validation)
        assert score == pytest.approx(expected, rel=1e-4)
    with count_compilations() as compilations:
        others = {
            "model.alpha": [2.0], "model.regularization": [0.5], "model.regularization_exponent": [1.0]
        }  # fmt: skip
        advance(learner, begin(learner, others, mesh, num_places=2), data, [4])
    assert compilations.count == 0


@pytest.mark.parametrize(
    "keys",
    [
        ["server.step=guarded_gram", "server.memory=2"],
        ["server.step=adam", "server.decay=cosine", "federation.cohort_size=20"],
    ],
    ids=["guarded_gram", "adam"],
)
def test_federated_candidates_agree_with_run_rounds_and_do_not_recompile(keys, data, mesh, problem_of):
    problem = problem_of(*keys, "federation.num_rounds=5", "federation.solve_tolerance=0")
    config = problem.config
    start = {name: value for name, value in server_start(config.server).items() if name != "server.memory"}
    other = {name: 0.9 * value + 0.01 for name, value in start.items()}
    learner = federated_learner(problem, data)._replace(score=lambda *unused: jnp.zeros(()))
    settings = {name: [start[name], other[name]] for name in start}
    batch, _ = advance(learner, begin(learner, settings, mesh, num_places=2), data, [2, 2])
    batch, report = advance(learner, batch, data, [3, 3])
    federation = federated_cf(
        Model(implicit_feedback(alpha=4.0), regularization=1.0),
        with_values(config, other).server.optimizer(num_rounds=5),
        cohort_size=config.federation.cohort_size, num_items=30, num_factors=4,
    )  # fmt: skip
    state, info = run_rounds(federation, KEY, federation.init(KEY), data.clients, num_rounds=5)
    np.testing.assert_allclose(batch.states.item_factors[1], state.item_factors, atol=1e-4)
    np.testing.assert_allclose(report.loss[1], info.loss[-1], rtol=1e-4)
    with count_compilations() as compilations:
        others = {name: [0.8 * value] for name, value in other.items()}
        advance(learner, begin(learner, others, mesh, num_places=2), data, [4])
    assert compilations.count == 0


@pytest.mark.parametrize("step", ["guarded_gram", "gram", "running_sums", "adam", "paper_adam", "sgd"])
def test_every_number_of_a_step_may_be_traced(step, data, problem_of):
    decay = "constant" if step in ("guarded_gram", "gram") else "cosine"
    problem = problem_of(f"server.step={step}", f"server.decay={decay}")
    learner = federated_learner(problem, data)
    numbers = {
        name: value for name, value in server_start(problem.config.server).items() if name != "server.memory"
    }
    assert numbers

    def begin_and_step(settings):
        return learner.step(settings, learner.init(settings), data)

    state, loss = jax.eval_shape(begin_and_step, {name: np.float32(value) for name, value in numbers.items()})
    assert state.item_factors.shape == (30, 4) and loss.shape == ()
