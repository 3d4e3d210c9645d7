"""Candidates of a search side by side: models of one shape, trained and scored in one program.

    mesh = candidate_mesh(2)
    data = candidate_data(train, validation, mesh)
    learner = als_learner(problem, data)
    settings = {"model.alpha": [2.0, 4.0], "model.regularization": [1.0, 8.0]}
    batch = begin(learner, settings, mesh, num_places=2)
    batch, report = advance(learner, batch, data, [5, 5])

A setting is a key of the configuration, whose values are traced: another alpha, lambda or learning rate
compiles nothing. Numbers that decide about shapes (K, the memory of a step) are fixed in the learner.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fcf_jax import als
from fcf_jax.core.federation import Federation, cohort_rows
from fcf_jax.core.packing import pack_clients, pack_items
from fcf_jax.core.records import Model, PackedClients
from fcf_jax.data import Interactions
from fcf_jax.evaluation import EvaluationData, UserMetrics, evaluation_data, user_metrics
from fcf_jax.experiments.build.problem import Problem, model_of
from fcf_jax.experiments.config.load import with_values
from fcf_jax.parallel.batch import map_runs, run_mesh

Settings = dict[str, Array]  # traced values by key: a number for one candidate, [places] for a batch


class CandidateData(NamedTuple):
    """Data that candidates are trained and scored on.

    Attributes:
        clients: training histories, packed.
        items: the same interactions by item, for ALS.
        validation: validation set.
    """

    clients: PackedClients
    items: PackedClients
    validation: EvaluationData


class Learner(NamedTuple):
    """Training of one candidate, as pure functions of its settings.

    Attributes:
        init: settings -> the first state.
        step: (settings, state, data) -> the state after a sweep or a round, and the loss before it.
        item_factors: state -> item factors.
        score: (settings, item_factors, data) -> metrics on the validation set.
    """

    init: Callable[[Settings], Any]
    step: Callable[[Settings, Any, CandidateData], tuple[Any, Array]]
    item_factors: Callable[[Any], Array]
    score: Callable[[Settings, Array, CandidateData], UserMetrics]


class Report(NamedTuple):
    """Scores of candidates; zeros for those that took no step.

    Attributes:
        metrics: on the validation set, [places, users] each.
        loss: before the last step.
        previous_loss: before the last step but one; nan if there was none.
        is_finite: whether the item factors are finite.
    """

    metrics: UserMetrics
    loss: Float[Array, "*places"]
    previous_loss: Float[Array, "*places"]
    is_finite: Bool[Array, "*places"]


class Batch(NamedTuple):
    """Candidates side by side; the last one is repeated in places that are left over.

    Attributes:
        states: of the learner, each leaf [places, ...].
        settings: [places] each.
        mesh: devices that share the places, along the axis "runs".
    """

    states: Any
    settings: Settings
    mesh: Mesh


def candidate_data(
    train: Interactions,
    validation: Interactions,
    mesh: Mesh,
    *,
    fold_in: Interactions | None = None,
    negatives: Int[np.ndarray, "users negatives"] | None = None,
    max_users: int | None = None,
    seed: int = 0,
) -> CandidateData:
    """Pack training and validation set, and copy them to every device of the mesh.

    Args:
        train: training set.
        validation: validation set.
        mesh: from `candidate_mesh`.
        fold_in: histories of the users of the validation set; None: those of the training set.
        negatives: sampled negatives of each user, among which validation items are ranked, too; None: none.
        max_users: users to score on, at most; None: all.
        seed: of their sample.
    """
    scored = evaluation_data(
        train if fold_in is None else fold_in,
        validation,
        negatives=negatives,
        max_users=max_users,
        seed=seed,
    )
    data = CandidateData(pack_clients(train), pack_items(train), scored)
    return jax.device_put(data, NamedSharding(mesh, PartitionSpec()))


def als_learner(problem: Problem, data: CandidateData) -> Learner:
    """Set up centralised ALS; its settings are keys of `model`."""
    start = problem.first_item_factors()

    def step(settings: Settings, item_factors: Array, data: CandidateData) -> tuple[Array, Array]:
        model = _model(problem, settings)
        item_factors, info = als.sweep(model, item_factors, data.clients, data.items)
        return item_factors, info.loss

    return Learner(
        init=lambda settings: start,
        step=step,
        item_factors=lambda item_factors: item_factors,
        score=partial(_score, problem),
    )


def federated_learner(problem: Problem, data: CandidateData) -> Learner:
    """Set up the configured federation; its settings are keys of `server`, except its memory."""
    num_rounds = problem.config.federation.num_rounds

    def federation_of(settings: Settings) -> Federation:
        candidate = with_values(problem.config, settings)
        return problem.federation(
            model=_model(problem, settings), optimizer=candidate.server.optimizer(num_rounds)
        )

    as_configured = federation_of({})
    state = as_configured.init(problem.key)
    capacity = cohort_rows(as_configured, problem.key, state, data.clients, num_rounds=num_rounds)

    def step(settings: Settings, state: Any, data: CandidateData) -> tuple[Any, Array]:
        federation = federation_of(settings)
        state, info = federation.round(problem.key, state, data.clients, row_capacity=capacity)
        return state, info.loss

    return Learner(
        init=lambda settings: federation_of(settings).init(problem.key),
        step=step,
        item_factors=lambda state: state.item_factors,
        score=partial(_score, problem),
    )


def candidate_mesh(num_candidates: int, *, max_devices: int | None = None) -> Mesh:
    """Arrange one device for each candidate, or all there are, along one axis "runs"."""
    available = jax.local_device_count()
    return run_mesh(min(num_candidates, available, max_devices or available))


def begin(learner: Learner, settings: Mapping[str, Sequence[float]], mesh: Mesh, *, num_places: int) -> Batch:
    """Start candidates.

    Args:
        learner: trains the candidates.
        settings: by key, a value for each of at most `num_places` candidates.
        mesh: devices that share the places.
        num_places: candidates that the compiled program is for; batches of equal size share it.
    """
    num_places = -(-num_places // mesh.size) * mesh.size
    on_device = {name: _filled(values, num_places) for name, values in settings.items()}
    return Batch(_start(learner, mesh, num_places, on_device), on_device, mesh)


def advance(
    learner: Learner, batch: Batch, data: CandidateData, num_steps: Sequence[int]
) -> tuple[Batch, Report]:
    """Train each candidate for some steps, and score it.

    Args:
        learner: trains the candidates.
        batch: from `begin` or `advance`.
        data: from `candidate_data`.
        num_steps: sweeps or rounds of each candidate; 0 for those that have ended. Traced: another number
            compiles nothing.
    """
    num_places = jax.tree.leaves(batch.states)[0].shape[0]
    steps = np.zeros(num_places, np.int32)
    steps[: len(num_steps)] = num_steps
    states, report = _advance(learner, batch.mesh, batch.states, batch.settings, jnp.asarray(steps), data)
    return batch._replace(states=states), jax.tree.map(
        lambda leaf: np.asarray(leaf)[: len(num_steps)], report
    )


def _filled(values: Sequence[float], num_places: int) -> Float[Array, "places"]:
    array = np.asarray(values, np.float32)
    return jnp.asarray(np.pad(array, (0, num_places - len(array)), mode="edge"))


def _model(problem: Problem, settings: Settings) -> Model:
    candidate = with_values(problem.config, settings)
    return model_of(candidate.model, candidate.data.feedback, problem.dataset.mean_rating)


def _score(problem: Problem, settings: Settings, item_factors: Array, data: CandidateData) -> UserMetrics:
    k = problem.config.evaluation.lengths
    return user_metrics(_model(problem, settings), item_factors, data.validation, k=k)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _start(learner: Learner, mesh: Mesh, num_places: int, settings: Settings) -> Any:
    states = jax.vmap(learner.init, axis_size=num_places)(settings)
    return jax.lax.with_sharding_constraint(states, NamedSharding(mesh, PartitionSpec("runs")))


@partial(jax.jit, static_argnums=(0, 1))
def _advance(
    learner: Learner,
    mesh: Mesh,
    states: Any,
    settings: Settings,
    num_steps: Int[Array, "places"],
    data: CandidateData,
) -> tuple[Any, Report]:
    def train(state: Any, settings: Settings, num_steps: Array, data: CandidateData) -> tuple[Any, Report]:
        def step(_: Array, carry: tuple) -> tuple:
            state, loss, _ = carry
            return *learner.step(settings, state, data), loss

        nothing = jnp.full((), jnp.nan)
        state, loss, previous = jax.lax.fori_loop(0, num_steps, step, (state, nothing, nothing))
        item_factors = learner.item_factors(state)
        metrics = learner.score(settings, item_factors, data)
        return state, Report(metrics, loss, previous, jnp.isfinite(item_factors).all())

    def train_or_rest(
        state: Any, settings: Settings, num_steps: Array, data: CandidateData
    ) -> tuple[Any, Report]:
        _, report = jax.eval_shape(train, state, settings, num_steps, data)
        at_rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), report)
        return jax.lax.cond(
            num_steps > 0, lambda: train(state, settings, num_steps, data), lambda: (state, at_rest)
        )

    at_a_time = 1 if jax.default_backend() == "cpu" else num_steps.shape[0]  # in turn on a CPU
    return map_runs(train_or_rest, (states, settings, num_steps), (data,), at_a_time=at_a_time, mesh=mesh)
