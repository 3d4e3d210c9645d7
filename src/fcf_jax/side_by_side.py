"""Whole federations side by side: seeds, alpha, lambda and learning rates as one program.

def make(rate):
    return federated_cf(optax.adam(rate), implicit_feedback(alpha=4.0), ...)

states, infos = run_side_by_side(make, jax.random.split(key, 8), rates, clients, num_rounds=50)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fcf_jax.core.federation import Federation, cohort_rows
from fcf_jax.core.server import ServerState
from fcf_jax.core.types import Key, PackedClients, RoundInfo

_SHARE_OF_MEMORY = 0.5  # of what a device has left
_COPIES = 4  # of a state or of a chunk's factors that are alive at a time, about


def run_side_by_side(
    make_federation: Callable[[Any], Federation],
    keys: Key,
    hyperparameters: Any,
    clients: PackedClients,
    *,
    num_rounds: int,
    at_a_time: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[ServerState, RoundInfo]:
    """Run R federations over the same clients, each from its own key and hyperparameters.

    Args:
        make_federation: from the hyperparameters of one run to its federation; use the same
            function again, or every call compiles anew. Shapes and sizes must not depend on them.
        keys: [runs].
        hyperparameters: any pytree whose leaves have a leading axis of runs.
        clients: whole on each device.
        num_rounds: of each run.
        at_a_time: runs that are computed together on a device; None: as many as
            the memory of a GPU holds, on a CPU one.
        mesh: devices over which the runs are split, along an axis "runs" (`run_mesh`).

    Returns:
        States and infos of all runs, stacked: each as `run_rounds` gives them, to rounding.

    Raises:
        ValueError: when the leading axes differ.
    """
    num_runs = keys.shape[0]
    for leaf in jax.tree.leaves(hyperparameters):
        if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != num_runs:
            raise ValueError(
                f"expected hyperparameters with a leading axis of {num_runs} runs, got {jnp.shape(leaf)}"
            )
    first = make_federation(jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], hyperparameters))
    start = jax.eval_shape(first.init, keys[0])
    capacity = 1
    if not first.takes_everybody:
        fresh = first.init(keys[0])
        capacity = max(cohort_rows(first, key, fresh, clients, num_rounds=num_rounds) for key in keys)
    num_shares = 1 if mesh is None else mesh.size
    share = -(-num_runs // num_shares)
    most = _runs_that_fit(start, clients) if at_a_time is None else at_a_time
    at_a_time = -(-share // -(-share // max(min(most, share), 1)))  # in batches of one size
    filled = np.minimum(np.arange(share * num_shares), num_runs - 1)
    keys, hyperparameters = jax.tree.map(lambda leaf: jnp.asarray(leaf)[filled], (keys, hyperparameters))
    results = _run_all(make_federation, num_rounds, capacity, at_a_time, mesh, keys, hyperparameters, clients)
    return jax.tree.map(lambda leaf: leaf[:num_runs], results)


def run_mesh() -> Mesh:
    """Arrange all devices of this process along one axis "runs"."""
    return jax.make_mesh(
        (jax.local_device_count(),), ("runs",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.local_devices(),
    )  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run_all(
    make_federation: Callable,
    num_rounds: int,
    row_capacity: int,
    at_a_time: int,
    mesh: Mesh | None,
    keys: Key,
    hyperparameters: Any,
    clients: PackedClients,
) -> tuple[ServerState, RoundInfo]:
    def run(key: Key, hyperparameters: Any, clients: PackedClients) -> tuple[ServerState, RoundInfo]:
        federation = make_federation(hyperparameters)

        def step(state: ServerState, _: None) -> tuple[ServerState, RoundInfo]:
            return federation.round(key, state, clients, row_capacity=row_capacity)

        return jax.lax.scan(step, federation.init(key), length=num_rounds)

    def runs(keys: Key, hyperparameters: Any, clients: PackedClients) -> tuple[ServerState, RoundInfo]:
        return jax.lax.map(
            lambda one: run(one[0], one[1], clients), (keys, hyperparameters), batch_size=at_a_time
        )

    if mesh is not None:
        split, whole = PartitionSpec("runs"), PartitionSpec()
        runs = jax.shard_map(
            runs, mesh=mesh, in_specs=(split, split, whole), out_specs=split, check_vma=False
        )
    return runs(keys, hyperparameters, clients)


def _runs_that_fit(start: ServerState, clients: PackedClients) -> int:
    """Estimate from the sizes of a state and of a chunk's work; on a CPU one at a time is fastest."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats:
        return 1
    num_factors = start.item_factors.shape[1]
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start))
    slots = clients.owners.shape[1] * clients.rows.mask.shape[2]
    chunk = 4 * num_factors * (slots + clients.client_ids.shape[1] * num_factors)
    limit = stats["bytes_limit"] - stats["bytes_in_use"]
    return max(int(_SHARE_OF_MEMORY * limit) // (_COPIES * (state + chunk)), 1)
