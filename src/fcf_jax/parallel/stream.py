"""Rounds over clients that the device does not hold: their rows come from host memory, block by block.

    clients = batch_clients(interactions, device=jax.local_devices(backend="cpu")[0])
    state, info = run_rounds_streamed(federation, key, state, clients, num_rounds=10, block_chunks=256)

While the device works on one block the next is on its way; there are never more than two. The sums
are those of `run_rounds`, in another order.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.federation import Federation, describe_round
from fcf_jax.core.records import Key, PackedClients, RoundInfo
from fcf_jax.core.sampling import gather_cohort, rows_needed
from fcf_jax.core.server import ServerState
from fcf_jax.parallel.mesh import place_clients, replicate


def run_rounds_streamed(
    federation: Federation,
    key: Key,
    state: ServerState,
    clients: PackedClients,
    *,
    num_rounds: int,
    block_chunks: int,
    mesh: Mesh | None = None,
) -> tuple[ServerState, RoundInfo]:
    """Run rounds as `run_rounds` does, with the clients in host memory.

    Args:
        clients: on a CPU device; of a sampled cohort only its own rows travel.
        block_chunks: chunks on the device at a time; two blocks must fit.
        mesh: that of the federation; None: the default device.

    Raises:
        ValueError: for block_chunks below 1.
    """
    num_users = clients.row_counts.shape[0]
    infos = []
    for _ in range(num_rounds):
        client_ids = _draw(federation.draw, num_users, key, state.round_index)
        there = clients if federation.takes_everybody else _gather_on_host(federation, clients, client_ids)
        total, solve_error = collect_streamed(
            federation.collect, state, there, block_chunks=block_chunks, mesh=mesh
        )
        state, server_info = _step(federation, num_users, key, state, total)
        infos.append(describe_round(solve_error, server_info, client_ids))
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)


def collect_streamed(
    collect: Callable[..., tuple[Any, Array]],
    shared: Any,
    clients: PackedClients,
    *,
    block_chunks: int,
    mesh: Mesh | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Add up what all these clients send, block by block.

    Args:
        collect: from what all clients share and a block of them to their total, such as a federation's.
        shared: its first argument.
        clients: on a CPU device.
        block_chunks: chunks on the device at a time.
        mesh: of the devices.
    """
    if block_chunks < 1:
        raise ValueError(f"expected block_chunks of at least 1, got {block_chunks}")
    total, earlier = None, None
    for block in _blocks(clients, block_chunks, mesh):
        jax.block_until_ready(earlier)  # or the blocks would pile up on the device
        earlier = total
        total = _add_block(collect, total, shared, block)
    assert total is not None
    return total


def _blocks(clients: PackedClients, block_chunks: int, mesh: Mesh | None) -> Iterator[PackedClients]:
    """Cut the chunks into blocks of one shape, empty chunks filling the last, each on its way already."""
    num_chunks, num_clients = clients.client_ids.shape
    num_users = clients.row_counts.shape[0]
    block_chunks = min(block_chunks, num_chunks)
    leaves, structure = jax.tree.flatten((clients.rows, clients.owners, clients.client_ids))
    fillers = [0] * (len(leaves) - 2) + [num_clients, num_users]
    on_host = [np.asarray(leaf) for leaf in leaves]
    by_user = clients.first_row, clients.row_counts
    by_user = jax.device_put(by_user) if mesh is None else replicate(by_user, mesh)

    def cut(leaf: np.ndarray, filler: int, start: int) -> np.ndarray:
        part = leaf[start : start + block_chunks]
        ends = [(0, block_chunks - len(part))] + [(0, 0)] * (part.ndim - 1)
        return part if len(part) == block_chunks else np.pad(part, ends, constant_values=filler)

    def place(start: int) -> PackedClients:
        parts = [cut(leaf, filler, start) for leaf, filler in zip(on_host, fillers, strict=True)]
        rows, owners, client_ids = jax.tree.unflatten(structure, parts)
        block = clients._replace(rows=rows, owners=owners, client_ids=client_ids)
        if mesh is None:
            return jax.device_put(block)._replace(first_row=by_user[0], row_counts=by_user[1])
        few = block._replace(first_row=clients.first_row[:0])
        return place_clients(few, mesh)._replace(first_row=by_user[0], row_counts=by_user[1])

    upcoming = place(0)
    for start in range(block_chunks, num_chunks, block_chunks):
        current, upcoming = upcoming, place(start)
        yield current
    yield upcoming


def _gather_on_host(federation: Federation, clients: PackedClients, client_ids: Array) -> PackedClients:
    ids = jax.device_put(np.asarray(client_ids), next(iter(clients.owners.devices())))
    capacity = rows_needed(clients, ids, num_shares=federation.num_shares)
    return _gather(capacity, federation.num_shares, clients, ids)


@partial(jax.jit, static_argnums=(0, 1))
def _gather(row_capacity: int, num_shares: int, clients: PackedClients, client_ids: Array) -> PackedClients:
    return gather_cohort(clients, client_ids, row_capacity=row_capacity, num_shares=num_shares)


@partial(jax.jit, static_argnums=(0, 1))
def _draw(draw: Callable, num_users: int, key: Key, round_index: Array) -> Array:
    return draw(key, round_index, num_users)


@partial(jax.jit, static_argnums=0)
def _add_block(collect: Callable, total: tuple | None, shared: Any, block: PackedClients) -> tuple:
    sums, worst = collect(shared, block)
    if total is None:
        return sums, worst
    return jax.tree.map(jnp.add, total[0], sums), jnp.maximum(total[1], worst)


@partial(jax.jit, static_argnums=(0, 1))
def _step(federation: Federation, num_users: int, key: Key, state: ServerState, total: Any) -> tuple:
    return federation.step(key, state, federation.read(state, total), num_users=num_users)
