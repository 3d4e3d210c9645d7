"""Data that are drawn fast, to be timed and not to be learnt: histories in NumPy, packed rows on the device.

`common.simulated` draws users with tastes, in 20 s at the size of MovieLens 20M; this takes three. History
lengths are log-normal, items follow a power law, as there.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from common import Shape
from jax import numpy as jnp

import fcf_jax as fcf
from fcf_jax.core.item_major import item_major

_OVERDRAWN = 1.12  # items that a history would hold twice are dropped
_TAIL = 7.0  # popularity is 1 / (rank + offset); the first item is drawn e**7 times as often as the last


def drawn_interactions(shape: Shape) -> fcf.Interactions:
    """Draw histories with long tails of lengths and items; strengths are 1."""
    rng, num_items = np.random.default_rng(0), shape.num_items
    lengths = rng.lognormal(0.0, 1.0, shape.num_users) / np.exp(0.5)
    lengths = np.clip(np.rint(_OVERDRAWN * shape.mean_history * lengths), 1, num_items // 2).astype(np.int64)
    ranks = np.expm1(_TAIL * rng.random(lengths.sum(), dtype=np.float32)) * (num_items / np.expm1(_TAIL))
    pairs = np.repeat(np.arange(shape.num_users) * num_items, lengths)
    pairs += np.minimum(ranks.astype(np.int64), num_items - 1)
    pairs.sort()
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    ends = np.searchsorted(pairs, np.arange(shape.num_users + 1) * num_items)
    item_ids = (pairs % num_items).astype(np.int32)
    return fcf.Interactions(ends, item_ids, np.ones(len(pairs), np.float32), num_items)


def drawn_clients(shape: Shape, *, chunk_clients: int, row_width: int = 32) -> fcf.PackedClients:
    """Draw packed rows on the default device, without histories on the host; every chunk is full."""
    rng = np.random.default_rng(0)
    counts = np.ceil(rng.lognormal(0.0, 1.0, chunk_clients) * shape.mean_history / row_width / np.exp(0.5))
    counts = trim(counts.astype(np.int64), round(chunk_clients * shape.mean_history / row_width))
    num_chunks = -(-shape.num_users // chunk_clients)
    owners = np.repeat(np.arange(chunk_clients, dtype=np.int32), counts)
    first = np.cumsum(counts) - counts + owners.size * np.arange(num_chunks)[:, None]

    @jax.jit
    def draw(key):
        def draw_chunk(item_counts, key):
            places = jax.random.uniform(key, (owners.size, row_width))
            item_ids = jnp.minimum((shape.num_items * places**3).astype(jnp.int32), shape.num_items - 1)
            return item_counts.at[item_ids].add(1), item_ids

        none = jnp.zeros(shape.num_items, jnp.int32)
        item_counts, item_ids = jax.lax.scan(draw_chunk, none, jax.random.split(key, num_chunks))
        return fcf.ClientData(item_ids, jnp.ones(item_ids.shape), jnp.ones(item_ids.shape, bool)), item_counts

    rows, item_counts = draw(jax.random.key(0))
    num_users = num_chunks * chunk_clients
    return fcf.PackedClients(
        rows=rows,
        owners=jnp.asarray(np.broadcast_to(owners, (num_chunks, owners.size))),
        client_ids=jnp.arange(num_users, dtype=jnp.int32).reshape(num_chunks, chunk_clients),
        first_row=jnp.asarray(first.ravel(), jnp.int32),
        row_counts=jnp.asarray(np.tile(counts, num_chunks), jnp.int32),
        item_counts=item_counts,
    )


class _Histories(NamedTuple):
    """Histories whose transpose is known; what only the transpose needs is empty here."""

    indptr: np.ndarray
    num_items: int
    transposed: Any = None
    item_ids: np.ndarray = np.empty(0, np.int32)
    strengths: np.ndarray = np.empty(0, np.float32)

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    def transpose(self) -> Any:
        return self.transposed


def with_items(clients: fcf.PackedClients) -> fcf.PackedClients:
    """Add the copy by item to drawn clients, sorted on the device; kernels of a GPU need it."""

    @jax.jit
    def users_by_item(item_ids: jax.Array, owners: jax.Array, client_ids: jax.Array) -> jax.Array:
        users = jnp.take_along_axis(client_ids, owners, axis=1)
        users = jnp.broadcast_to(users[..., None], item_ids.shape)
        return jax.lax.sort((item_ids.ravel(), users.ravel()), num_keys=1)[1]

    user_ids = np.asarray(users_by_item(clients.rows.item_ids, clients.owners, clients.client_ids))
    lengths = clients.rows.mask.shape[-1] * np.asarray(clients.row_counts, np.int64)
    ends = np.append(0, np.cumsum(np.asarray(clients.item_counts), dtype=np.int64))
    ones = np.ones(user_ids.size, np.float32)
    by_item = _Histories(ends, lengths.size, item_ids=user_ids, strengths=ones)
    histories = _Histories(np.append(0, np.cumsum(lengths)), ends.size - 1, by_item)
    return clients._replace(items=item_major(histories))


def trim(counts: np.ndarray, total: int) -> np.ndarray:
    """Take rows off the longest histories, or give rows to the first ones, until they sum to `total`."""
    counts = counts.copy()
    while counts.sum() > total and counts.max() > 1:
        longest = counts == counts.max()
        counts[np.flatnonzero(longest)[: counts.sum() - total]] -= 1
    counts[: max(total - counts.sum(), 0)] += 1
    return counts
