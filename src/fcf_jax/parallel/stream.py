"""Rounds over clients that do not fit on the device: their rows stream from host memory in blocks.

    clients = pack_clients(interactions, device=jax.local_devices(backend="cpu")[0])
    state, info = run_rounds_streamed(federation, key, state, clients, num_rounds=10, block_chunks=256)

While the device computes a block, the next one is copied to it; there are never more than two. The sums are
those of `run_rounds`, in another order.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core import round_parts as rounds
from fcf_jax.core.checks import require
from fcf_jax.core.cohorts import gather_cohort
from fcf_jax.core.federation import Federation, cohort_rows, run_rounds, setup_of
from fcf_jax.core.packing import cut_chunks
from fcf_jax.core.records import Cohort, Key, PackedClients, RoundInfo, ServerState
from fcf_jax.core.sampling import draw_cohorts
from fcf_jax.core.setup import Setup
from fcf_jax.parallel.mesh import place_clients, replicate


def run_rounds_streamed(
    federation: Federation,
    key: Key,
    state: ServerState,
    clients: PackedClients,
    *,
    num_rounds: int,
    block_chunks: int,
    donate: bool = False,
) -> tuple[ServerState, RoundInfo]:
    """Run rounds as `run_rounds` does, with the clients in host memory.

    Args:
        federation: result of `federated_cf`; blocks are placed on its mesh.
        key: the key of all rounds.
        state: state to begin with.
        clients: clients on a CPU device; if cohorts are sampled, only their rows are copied.
        num_rounds: number of rounds to run.
        block_chunks: chunks per block; two blocks must fit on the device.
        donate: as for `run_rounds`.

    Raises:
        ValueError: for arguments that do not fit together, as for `run_rounds`.
    """
    require(key=key, num_rounds=num_rounds, block_chunks=block_chunks, clients=clients)
    setup, num_users = setup_of(federation), clients.row_counts.shape[0]
    rounds.check_round(setup, state, clients)
    infos = [] if num_rounds else [_no_rounds(federation, key, state, clients)]
    row_capacity = cohort_rows(federation, key, state, clients, num_rounds=num_rounds)
    state = state if donate else jax.tree.map(jnp.copy, state)
    for _ in range(num_rounds):
        cohort = _drawn(setup, key, state, num_users)
        user_weights = rounds.weights_of_users(cohort, num_users=num_users)
        present = clients
        if setup.cohort_size is not None:
            present = _gather_on_host(setup, clients, cohort.client_ids, row_capacity)
        shared = (setup, key, state, user_weights)
        total, solve_error = collect_streamed(
            _collect, shared, present, block_chunks=block_chunks, mesh=setup.mesh
        )
        state, info = _step_in_place(num_users, setup, key, state, total, np.asarray(clients.item_counts))
        infos.append(info._replace(solve_error=solve_error, client_ids=cohort.client_ids))
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves) if num_rounds else leaves[0], *infos)


def _drawn(setup: Setup, key: Key, state: ServerState, num_users: int) -> Cohort:
    cohorts = draw_cohorts(
        key,
        state.round_index,
        num_rounds=1,
        num_users=num_users,
        cohort_size=setup.cohort_size,
        sampling=setup.sampling,
    )
    return jax.tree.map(lambda leaf: leaf[0], cohorts)


def _no_rounds(federation: Federation, key: Key, state: ServerState, clients: PackedClients) -> RoundInfo:
    """Return the stacked infos of zero rounds."""
    run = partial(run_rounds, federation, num_rounds=0, row_capacity=1)
    _, shapes = jax.eval_shape(run, key, state, clients)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _collect(shared: tuple, clients: PackedClients) -> tuple[Any, Array]:
    setup, key, state, user_weights = shared
    return rounds.collect(setup, key, state, user_weights, clients)


def collect_streamed(
    collect: Callable[..., tuple[Any, Array]],
    shared: Any,
    clients: PackedClients,
    *,
    block_chunks: int,
    mesh: Mesh | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Add up the uploads of all clients, block by block.

    Args:
        collect: (shared, block of clients) -> (total, largest error); totals are added leaf by leaf.
        shared: first argument of `collect`, the same for all blocks.
        clients: clients on a CPU device.
        block_chunks: chunks per block; two blocks must fit on the device.
        mesh: devices that share each block; None: the default device.

    Returns:
        The sum of the totals, and the largest error.

    Raises:
        ValueError: for block_chunks below 1.
    """
    require(block_chunks=block_chunks)
    total, earlier = None, None
    for block in _blocks(clients, block_chunks, mesh):
        jax.block_until_ready(earlier)  # else blocks would pile up on the device
        earlier = total
        total = _add_block(collect, total, shared, block)
    assert total is not None
    return total


def _blocks(clients: PackedClients, block_chunks: int, mesh: Mesh | None) -> Iterator[PackedClients]:
    """Yield blocks of one shape, each copied to the device while the block before is computed."""
    num_chunks = clients.client_ids.shape[0]
    block_chunks = min(block_chunks, num_chunks)
    whole = clients.first_row, clients.row_counts, clients.item_counts, clients.features
    whole = jax.device_put(whole) if mesh is None else replicate(whole, mesh)
    first_row, row_counts, item_counts, features = whole

    def place(start: int) -> PackedClients:
        block = cut_chunks(clients._replace(features=None), start, block_chunks)
        placed = jax.device_put(block) if mesh is None else place_clients(block, mesh)
        return placed._replace(
            first_row=first_row, row_counts=row_counts, item_counts=item_counts, features=features
        )

    upcoming = place(0)
    for start in range(block_chunks, num_chunks, block_chunks):
        current, upcoming = upcoming, place(start)
        yield current
    yield upcoming


def _gather_on_host(
    setup: Setup, clients: PackedClients, client_ids: Array, row_capacity: int
) -> PackedClients:
    ids = jax.device_put(np.asarray(client_ids), next(iter(clients.owners.devices())))
    return _gather(row_capacity, setup.num_shares, clients, ids)


@partial(jax.jit, static_argnums=(0, 1))
def _gather(row_capacity: int, num_shares: int, clients: PackedClients, client_ids: Array) -> PackedClients:
    return gather_cohort(clients, client_ids, row_capacity=row_capacity, num_shares=num_shares)


@partial(jax.jit, static_argnums=0)
def _add_block(collect: Callable, total: tuple | None, shared: Any, block: PackedClients) -> tuple:
    sums, worst = collect(shared, block)
    if total is None:
        return sums, worst
    return jax.tree.map(jnp.add, total[0], sums), jnp.maximum(total[1], worst)


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def _step_in_place(
    num_users: int, setup: Setup, key: Key, state: ServerState, total: Any, item_counts: Array
) -> tuple[ServerState, RoundInfo]:
    return rounds.step(setup, key, state, total, num_users=num_users, item_counts=item_counts)
