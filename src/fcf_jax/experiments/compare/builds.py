"""The builds of a comparison: federation and ALS from each start on each split, as programs over all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.federation import Federation
from fcf_jax.core.packing import choose_row_width, pack_clients, pack_items, stack_clients
from fcf_jax.core.records import Model, PackedClients, RoundInfo, ServerState
from fcf_jax.evaluation import EvaluationData, evaluation_data, user_metrics
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.problem import Problem, model_of
from fcf_jax.experiments.compare.assessment import Assessment
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.parallel.batch import (
    map_runs,
    place_runs,
    rows_side_by_side,
    run_mesh,
    run_side_by_side,
    start_side_by_side,
    sweep_side_by_side,
)


class Both(NamedTuple):
    """State of both sides of all builds; leaves have a leading axis of builds.

    Attributes:
        federated: of the federations.
        centralized: item factors of ALS.
    """

    federated: ServerState
    centralized: Float[Array, "builds items factors"]


class Builds(NamedTuple):
    """Operations on all builds at once.

    Attributes:
        start: () -> the first state of both sides.
        place: states on the host -> the same on the devices.
        run: (states, num_rounds) -> (states, infos).
        sweep: (item_factors, num_sweeps) -> (item_factors, losses).
        assess: item_factors -> metrics and losses of all builds.
    """

    start: Callable[[], Both]
    place: Callable[[Both], Both]
    run: Callable[[ServerState, int], tuple[ServerState, RoundInfo]]
    sweep: Callable[[Array, int], tuple[Array, Array]]
    assess: Callable[[Array], Assessment]


class _Data(NamedTuple):
    """Packed data, stacked along the builds or shared by all."""

    clients: PackedClients
    items: PackedClients
    evaluation: EvaluationData | None


def mesh_of_builds(devices: int | None, num_builds: int) -> Mesh | None:
    """Arrange the devices that share the builds; None for one device.

    Raises:
        ConfigError: for more devices than there are.
    """
    try:
        mesh = run_mesh(devices)
    except ValueError:
        raise ConfigError(
            f"parallel.devices: expected 1 to {jax.local_device_count()}, got {devices}; lower it"
        ) from None
    used = min(mesh.size, num_builds)
    return None if used == 1 else run_mesh(used)


def prepare_builds(problem: Problem, datasets: list[Dataset], mesh: Mesh | None) -> Builds:
    """Pack the data and set up the programs; each is compiled once for all builds.

    Args:
        problem: of the first build; each further build takes the next seed.
        datasets: one for each build, or one for all.
        mesh: from `mesh_of_builds`.
    """
    config = problem.config
    num_builds, num_rounds = config.comparison.num_builds, config.federation.num_rounds
    keys = jax.vmap(jax.random.key)(config.federation.seed + np.arange(num_builds))
    each = [model_of(config.model, config.data.feedback, one.mean_rating) for one in datasets]
    models, data = (
        _stack(each, num_builds),
        _pack(config.evaluation.max_users, config.data.seed, datasets, mesh),
    )

    def make_federation(model: Model) -> Federation:
        return problem.federation(model=model)

    start = place_runs(start_side_by_side(make_federation, keys, models), mesh)
    row_capacity = rows_side_by_side(
        make_federation, keys, models, data.clients, states=start, num_rounds=num_rounds
    )

    def run(states: ServerState, num_rounds: int) -> tuple[ServerState, RoundInfo]:
        return run_side_by_side(
            make_federation,
            keys,
            models,
            data.clients,
            num_rounds=num_rounds,
            states=states,
            row_capacity=row_capacity,
            mesh=mesh,
        )

    def sweep(item_factors: Array, num_sweeps: int) -> tuple[Array, Array]:
        item_factors, info = sweep_side_by_side(
            models, item_factors, data.clients, data.items, num_sweeps=num_sweeps, mesh=mesh
        )
        return item_factors, info.loss

    return Builds(
        start=lambda: Both(start, start.item_factors),
        place=lambda both: place_runs(both, mesh),
        run=run,
        sweep=sweep,
        assess=_assessor(data, models, mesh, k=config.evaluation.k, is_shared=len(datasets) == 1),
    )


def _pack(max_users: int | None, seed: int, datasets: list[Dataset], mesh: Mesh | None) -> _Data:
    trains = [one.split.train for one in datasets]
    row_width = choose_row_width(trains[0].transpose())  # lengths of items differ from split to split
    clients = [pack_clients(train) for train in trains]
    items = [pack_items(train, row_width=row_width) for train in trains]
    evaluations = None
    if datasets[0].split.test.num_interactions > 0:
        evaluations = [
            evaluation_data(one.split.train, one.split.test, max_users=max_users, seed=seed)
            for one in datasets
        ]
    if len(datasets) == 1:
        return _Data(clients[0], items[0], None if evaluations is None else evaluations[0])
    stacked = None if evaluations is None else _stack(evaluations, len(datasets))
    return place_runs(_Data(stack_clients(clients), stack_clients(items), stacked), mesh)


def _assessor(
    data: _Data, models: Model, mesh: Mesh | None, *, k: int, is_shared: bool
) -> Callable[[Array], Assessment]:
    def assess(model: Model, item_factors: Array, clients: PackedClients, data: EvaluationData | None):
        user_factors, loss = solve_clients(model, item_factors, clients)
        loss = loss + model.regularization * jnp.sum(item_factors**2)
        metrics = None if data is None else user_metrics(model, item_factors, data, k=k)
        return user_factors, loss, metrics

    @jax.jit
    def assess_all(item_factors: Array, models: Model, *known: Any) -> tuple:
        runs = (models, item_factors)
        of_each, of_all = (runs, known) if is_shared else ((*runs, *known), ())
        return map_runs(assess, of_each, of_all, mesh=mesh)

    def assess_on_host(item_factors: Array) -> Assessment:
        found = assess_all(item_factors, models, data.clients, data.evaluation)
        return Assessment(*jax.tree.map(np.asarray, (item_factors, *found)))

    return assess_on_host


def _stack(trees: list[Any], num_builds: int) -> Any:
    """Stack trees of equal shapes along the builds, or repeat the only one."""
    trees = trees * num_builds if len(trees) == 1 else trees
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)
