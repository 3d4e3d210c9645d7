"""Packed clients: histories cut into rows of equal width, and grouped into chunks of whole clients.

Histories are skewed, from one item to thousands, so a client takes as many rows as it needs. Clients are
dealt to chunks so that all chunks hold about the same number of rows and clients: all chunks then take the
same time, with little padding. Only this module writes the marks of padding: the owner of a padding row is
`clients`, the user id of a padding client is `users`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fcf_jax.core.dealing import deal
from fcf_jax.core.features import checked_features
from fcf_jax.core.histories import Histories
from fcf_jax.core.item_major import item_major
from fcf_jax.core.records import ClientData, PackedClients

T = TypeVar("T")
_ROW_WIDTHS = (4, 8, 16, 32, 64, 128)
_ROW_PADDING = 1.15  # most slots per interaction for a row width to be chosen
_CHUNK_NUMBERS = 2**17  # of a chunk's factors, which fit the cache of a CPU core (benchmarks/README.md)
_MOST_SLOTS = 2048  # no slower than 4096, and cohorts fill more of their chunks
_CHUNK_SLOTS_OF_GPU = 2**20
_CHUNK_CLIENTS = 512


def pack_clients(
    interactions: Histories,
    *,
    num_factors: int = 32,
    row_width: int | None = None,
    chunk_slots: int | None = None,
    chunk_clients: int | None = None,
    num_shares: int = 1,
    device: Any = None,
    by_item: bool | None = None,
    features: Any = None,
) -> PackedClients:
    """Pack all histories, in an order that fills the chunks evenly.

    Args:
        interactions: histories, one row per user, such as `fcf_jax.Interactions`.
        num_factors: K of the rounds to come, or about that; rounds are right with any other K, but slower.
        row_width: slots per row; None: the widest with few empty slots.
        chunk_slots: approximate slots per chunk. Any history fits into a chunk. None: as many as have their
            factors in the cache of a CPU core; on a GPU 2**20.
        chunk_clients: most clients per chunk; None: 512, on a GPU one for every 16 slots.
        num_shares: number of devices that will share the chunks; their number becomes a multiple of it.
        device: the `jax.Device` that holds the result, such as a CPU beside a GPU
            (`fcf_jax.parallel.run_rounds_streamed`); None: the default device.
        by_item: whether to keep a second copy of the histories item by item, 8 bytes per interaction. The
            kernels for full rounds on one GPU need it. None: only if the result is for a single GPU.
        features: f of each user, [users, features]; None: users have no features.

    Raises:
        ValueError: for a row width below 1, for 2**31 or more slots, or for features of another number of
            users or that are not finite.
    """
    if features is not None:
        features = checked_features(features, interactions.num_users, name="features")
    row_width = choose_row_width(interactions) if row_width is None else row_width
    with jax.default_device(device):
        (holder,) = jax.device_put(0).devices()
        is_gpu = holder.platform == "gpu"
        if chunk_slots is None:
            chunk_slots = _CHUNK_SLOTS_OF_GPU if is_gpu else min(_CHUNK_NUMBERS // num_factors, _MOST_SLOTS)
        if chunk_clients is None:
            chunk_clients = max(chunk_slots // 16, 1) if is_gpu else _CHUNK_CLIENTS
        row_counts = -(-np.diff(interactions.indptr) // max(row_width, 1))
        chunks = deal(row_counts, max(chunk_slots // max(row_width, 1), 1), chunk_clients, num_shares)
        clients = pack(interactions, chunks, row_width=row_width)
        if by_item is None:
            by_item = num_shares == 1 and is_gpu
        return clients._replace(
            items=item_major(interactions) if by_item else None,
            features=None if features is None else jax.device_put(features),
        )


def pack_items(
    interactions: Histories,
    *,
    num_factors: int = 32,
    row_width: int | None = None,
    chunk_slots: int | None = None,
    chunk_clients: int | None = None,
    num_shares: int = 1,
    device: Any = None,
    by_item: bool | None = None,
    features: Any = None,
) -> PackedClients:
    """Pack the interactions by item, as ALS needs them; arguments as for `pack_clients`.

    The features, if any, are those of the items.
    """
    return pack_clients(
        interactions.transpose(),
        num_factors=num_factors,
        row_width=row_width,
        chunk_slots=chunk_slots,
        chunk_clients=chunk_clients,
        num_shares=num_shares,
        device=device,
        by_item=by_item,
        features=features,
    )


def choose_row_width(interactions: Histories) -> int:
    """Choose the widest row with few empty slots: wide rows are faster to compute, but need more padding."""
    lengths = np.diff(interactions.indptr)
    slots = {width: np.sum(-(-lengths // width)) * width for width in _ROW_WIDTHS}
    frugal = [width for width in _ROW_WIDTHS if slots[width] <= _ROW_PADDING * lengths.sum()]
    return max(frugal, default=min(_ROW_WIDTHS))


def padding_factor(clients: PackedClients) -> float:
    """Compute the number of slots per interaction, at least 1."""
    return clients.rows.mask.size / max(int(jnp.sum(clients.rows.mask)), 1)


def pack(interactions: Histories, chunks: np.ndarray, *, row_width: int) -> PackedClients:
    """Pack the histories of the users in `chunks`.

    Args:
        interactions: histories, one row per user.
        chunks: user ids, [chunks, clients]; `num_users` for a padding client.
        row_width: slots per row.

    Raises:
        ValueError: for a row width below 1, or for 2**31 or more slots.
    """
    if row_width < 1:
        raise ValueError(f"expected row_width of at least 1, got {row_width}")
    num_users = interactions.num_users
    counts = -(-np.append(np.diff(interactions.indptr), 0) // row_width)
    chunk_counts = counts[chunks]  # [chunks, clients]
    rows_per_chunk = max(int(chunk_counts.sum(axis=1).max(initial=0)), 1)
    num_rows = chunks.shape[0] * rows_per_chunk
    if num_rows * row_width >= 2**31:
        raise ValueError(
            f"expected fewer than 2**31 slots, got {num_rows * row_width}; stream the clients in parts"
        )
    first_in_chunk = np.cumsum(chunk_counts, axis=1) - chunk_counts
    first_row = np.zeros(num_users + 1, np.int64)
    first_row[chunks] = first_in_chunk + rows_per_chunk * np.arange(chunks.shape[0])[:, None]
    is_present = np.zeros(num_users + 1, bool)
    is_present[chunks] = True
    owners = _owners(chunk_counts, first_in_chunk, rows_per_chunk)
    rows = _fill_rows(interactions, first_row[:num_users], is_present[:num_users], num_rows, row_width)
    put = jax.device_put  # jnp.asarray would compile a program for every shape
    return PackedClients(
        rows=jax.tree.map(lambda leaf: put(leaf.reshape(*owners.shape, row_width)), rows),
        owners=put(owners),
        client_ids=put(chunks.astype(np.int32)),
        first_row=put(first_row[:num_users].astype(np.int32)),
        row_counts=put(np.where(is_present, counts, 0)[:num_users].astype(np.int32)),
        item_counts=put(_item_counts(interactions, is_present[:num_users])),
    )


def _item_counts(interactions: Histories, is_present: np.ndarray) -> np.ndarray:
    kept = np.repeat(is_present, np.diff(interactions.indptr))
    of_pairs = getattr(interactions, "negative_ids", None)
    sides = [interactions.item_ids] if of_pairs is None else [interactions.item_ids, of_pairs]
    counts = sum(np.bincount(items[kept], minlength=interactions.num_items) for items in sides)
    return np.asarray(counts, np.int32)


def _owners(chunk_counts: np.ndarray, first_in_chunk: np.ndarray, rows_per_chunk: int) -> np.ndarray:
    """List the owner of every row, [chunks, rows]."""
    num_chunks, num_clients = chunk_counts.shape
    owners = np.full((num_chunks, rows_per_chunk), num_clients, np.int32)
    counts = chunk_counts.ravel()
    row_of_client = np.repeat(np.arange(counts.size), counts)
    position = np.arange(row_of_client.size) - np.repeat(np.cumsum(counts) - counts, counts)
    chunk, client = np.divmod(row_of_client, num_clients)
    owners[chunk, first_in_chunk[chunk, client] + position] = client
    return owners


def _fill_rows(
    interactions: Histories, first_row: np.ndarray, is_present: np.ndarray, num_rows: int, row_width: int
) -> ClientData:
    """Write each history from its first row on; the remaining slots stay empty."""
    negative_ids = getattr(interactions, "negative_ids", None)
    lengths = np.diff(interactions.indptr)
    shift = first_row * row_width - interactions.indptr[:-1]  # histories are consecutive in CSR and in slots
    slots = np.arange(len(interactions.item_ids)) + np.repeat(shift, lengths)
    kept = slice(None) if is_present.all() else np.repeat(is_present, lengths)

    def filled(values: Any, dtype: type) -> Any:
        empty = np.zeros(num_rows * row_width, dtype)
        empty[slots[kept]] = values if np.ndim(values) == 0 else values[kept]
        return empty

    return ClientData(
        item_ids=filled(interactions.item_ids, np.int32),
        strengths=filled(interactions.strengths, np.float32),
        mask=filled(True, bool),
        negative_ids=None if negative_ids is None else filled(negative_ids, np.int32),
    )


def pack_one_by_one(histories: ClientData, *, num_items: int) -> PackedClients:
    """Pack dense histories [clients, slots] into chunks of one client, for least memory."""
    ids = jnp.arange(histories.mask.shape[0], dtype=jnp.int32)
    rows = jax.tree.map(lambda leaf: leaf[:, None], histories)
    owners = jnp.zeros_like(ids)[:, None]
    item_counts = jnp.zeros(num_items, jnp.int32).at[histories.item_ids].add(histories.mask)
    row_counts = jnp.ones_like(ids)
    return PackedClients(rows, owners, ids[:, None], ids, row_counts, item_counts)


def present_ids(clients: PackedClients) -> np.ndarray:
    """List the ids of the packed users, in the order of the chunks."""
    ids = np.asarray(clients.client_ids).ravel()
    return ids[ids < clients.row_counts.shape[0]]


def fill_up(
    clients: PackedClients, *, num_chunks: int = 0, num_rows: int = 0, num_clients: int = 0
) -> PackedClients:
    """Pad, on the host, to at least these sizes; padding takes as much time as real rows and clients.

    Args:
        clients: clients to pad.
        num_chunks: least number of chunks.
        num_rows: least number of rows per chunk.
        num_clients: least number of clients per chunk.
    """
    num_users, old_rows = clients.row_counts.shape[0], clients.owners.shape[1]
    chunks, rows = max(num_chunks, clients.owners.shape[0]), max(num_rows, old_rows)
    old_clients, chunk_clients = clients.client_ids.shape[1], max(num_clients, clients.client_ids.shape[1])

    def fill(leaf: Any, second: int, value: int = 0) -> Any:
        missing = [(0, chunks - leaf.shape[0]), (0, second - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2)
        return np.pad(np.asarray(leaf), missing, constant_values=value)

    owners: Any = np.asarray(clients.owners)
    first_row: Any = np.asarray(clients.first_row)
    return PackedClients(
        rows=jax.tree.map(lambda leaf: fill(leaf, rows), clients.rows),
        owners=fill(np.where(owners == old_clients, chunk_clients, owners), rows, chunk_clients),
        client_ids=fill(clients.client_ids, chunk_clients, num_users),
        first_row=first_row + first_row // old_rows * (rows - old_rows),
        row_counts=clients.row_counts,
        item_counts=clients.item_counts,
        items=clients.items,
        features=clients.features,
    )


def cut_chunks(clients: PackedClients, start: int, size: int) -> PackedClients:
    """Copy `size` chunks from chunk `start` on, on the host; padding chunks replace those beyond the end."""
    part = jax.tree.map(
        lambda leaf: np.asarray(leaf)[start : start + size],
        clients._replace(first_row=(), row_counts=(), item_counts=(), items=None, features=None),
    )
    part = part._replace(
        first_row=clients.first_row[:0],
        row_counts=clients.row_counts,
        item_counts=clients.item_counts,
        features=clients.features,
    )
    return part if len(part.owners) == size else fill_up(part, num_chunks=size)


def one_chunk_each(clients: PackedClients) -> Iterator[PackedClients]:
    """Yield each chunk as packed clients of a single chunk."""
    for chunk in range(clients.owners.shape[0]):
        parts = clients.rows, clients.owners, clients.client_ids
        rows, owners, client_ids = jax.tree.map(lambda leaf, chunk=chunk: leaf[chunk : chunk + 1], parts)
        yield clients._replace(rows=rows, owners=owners, client_ids=client_ids, items=None)


def stack_clients(packings: Sequence[PackedClients]) -> PackedClients:
    """Stack packings of the same users along a leading axis of runs, padded to one size.

    Raises:
        ValueError: when the row widths or the numbers of users differ.
    """
    facts = {(each.rows.mask.shape[-1], each.row_counts.shape[0]) for each in packings}
    if len(facts) != 1:
        raise ValueError(
            f"expected packings of one row width and number of users, got {sorted(facts)}; "
            "use the same row_width for all"
        )
    num_chunks, num_rows = (max(each.owners.shape[axis] for each in packings) for axis in (0, 1))
    num_clients = max(each.client_ids.shape[1] for each in packings)
    filled = [
        fill_up(each._replace(items=None), num_chunks=num_chunks, num_rows=num_rows, num_clients=num_clients)
        for each in packings
    ]
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *filled)


def chunk_specs() -> PackedClients:
    """Return the partition specs of packed clients: chunks are split along the mesh axis "clients"."""
    chunked, whole = PartitionSpec("clients"), PartitionSpec()
    return PackedClients(chunked, chunked, chunked, whole, whole, whole, features=whole)  # type: ignore[arg-type]


def padded_size(num_items: int, mesh: Mesh | None) -> int:
    """Return the rows of the item factors: the items, padded to a multiple of the devices that split them."""
    return num_items + (0 if mesh is None else -num_items % mesh.shape["items"])


def is_split(mesh: Mesh | None) -> bool:
    """Return whether several devices share the chunks; the mesh axis "clients" may have size 1."""
    return mesh is not None and mesh.shape["clients"] > 1


def split_chunks(share: Callable, mesh: Mesh | None, *, out_specs: Any = None) -> Callable:
    """Wrap `share(shared, clients)` so that each device along "clients" calls it with its share of chunks.

    By default each device returns the whole result; `out_specs` names the parts that it returns.
    """
    if not is_split(mesh):
        return share
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(PartitionSpec(), chunk_specs()),
        out_specs=PartitionSpec() if out_specs is None else out_specs,
        axis_names={"clients"},
        check_vma=False,  # the sums of all shares begin with the same zeros
    )
