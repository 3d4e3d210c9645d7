"""Many federations side by side in one program, with different seeds, hyperparameters or data.

    def make(rate):
        return federated_cf(model, optax.adam(rate), num_items=..., num_factors=25)

    keys = jax.random.split(key, 8)
    states, infos = run_side_by_side(make, keys, rates, clients, num_rounds=50)
    states, infos = run_side_by_side(make, keys, rates, clients, states=states, num_rounds=50)  # 50 more

`sweep_side_by_side` does the same for centralised ALS, `map_runs` for any function of one run. All runs share
the clients, or each has its own packing (`fcf_jax.core.packing.stack_clients`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from jaxtyping import Key as TypedKey

from fcf_jax.als import AlsInfo, run_sweeps
from fcf_jax.core.federation import Federation, cohort_rows, run_rounds
from fcf_jax.core.records import Key, Model, PackedClients, RoundInfo, ServerState, as_pytree

_SHARE_OF_MEMORY = 0.5  # share of a device's free memory to use
_COPIES = 4  # approximate number of copies of a state, and of a chunk's factors, that exist at a time

_Keys = TypedKey[Array, "runs"]
Tree = TypeVar("Tree")


def run_side_by_side(
    make_federation: Callable[[Any], Federation],
    keys: _Keys,
    hyperparameters: Any,
    clients: PackedClients,
    *,
    num_rounds: int,
    states: ServerState | None = None,
    row_capacity: int | None = None,
    at_a_time: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[ServerState, RoundInfo]:
    """Run several federations, each with its own key and hyperparameters.

    Args:
        make_federation: hyperparameters of one run -> its federation. Sizes must not depend on them. Another
            function object, even an equal one, recompiles.
        keys: key of each run.
        hyperparameters: any pytree whose leaves have a leading axis of runs.
        clients: clients of all runs, whole on each device; or stacked along a leading axis of runs.
        num_rounds: number of rounds that each run adds to its state.
        states: states to begin with, stacked; None: drawn by `start_side_by_side`.
        row_capacity: rows of each device for a cohort of any run; None: computed from the keys.
            Blocks of rounds share a compiled program only if it is the same.
        at_a_time: runs computed together on a device; None: as many as fit on a GPU, one on a CPU.
        mesh: devices that share the runs, from `run_mesh`; None: one device.

    Returns:
        States and infos of all runs, stacked: those of `run_rounds`, up to rounding.

    Raises:
        ValueError: if leading axes differ.
    """
    num_runs = keys.shape[0]
    _check_runs(num_runs, hyperparameters=hyperparameters, states=states, clients=_stacked(clients))
    if states is None:
        states = start_side_by_side(make_federation, keys, hyperparameters)
    if row_capacity is None:
        row_capacity = rows_side_by_side(
            make_federation, keys, hyperparameters, clients, states=states, num_rounds=num_rounds
        )
    if at_a_time is None:
        at_a_time = runs_that_fit(states.item_factors, states, clients)
    runs = (keys, hyperparameters, states)
    return _run_all(make_federation, num_rounds, row_capacity, at_a_time, mesh, runs, clients)


def start_side_by_side(
    make_federation: Callable[[Any], Federation], keys: _Keys, hyperparameters: Any
) -> ServerState:
    """Draw the first state of every run, stacked; arguments as for `run_side_by_side`."""
    return _start_all(make_federation, keys, hyperparameters)


def rows_side_by_side(
    make_federation: Callable[[Any], Federation],
    keys: _Keys,
    hyperparameters: Any,
    clients: PackedClients,
    *,
    states: ServerState,
    num_rounds: int,
) -> int:
    """Compute, on the host, a `row_capacity` for all runs; arguments as for `run_side_by_side`."""
    federation = make_federation(_run(hyperparameters, 0))
    return max(
        cohort_rows(
            federation,
            keys[run],
            _run(states, run),
            clients if _stacked(clients) is None else _run(clients, run),
            num_rounds=num_rounds,
        )
        for run in range(keys.shape[0])
    )


def sweep_side_by_side(
    models: Model,
    item_factors: Float[Array, "runs items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    num_sweeps: int,
    user_maps: Float[Array, "runs features factors"] | None = None,
    at_a_time: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "runs items factors"], AlsInfo]:
    """Run sweeps of several centralised ALS, each with its own item factors and model.

    Args:
        models: models of all runs, stacked: each number has a leading axis of runs.
        item_factors: Y of each run to begin with.
        clients: clients of all runs, or stacked.
        items: the same interactions by item, stacked if the clients are.
        num_sweeps: number of sweeps of each run.
        user_maps: A of each run to begin with, if users have features; None: 0.
        at_a_time: runs computed together on a device; None: as for `run_side_by_side`.
        mesh: devices that share the runs, from `run_mesh`; None: one device.

    Returns:
        Item factors and infos of all runs, stacked: those of `run_sweeps`, up to rounding.

    Raises:
        ValueError: if leading axes differ.
    """
    num_runs = item_factors.shape[0]
    _check_runs(
        num_runs, models=models, user_maps=user_maps, clients=_stacked(clients), items=_stacked(items)
    )
    if at_a_time is None:
        at_a_time = runs_that_fit(item_factors, item_factors, clients)
    runs = (item_factors, as_pytree(models), user_maps)
    return _sweep_all(num_sweeps, at_a_time, mesh, runs, clients, items)


def map_runs(
    run: Callable[..., Tree],
    of_each: tuple,
    of_all: tuple = (),
    *,
    at_a_time: int = 1,
    mesh: Mesh | None = None,
) -> Tree:
    """Compute `run(*of_each, *of_all)` for every run. Use it under `jax.jit`.

    Args:
        run: function of one run.
        of_each: arguments of each run, whose leaves have a leading axis of runs.
        of_all: arguments that all runs share.
        at_a_time: runs computed together on a device, at least 1.
        mesh: devices that share the runs, from `run_mesh`; None: one device.

    Returns:
        The results, stacked.
    """
    num_runs = jax.tree.leaves(of_each)[0].shape[0]
    num_shares = 1 if mesh is None else mesh.size
    share = -(-num_runs // num_shares)
    at_a_time = -(-share // -(-share // max(min(at_a_time, share), 1)))  # in batches of one size
    num_missing = share * num_shares - num_runs  # padding runs, discarded

    def runs_of_share(of_each: tuple, of_all: tuple) -> Tree:
        batch_size = None if at_a_time == 1 else at_a_time
        return jax.lax.map(lambda of_run: run(*of_run, *of_all), of_each, batch_size=batch_size)

    if mesh is not None:
        split, whole = PartitionSpec("runs"), PartitionSpec()
        runs_of_share = jax.shard_map(
            runs_of_share, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
        )
    if num_missing == 0:
        return runs_of_share(of_each, of_all)
    filled = np.minimum(np.arange(num_runs + num_missing), num_runs - 1)
    results = runs_of_share(jax.tree.map(lambda leaf: leaf[filled], of_each), of_all)
    kept = jax.tree.map(lambda leaf: leaf[:num_runs], results)
    return kept if mesh is None else jax.lax.with_sharding_constraint(kept, _placement(num_runs, mesh))


def place_runs(tree: Tree, mesh: Mesh | None) -> Tree:
    """Split stacked runs over the mesh, or copy all to each device if they do not divide evenly.

    `map_runs` places its results in the same way, so passing them on to the next call does not recompile.
    """
    if mesh is None:
        return jax.device_put(tree)
    return jax.device_put(tree, _placement(jax.tree.leaves(tree)[0].shape[0], mesh))


def run_mesh(num_devices: int | None = None) -> Mesh:
    """Build a mesh of the first devices of this process, by default all, with one axis "runs".

    Raises:
        ValueError: for a number below 1, or more devices than there are.
    """
    available = jax.local_device_count()
    num_devices = available if num_devices is None else num_devices
    if not 1 <= num_devices <= available:
        raise ValueError(f"expected 1 to {available} devices, got num_devices {num_devices}")
    return jax.make_mesh(
        (num_devices,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.local_devices()[:num_devices],
    )  # fmt: skip


@partial(jax.jit, static_argnums=0)
def _start_all(make_federation: Callable, keys: _Keys, hyperparameters: Any) -> ServerState:
    return jax.vmap(lambda key, of_run: make_federation(of_run).init(key))(keys, hyperparameters)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run_all(
    make_federation: Callable,
    num_rounds: int,
    row_capacity: int,
    at_a_time: int,
    mesh: Mesh | None,
    runs: tuple[_Keys, Any, ServerState],
    clients: PackedClients,
) -> tuple[ServerState, RoundInfo]:
    def run(key: Key, hyperparameters: Any, state: ServerState, clients: PackedClients):
        federation = make_federation(hyperparameters)
        return run_rounds(federation, key, state, clients, num_rounds=num_rounds, row_capacity=row_capacity)

    return map_runs(run, *_split_arguments(runs, clients), at_a_time=at_a_time, mesh=mesh)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sweep_all(
    num_sweeps: int,
    at_a_time: int,
    mesh: Mesh | None,
    runs: tuple[Array, Model, Array | None],
    clients: PackedClients,
    items: PackedClients,
) -> tuple[Array, AlsInfo]:
    def run(item_factors: Array, model: Model, user_map: Array | None, *packings: PackedClients):
        return run_sweeps(model, item_factors, *packings, num_sweeps=num_sweeps, user_map=user_map)

    return map_runs(run, *_split_arguments(runs, clients, items), at_a_time=at_a_time, mesh=mesh)


def _placement(num_runs: int, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec() if num_runs % mesh.size else PartitionSpec("runs"))


def _split_arguments(runs: tuple, *packings: PackedClients) -> tuple[tuple, tuple]:
    """Return the arguments of each run, and those that all runs share."""
    return (runs, packings) if _stacked(packings[0]) is None else ((*runs, *packings), ())


def _stacked(clients: PackedClients) -> PackedClients | None:
    """Return the clients if they are stacked, one packing per run."""
    return clients if clients.owners.ndim == 3 else None


def _run(tree: Tree, run: int) -> Tree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[run], tree)


def _check_runs(num_runs: int, **trees: Any) -> None:
    for name, tree in trees.items():
        for leaf in jax.tree.leaves(tree):
            if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != num_runs:
                raise ValueError(
                    f"expected {name} with a leading axis of {num_runs} runs, got {jnp.shape(leaf)}"
                )


def runs_that_fit(
    item_factors: Float[Array | jax.ShapeDtypeStruct, "runs items factors"],
    states: Any,
    clients: PackedClients,
) -> int:
    """Estimate from the sizes of a state and of a chunk how many runs fit a GPU; 1 on a CPU, the fastest.

    Args:
        item_factors: Y of some runs, or its shape.
        states: of as many runs, or their shapes.
        clients: of all runs, or stacked.
    """
    stats = jax.local_devices()[0].memory_stats()
    if not stats:
        return 1
    num_runs, _, num_factors = item_factors.shape
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states)) // num_runs
    slots = clients.owners.shape[-1] * clients.rows.mask.shape[-1]
    chunk = 4 * num_factors * (slots + clients.client_ids.shape[-1] * num_factors)
    limit = stats["bytes_limit"] - stats["bytes_in_use"]
    return max(int(_SHARE_OF_MEMORY * limit) // (_COPIES * (state + chunk)), 1)
