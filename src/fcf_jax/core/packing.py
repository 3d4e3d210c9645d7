"""The bridge from data to core: histories cut into rows of equal width, gathered into chunks.

Histories are skewed (one item to thousands), so a client takes as many rows as it needs. The
clients are dealt to chunks so that all chunks hold about the same number of rows and clients:
every chunk then costs the same, and padding stays small.
"""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.records import ClientData, PackedClients
from fcf_jax.data.interactions import Interactions

_ROW_WIDTHS = (4, 8, 16, 32, 64, 128)
_ROW_PADDING = 1.15  # slots for each interaction that a row width may cost
_CHUNK_SLOTS = 16384  # stays near the core of a CPU, and pads little (benchmarks/README.md)
_CHUNK_CLIENTS = 512


def batch_clients(
    interactions: Interactions,
    *,
    row_width: int | None = None,
    chunk_slots: int = _CHUNK_SLOTS,
    chunk_clients: int = _CHUNK_CLIENTS,
    num_shares: int = 1,
    device: Any = None,  # a jax.Device
) -> PackedClients:
    """Pack all histories, in an order that fills the chunks evenly.

    Args:
        row_width: slots in a row; chosen from the histories when not given.
        chunk_slots: slots that are computed at a time, about; more suits a GPU. A chunk has room
            for the longest history in any case.
        chunk_clients: clients in a chunk at most.
        num_shares: devices that will share the chunks evenly.
        device: where to put them, such as a CPU beside a GPU (`fcf_jax.parallel.stream`); None: the default.

    Raises:
        ValueError: for widths below 1, or when the slots are too many to be counted in 32 bits.
    """
    row_width = choose_row_width(interactions) if row_width is None else row_width
    row_counts = -(-interactions.history_lengths // max(row_width, 1))
    chunks = _deal(row_counts, max(chunk_slots // max(row_width, 1), 1), chunk_clients, num_shares)
    with jax.default_device(device):
        return pack(interactions, chunks, row_width=row_width)


def batch_items(interactions: Interactions, **options: Any) -> PackedClients:
    """Pack the same interactions item by item, as ALS needs them; options as for `batch_clients`."""
    return batch_clients(interactions.transpose(), **options)


def choose_row_width(interactions: Interactions) -> int:
    """Choose the widest row that leaves few slots empty: wide rows compute faster, and pad more."""
    lengths = interactions.history_lengths
    slots = {width: np.sum(-(-lengths // width)) * width for width in _ROW_WIDTHS}
    frugal = [width for width in _ROW_WIDTHS if slots[width] <= _ROW_PADDING * lengths.sum()]
    return max(frugal, default=min(_ROW_WIDTHS))


def padding_factor(clients: PackedClients) -> float:
    """Slots computed for each interaction, 1 at best."""
    return clients.rows.mask.size / max(int(jnp.sum(clients.rows.mask)), 1)


def pack(interactions: Interactions, chunks: np.ndarray, *, row_width: int) -> PackedClients:
    """Pack the histories of these users, [chunks, clients]; `num_users` stands for nobody.

    Raises:
        ValueError: for a row width below 1, or when the slots are too many to be counted in 32 bits.
    """
    if row_width < 1:
        raise ValueError(f"expected row_width of at least 1, got {row_width}")
    num_users = interactions.num_users
    lengths = np.append(interactions.history_lengths, 0)
    counts = -(-lengths // row_width)
    chunk_counts = counts[chunks]  # [chunks, clients]
    rows_per_chunk = max(int(chunk_counts.sum(axis=1).max(initial=0)), 1)
    num_rows = chunks.shape[0] * rows_per_chunk
    if num_rows * row_width >= 2**31:
        raise ValueError(
            f"expected fewer than 2**31 slots, got {num_rows * row_width}; stream the clients in parts"
        )
    ends = np.cumsum(chunk_counts, axis=1)
    first_in_chunk = ends - chunk_counts
    first_row = np.zeros(num_users + 1, np.int64)
    first_row[chunks] = first_in_chunk + rows_per_chunk * np.arange(chunks.shape[0])[:, None]
    present = np.zeros(num_users + 1, bool)
    present[chunks] = True

    owners = np.full((chunks.shape[0], rows_per_chunk), chunks.shape[1], np.int32)
    row_of_client = np.repeat(np.arange(chunks.size), chunk_counts.ravel())
    position = np.arange(row_of_client.size) - np.repeat(
        np.cumsum(chunk_counts.ravel()) - chunk_counts.ravel(), chunk_counts.ravel()
    )
    chunk, client = np.divmod(row_of_client, chunks.shape[1])
    owners[chunk, first_in_chunk[chunk, client] + position] = client

    rows = _fill_rows(interactions, first_row[:num_users], present[:num_users], num_rows, row_width)
    return PackedClients(
        rows=ClientData(*(jnp.asarray(leaf.reshape(*owners.shape, row_width)) for leaf in rows)),
        owners=jnp.asarray(owners),
        client_ids=jnp.asarray(chunks, jnp.int32),
        first_row=jnp.asarray(first_row[:num_users], jnp.int32),
        row_counts=jnp.asarray(np.where(present, counts, 0)[:num_users], jnp.int32),
    )


def _fill_rows(
    interactions: Interactions, first_row: np.ndarray, present: np.ndarray, num_rows: int, row_width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay each history down from its first row on; what is left over stays empty."""
    item_ids = np.zeros(num_rows * row_width, np.int32)
    strengths = np.zeros(num_rows * row_width, np.float32)
    mask = np.zeros(num_rows * row_width, bool)
    shift = first_row * row_width - interactions.indptr[:-1]  # a history is consecutive here and there
    slots = np.arange(interactions.num_interactions) + np.repeat(shift, interactions.history_lengths)
    kept = slice(None) if present.all() else np.repeat(present, interactions.history_lengths)
    item_ids[slots[kept]] = interactions.item_ids[kept]
    strengths[slots[kept]] = interactions.strengths[kept]
    mask[slots[kept]] = True
    return item_ids, strengths, mask


def _deal(row_counts: np.ndarray, chunk_rows: int, chunk_clients: int, num_shares: int) -> np.ndarray:
    """Deal clients to chunks, longest first: each round one client to each, the longer to the emptier."""
    num_users = row_counts.size
    chunk_rows = max(chunk_rows, int(row_counts.max(initial=1)))
    num_chunks = max(-(-int(row_counts.sum()) // chunk_rows), -(-num_users // chunk_clients), 1)
    num_chunks = -(-num_chunks // num_shares) * num_shares
    num_deals = -(-num_users // num_chunks)
    order = np.full(num_deals * num_chunks, num_users)
    order[:num_users] = np.argsort(-row_counts, kind="stable")
    deals = order.reshape(num_deals, num_chunks)
    counts = np.append(row_counts, 0)
    filled = np.zeros(num_chunks, np.int64)
    chunks = np.empty((num_chunks, num_deals), np.int64)
    for turn, deal in enumerate(deals):
        emptiest = np.argsort(filled, kind="stable")
        chunks[emptiest, turn] = deal
        filled[emptiest] += counts[deal]
    return chunks
