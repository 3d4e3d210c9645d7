"""Replicates of a comparison: FCF and ALS from each start on each split, each side one program over all."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64

from fcf_jax.core.federation import Federation
from fcf_jax.core.objective import for_items
from fcf_jax.core.packing import choose_row_width, pack_clients, pack_items, stack_clients
from fcf_jax.core.records import Model, PackedClients, RoundInfo, ServerState
from fcf_jax.evaluation import (
    EvaluationData,
    ModelDifference,
    UserMetrics,
    model_difference,
    per_user,
    popularity,
    summarize,
    user_metrics_of_scores,
)
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.channel import summed_confidences
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.histories import compared_histories
from fcf_jax.experiments.build.measuring import assess, loss_of_scores, scored_data
from fcf_jax.experiments.build.new_items import new_items_of
from fcf_jax.experiments.build.problem import Problem, model_of, of_popularity
from fcf_jax.experiments.config.schema import EvaluationConfig, ModelConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.loop import Learned
from fcf_jax.parallel.batch import (
    map_runs,
    place_runs,
    rows_side_by_side,
    run_mesh,
    run_side_by_side,
    start_side_by_side,
    sweep_side_by_side,
)


class States(NamedTuple):
    """State of both sides; every leaf has a leading axis of replicates.

    Attributes:
        federated: server states of FCF.
        centralized: item factors and user map of ALS.
    """

    federated: ServerState
    centralized: Learned


class Assessment(NamedTuple):
    """Models of one side with their losses and metrics, on the host.

    Attributes:
        item_factors: Y of each replicate.
        user_factors: X, solved against Y from the training histories.
        loss: min_X J(X, Y).
        metrics: [replicates, users] each; None without any test item.
        of_new_items: means of cold and warm items in each replicate, by name.
    """

    item_factors: Float[np.ndarray, "replicates items factors"]
    user_factors: Float[np.ndarray, "replicates users factors"]
    loss: Float[np.ndarray, "replicates"]
    metrics: UserMetrics | None
    of_new_items: dict[str, Float64[np.ndarray, "replicates"]]


class Replicates(NamedTuple):
    """Operations on all replicates at once.

    Attributes:
        start: () -> the first states.
        place: states on the host -> the same on the devices.
        run: (server states, num_rounds) -> (server states, infos).
        sweep: (learned, num_sweeps) -> (learned, losses).
        assess: learned -> metrics and losses.
        popularity: () -> metrics and losses of the ranking by popularity, by name.
    """

    start: Callable[[], States]
    place: Callable[[States], States]
    run: Callable[[ServerState, int], tuple[ServerState, RoundInfo]]
    sweep: Callable[[Learned, int], tuple[Learned, Array]]
    assess: Callable[[Learned], Assessment]
    popularity: Callable[[], dict[str, Float64[np.ndarray, "replicates"]]]


class _Data(NamedTuple):
    """Packed data, stacked along the replicates or shared by all of them."""

    clients: PackedClients
    items: PackedClients
    evaluation: EvaluationData | None


def replicate_mesh(devices: int | None, num_replicates: int) -> Mesh | None:
    """Arrange the devices that share the replicates; None for one device.

    Raises:
        ConfigError: for more devices than there are.
    """
    try:
        mesh = run_mesh(devices)
    except ValueError:
        raise ConfigError(
            f"parallel.devices: expected at most {jax.local_device_count()}, got {devices}; lower it"
        ) from None
    used = min(mesh.size, num_replicates)
    return None if used == 1 else run_mesh(used)


def prepare_replicates(problem: Problem, datasets: list[Dataset], mesh: Mesh | None) -> Replicates:
    """Pack the data and set up the programs; each is compiled once for all replicates.

    Args:
        problem: of the first replicate; each further one takes the next seed.
        datasets: one for each replicate, or one for all.
        mesh: from `replicate_mesh`.
    """
    config = problem.config
    num_replicates, num_rounds = config.comparison.num_builds, config.federation.num_rounds
    keys = jax.vmap(jax.random.key)(config.federation.seed + np.arange(num_replicates))
    models = _stack(
        [model_of(config.model, config.data.feedback, dataset.mean_rating) for dataset in datasets],
        num_replicates,
    )
    data = _pack(
        datasets,
        mesh,
        model=config.model,
        evaluation=config.evaluation,
        seed=config.data.seed,
    )

    totals = _stack([summed_confidences(problem.model, one.split.train) for one in datasets], num_replicates)

    def make_federation(numbers: tuple[Model, Array]) -> Federation:
        model, confidences = numbers
        return problem.federation(model=model, confidences=confidences)

    start = place_runs(start_side_by_side(make_federation, keys, (models, totals)), mesh)
    row_capacity = rows_side_by_side(
        make_federation, keys, (models, totals), data.clients, states=start, num_rounds=num_rounds
    )

    def run(states: ServerState, num_rounds: int) -> tuple[ServerState, RoundInfo]:
        return run_side_by_side(
            make_federation,
            keys,
            (models, totals),
            data.clients,
            num_rounds=num_rounds,
            states=states,
            row_capacity=row_capacity,
            mesh=mesh,
        )

    def sweep(learned: Learned, num_sweeps: int) -> tuple[Learned, Array]:
        item_factors, info = sweep_side_by_side(
            models,
            learned.item_factors,
            data.clients,
            data.items,
            num_sweeps=num_sweeps,
            user_maps=learned.user_map,
            mesh=mesh,
        )
        user_map = None if info.user_map is None else info.user_map[:, -1]
        return Learned(item_factors, user_map), info.loss

    return Replicates(
        start=lambda: States(start, Learned.of(start)),
        place=lambda states: place_runs(states, mesh),
        run=run,
        sweep=sweep,
        assess=_assessor(problem, datasets, data, models, mesh),
        popularity=lambda: _popularity(problem, datasets, data, models, mesh),
    )


def metrics_by_replicate(
    assessment: Assessment, *, k: Sequence[int]
) -> dict[str, Float64[np.ndarray, "replicates"]]:
    """Summarize the metrics and the loss of each replicate; metrics are nan without test items."""
    num_replicates = assessment.loss.size
    if assessment.metrics is None:
        metrics = {name: np.full(num_replicates, np.nan) for name in metric_names(k)}
    else:
        metrics = _summaries(assessment.metrics, num_replicates)
    return {**metrics, **assessment.of_new_items, "loss": assessment.loss.astype(np.float64)}


def metrics_by_user(assessment: Assessment) -> dict[str, Float64[np.ndarray, "replicates users"]]:
    """Return the metrics of each user by name, empty without test items."""
    if assessment.metrics is None:
        return {}
    each = [per_user(_take(assessment.metrics, index)) for index in range(assessment.loss.size)]
    return {name: np.stack([metrics[name] for metrics in each]) for name in each[0]}


def difference_between(
    federated: Assessment, centralized: Assessment
) -> dict[str, Float64[np.ndarray, "replicates"]]:
    """Compute the `model_difference` of the two sides in each replicate, by name."""
    sides = (
        federated.item_factors,
        federated.user_factors,
        centralized.item_factors,
        centralized.user_factors,
    )
    differences = [model_difference(*models) for models in zip(*sides, strict=True)]
    return {
        f"{name}_difference": np.array([getattr(difference, name) for difference in differences])
        for name in ModelDifference._fields
    }


def _pack(
    datasets: list[Dataset],
    mesh: Mesh | None,
    *,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    seed: int,
) -> _Data:
    compare = partial(compared_histories, model, seed=seed)
    trains = [compare(dataset.split.train) for dataset in datasets]
    row_width = choose_row_width(trains[0].transpose())  # one for all: lengths of items depend on the split
    features, parts = datasets[0].features, [dataset.split.train for dataset in datasets]
    clients = [
        pack_clients(train, num_factors=model.num_factors, features=features.of_users(part))
        for train, part in zip(trains, parts, strict=True)
    ]
    items = [
        pack_items(
            train, num_factors=model.num_factors, row_width=row_width, features=features.of_items(part)
        )
        for train, part in zip(trains, parts, strict=True)
    ]
    evaluations = [scored_data(dataset, evaluation, compare=compare, seed=seed) for dataset in datasets]
    if len(datasets) == 1:
        return _Data(clients[0], items[0], evaluations[0])
    stacked = None if evaluations[0] is None else _stack(evaluations, len(datasets))
    return place_runs(_Data(stack_clients(clients), stack_clients(items), stacked), mesh)


def _assessor(
    problem: Problem, datasets: list[Dataset], data: _Data, models: Model, mesh: Mesh | None
) -> Callable[[Learned], Assessment]:
    k, is_shared = problem.config.evaluation.lengths, len(datasets) == 1
    item_features = problem.dataset.features.of_items(problem.train)
    measure_new_items = _of_new_items(problem, datasets, models)

    def assess_one(model: Model, learned: Learned, clients: PackedClients, data: EvaluationData | None):
        return assess(model, *learned, clients, data, k=k, item_features=item_features)

    @jax.jit
    def assess_all(learned: Learned, models: Model, *data: Any) -> tuple:
        runs = (models, learned)
        mapped, shared = (runs, data) if is_shared else ((*runs, *data), ())
        return map_runs(assess_one, mapped, shared, mesh=mesh)

    def assess_on_host(learned: Learned) -> Assessment:
        assessed = assess_all(learned, models, data.clients, data.evaluation)
        item_factors, (user_factors, loss, metrics) = jax.tree.map(
            np.asarray, (learned.item_factors, assessed)
        )
        of_new_items = measure_new_items(item_factors, user_factors)
        return Assessment(item_factors, user_factors, loss, metrics, of_new_items)

    return assess_on_host


def _of_new_items(
    problem: Problem, datasets: list[Dataset], models: Model
) -> Callable[[np.ndarray, np.ndarray], dict[str, Float64[np.ndarray, "replicates"]]]:
    """Prepare the metrics of cold and warm items: (item factors, user factors) -> means by name."""
    config = problem.config
    prepared = [
        new_items_of(dataset, config.data, config.evaluation, seed=config.data.seed) for dataset in datasets
    ]

    def measure(item_factors: np.ndarray, user_factors: np.ndarray) -> dict[str, np.ndarray]:
        found = []
        for index, (y, x) in enumerate(zip(item_factors, user_factors, strict=True)):
            which = index % len(datasets)
            if (new_items := prepared[which]) is None:
                return {}
            train = datasets[which].split.train
            counts = jnp.asarray(train.item_counts)
            of_items = for_items(_take(models, index), counts, train.num_users)
            found.append(new_items.metrics(of_items, x[new_items.user_ids], y))
        return {name: np.array([values[name] for values in found]) for name in found[0]}

    return measure


def _popularity(
    problem: Problem, datasets: list[Dataset], data: _Data, models: Model, mesh: Mesh | None
) -> dict[str, Float64[np.ndarray, "replicates"]]:
    """Measure the ranking by popularity in each replicate's split; metrics are nan without test items."""
    config, k = problem.config, problem.config.evaluation.lengths
    num_replicates, trains = config.comparison.num_builds, [one.split.train for one in datasets]
    shares = [popularity(train) for train in trains]
    losses = [loss_of_scores(problem.model, *pair) for pair in zip(trains, shares, strict=True)]
    measured = {name: np.full(num_replicates, np.nan) for name in metric_names(k)}
    if data.evaluation is not None:
        evaluate = partial(user_metrics_of_scores, k=k)
        runs, is_shared = (models, _stack(shares, num_replicates)), len(datasets) == 1
        arguments = (runs, (data.evaluation,)) if is_shared else ((*runs, data.evaluation), ())
        metrics = jax.jit(lambda each, all_: map_runs(evaluate, each, all_, mesh=mesh))(*arguments)
        measured = _summaries(metrics, num_replicates)
    new = [new_items_of(one, config.data, config.evaluation, seed=config.data.seed) for one in datasets]
    floors = [one.popularity(problem.model) for one in new if one is not None]
    for name in floors[0] if floors else ():
        measured[name] = np.resize(np.array([floor[name] for floor in floors]), num_replicates)
    measured["loss"] = np.resize(np.array(losses), num_replicates)
    return of_popularity(config, measured)


def _summaries(metrics: UserMetrics, num_replicates: int) -> dict[str, np.ndarray]:
    summaries = [summarize(_take(metrics, index)) for index in range(num_replicates)]
    return {name: np.array([summary[name] for summary in summaries]) for name in summaries[0]}


def _stack(trees: list[Any], num_replicates: int) -> Any:
    """Stack trees of equal shapes along the replicates, or repeat the only one."""
    trees = trees * num_replicates if len(trees) == 1 else trees
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def _take(tree: Any, replicate: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[replicate], tree)
