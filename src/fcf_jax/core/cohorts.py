"""Cohorts gathered from packed clients: only their rows are computed, whether or not they are known.

A program has static shapes, but which rows a cohort needs depends on the key. If the cohort is known before
tracing, `rows_needed` is the exact number. If not (the key is traced, as under `jit` or `vmap`), the sum
begins with as many rows as a cohort of usual length needs; clients that did not fit follow in further turns,
which most rounds skip.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Int

from fcf_jax.core.records import PackedClients
from fcf_jax.core.solve import any_in_batch

_SPREAD = 1.25  # standard deviation of the rows per user in means, where they are traced
_DEVIATIONS = 3.0  # rows for a cohort that long; about one cohort in 1000 is longer


def rows_needed(
    clients: PackedClients, client_ids: Int[Array, "*rounds clients"], *, num_shares: int = 1
) -> int:
    """Compute, on the host, how many rows the fullest chunk of these cohorts needs.

    The number is rounded up, by at most 7 %, so that few shapes are compiled.

    Args:
        clients: all clients.
        client_ids: user ids of each cohort; `num_users` for an empty place.
        num_shares: number of devices that share the chunks.
    """
    counts = np.append(np.asarray(clients.row_counts), 0)
    chunks = np.asarray(_split_into_chunks(client_ids, clients, num_shares=num_shares))
    return _rounded_up(int(counts[chunks].sum(axis=-1).max(initial=1)))


def rows_expected(clients: PackedClients, cohort_size: int, *, num_shares: int = 1) -> int:
    """Compute how many rows the chunks of a cohort hardly ever exceed, from what is not traced."""
    _, chunk_size = _chunk_shape(cohort_size, clients, num_shares=num_shares)
    num_users, num_rows = clients.row_counts.shape[0], clients.owners.size
    mean = num_rows / num_users
    spread, most = _SPREAD * mean, min(chunk_size * clients.owners.shape[1], num_rows)
    if not isinstance(clients.row_counts, jax.core.Tracer):
        counts = np.asarray(clients.row_counts)
        mean, spread = counts.mean(), counts.std()
        most = min(most, int(np.partition(counts, -chunk_size)[-chunk_size:].sum()))
    likely = chunk_size * mean + _DEVIATIONS * spread * chunk_size**0.5
    return _rounded_up(min(int(np.ceil(likely)), most))


def _rounded_up(num_rows: int) -> int:
    unit = max(1, 2 ** (max(num_rows, 1).bit_length() - 5))
    return -(-max(num_rows, 1) // unit) * unit


def gather_cohort(
    clients: PackedClients, client_ids: Int[Array, "clients"], *, row_capacity: int, num_shares: int = 1
) -> PackedClients:
    """Gather the rows of a cohort into chunks of `row_capacity` rows.

    Args:
        clients: all clients.
        client_ids: user ids of the cohort, none twice; `num_users` for an empty place.
        row_capacity: rows per chunk, such as `rows_needed`. A client that does not fit is left out whole: it
            is missing in the `client_ids` of the result.
        num_shares: number of devices that share the chunks.
    """
    return _gather(clients, client_ids, row_capacity=row_capacity, num_shares=num_shares)[0]


def sum_over_cohort(
    collect: Callable[[PackedClients], tuple[Any, Array]],
    clients: PackedClients,
    client_ids: Int[Array, "clients"],
    *,
    row_capacity: int | None = None,
    num_shares: int = 1,
) -> tuple[Any, Array, Int[Array, ""]]:
    """Add up what a cohort sends.

    Args:
        collect: packed clients -> (their total, their largest error); totals add leaf by leaf.
        clients: all clients.
        client_ids: user ids of the cohort, none twice; `num_users` for an empty place.
        row_capacity: rows per chunk; clients that do not fit are left out. None: enough for a cohort of usual
            length; the clients that do not fit are added in further turns.
        num_shares: number of devices that share the chunks.

    Returns:
        The total, the largest error, and the number of clients that were left out.
    """
    num_users, is_open = clients.row_counts.shape[0], row_capacity is None
    if row_capacity is None:
        row_capacity = rows_expected(clients, client_ids.shape[0], num_shares=num_shares)
    gathered, left = _gather(clients, client_ids, row_capacity=row_capacity, num_shares=num_shares)
    carry = (*collect(gathered), left)
    if is_open:
        carry = _add_the_rest(collect, clients, carry, num_shares=num_shares)
    total, worst, left = carry
    return total, worst, jnp.sum(left < num_users, dtype=jnp.int32)


def _add_the_rest(
    collect: Callable, clients: PackedClients, carry: tuple[Any, Array, Array], *, num_shares: int
) -> tuple[Any, Array, Array]:
    """Add the clients in `left` in turns, each of a whole chunk per device, until none is left."""
    num_users, (num_chunks, longest) = clients.row_counts.shape[0], clients.owners.shape
    turn_size = min(clients.client_ids.shape[1] * num_shares, carry[2].shape[0])
    # two turns in a row take more rows than a chunk has, or all places of a turn
    num_turns = 2 * num_chunks + carry[2].shape[0] // turn_size + 2

    def any_left(left: Array) -> Bool[Array, ""]:
        return any_in_batch(jnp.any(left < num_users))

    def turn(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        total, worst, left = carry
        left = jnp.sort(left)  # empty places last
        now, later = left[:turn_size], left[turn_size:]
        gathered, too_long = _gather(clients, now, row_capacity=longest, num_shares=num_shares)
        more, error = collect(gathered)
        left = jnp.sort(jnp.concatenate([too_long, later]))[: left.shape[0]]
        return jax.tree.map(jnp.add, total, more), jnp.maximum(worst, error), left

    def skip(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        return carry

    @jax.checkpoint  # else derivatives would keep what all turns compute, though most are skipped
    def turns(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        def next_turn(carry: tuple[Any, Array, Array], _: None):
            return jax.lax.cond(any_left(carry[2]), turn, skip, carry), None

        return jax.lax.scan(next_turn, carry, length=num_turns)[0]

    return jax.lax.cond(any_left(carry[2]), turns, skip, carry)


def _chunk_shape(cohort_size: int, clients: PackedClients, *, num_shares: int) -> tuple[int, int]:
    """Return the number of chunks of a cohort, a multiple of `num_shares`, and the clients in each."""
    largest = clients.client_ids.shape[1]
    num_chunks = -(-cohort_size // (largest * num_shares)) * num_shares
    return num_chunks, -(-cohort_size // num_chunks)


def _split_into_chunks(
    client_ids: Int[Array, "*rounds clients"], clients: PackedClients, *, num_shares: int = 1
) -> Int[Array, "*rounds chunks chunk_clients"]:
    """Deal a cohort into chunks of at most as many clients as those of `clients`.

    Clients are dealt from the longest history to the shortest, from the first chunk to the last and back, so
    that the chunks have similar sizes. Their number is a multiple of `num_shares`; padding clients come last.
    """
    num_users, cohort_size = clients.row_counts.shape[0], client_ids.shape[-1]
    num_chunks, chunk_size = _chunk_shape(cohort_size, clients, num_shares=num_shares)
    missing = [(0, 0)] * (client_ids.ndim - 1) + [(0, num_chunks * chunk_size - cohort_size)]
    padded = jnp.pad(client_ids, missing, constant_values=num_users)
    if num_chunks > 1:
        counts = jnp.asarray(clients.row_counts).at[padded].get(mode="fill", fill_value=0)
        padded = jnp.take_along_axis(padded, jnp.argsort(-counts, axis=-1), axis=-1)
    deals = padded.reshape(*client_ids.shape[:-1], chunk_size, num_chunks)
    deals = deals.at[..., 1::2, :].set(deals[..., 1::2, ::-1])
    return jnp.swapaxes(deals, -1, -2)


def _gather(
    clients: PackedClients, client_ids: Int[Array, "clients"], *, row_capacity: int, num_shares: int
) -> tuple[PackedClients, Int[Array, "left"]]:
    """Gather the clients that fit; return also the ids of those that do not, padded with `num_users`."""
    clients = jax.tree.map(jnp.asarray, clients._replace(items=None))
    num_users = clients.row_counts.shape[0]
    chunk_ids = _split_into_chunks(client_ids, clients, num_shares=num_shares)
    all_rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), clients.rows)

    def gather_chunk(ids: Int[Array, "clients"]) -> tuple:
        counts = clients.row_counts.at[ids].get(mode="fill", fill_value=0)
        ends = jnp.cumsum(counts, dtype=jnp.int32)
        fits = ends <= row_capacity
        positions = jnp.arange(row_capacity, dtype=jnp.int32)
        owners = jnp.searchsorted(ends, positions, side="right")
        owner_ids = ids.at[owners].get(mode="clip")
        offsets = positions - (ends - counts).at[owners].get(mode="clip")
        source = clients.first_row.at[owner_ids].get(mode="clip") + offsets
        rows = jax.tree.map(lambda leaf: leaf.at[source].get(mode="clip"), all_rows)
        is_owned = fits.at[owners].get(mode="fill", fill_value=False)
        rows = rows._replace(mask=rows.mask & is_owned[:, None])
        return rows, owners, jnp.where(fits, ids, num_users), jnp.where(fits, num_users, ids)

    rows, owners, present, left = jax.vmap(gather_chunk)(chunk_ids)
    return clients._replace(rows=rows, owners=owners, client_ids=present), left.reshape(-1)
