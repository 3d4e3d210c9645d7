"""Cohorts gathered from packed clients: only their rows are computed, whether or not they are known.

A cohort's clients are dealt anew to chunks of at most as many rows as those of the packed clients, so that
they fit the same cache. A program has static shapes, but how many chunks a cohort fills depends on the key.
If the cohort is known before tracing, `rows_needed` is enough for it. If not (the key is traced, as under
`jit` or `vmap`), the sum begins with the chunks of a cohort of usual length; clients that did not fit follow
in further turns, which most rounds skip. Chunks that stay empty are skipped too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.core
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Int

from fcf_jax.core.records import PackedClients
from fcf_jax.core.transformed import any_in_batch

_SPREAD = 1.25  # standard deviation of the rows per user in means, where they are traced
_FEW = 8192  # up to so many clients, a search compares with all
_DEVIATIONS = 3.0  # rows for a cohort that long; about one cohort in 1000 is longer


def rows_needed(
    clients: PackedClients, client_ids: Int[Array, "*rounds clients"], *, num_shares: int = 1
) -> int:
    """Compute, on the host, how many rows of each device these cohorts need.

    The number is rounded up, by at most 7 %, so that few shapes are compiled.

    Args:
        clients: all clients.
        client_ids: user ids of each cohort; `num_users` for an empty place.
        num_shares: number of devices that share the chunks.
    """
    ids, longest = np.asarray(client_ids).reshape(-1, np.shape(client_ids)[-1]), clients.owners.shape[1]
    counts = np.append(np.asarray(clients.row_counts), 0)[ids]
    is_client = ids < clients.row_counts.shape[0]
    lengths = -np.sort(np.where(is_client, -counts, 1), axis=1)  # empty places last

    def chunks_needed(num_rows: int) -> int:
        needed = _count_chunks(_most_clients(clients, ids.shape[1]), lengths, num_rows)
        return -(-int(needed.max(initial=1)) // num_shares)

    if (num_chunks := chunks_needed(longest)) > 1:
        return _rounded_up(num_chunks) * longest
    total, num_rows = counts.sum(axis=1).max(initial=1), int(counts.max(initial=1))
    num_rows = _rounded_up(max(num_rows, -(-int(total) // num_shares)))
    while num_rows < longest and chunks_needed(num_rows) > 1:
        num_rows = _rounded_up(num_rows + 1)
    return min(num_rows, longest)


@partial(jax.jit, static_argnums=0)
def _count_chunks(most_clients: int, lengths: Int[Array, "cohorts clients"], num_rows: Any) -> Array:
    """Count the chunks of `num_rows` rows that each cohort fills; lengths fall, empty places have -1."""

    def count(lengths: Int[Array, "clients"]) -> Int[Array, ""]:
        deal = partial(_next_chunk, _ends_of(lengths), num_rows, most_clients)
        start = jnp.zeros((), jnp.int32), jnp.sum(lengths >= 0, dtype=jnp.int32), jnp.zeros((), jnp.int32)
        end = jax.lax.while_loop(lambda at: at[0] < at[1], lambda at: (*deal(at[:2]), at[2] + 1), start)
        return end[2]

    return jax.vmap(count)(lengths)


def rows_expected(clients: PackedClients, cohort_size: int, *, num_shares: int = 1) -> int:
    """Compute how many rows of each device a cohort hardly ever exceeds, from what is not traced."""
    num_users, (num_chunks, longest) = clients.row_counts.shape[0], clients.owners.shape
    num_rows = num_chunks * longest
    mean = num_rows / num_users
    spread, most = _SPREAD * mean, min(cohort_size * longest, num_rows)
    if not isinstance(clients.row_counts, jax.core.Tracer):
        counts = np.asarray(clients.row_counts)
        mean, spread = counts.mean(), counts.std()
        most = min(most, int(np.sort(counts)[-cohort_size:].sum()))
    likely = min(cohort_size * mean + _DEVIATIONS * spread * cohort_size**0.5, most) / num_shares
    places = _most_clients(clients, cohort_size) * num_shares
    if likely <= longest and cohort_size <= places:
        return min(_rounded_up(int(np.ceil(likely))), longest)
    return _rounded_up(max(int(likely / longest) + 2, -(-cohort_size // places))) * longest


def _rounded_up(num_rows: int) -> int:
    unit = max(1, 2 ** (max(num_rows, 1).bit_length() - 5))
    return -(-max(num_rows, 1) // unit) * unit


def gather_cohort(
    clients: PackedClients, client_ids: Int[Array, "clients"], *, row_capacity: int, num_shares: int = 1
) -> PackedClients:
    """Gather the rows of a cohort into chunks of at most as many rows as those of `clients`.

    Args:
        clients: all clients.
        client_ids: user ids of the cohort, none twice; `num_users` for an empty place.
        row_capacity: rows for each device, such as `rows_needed`. A client that does not fit is left out
            whole: it is missing in the `client_ids` of the result.
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
        row_capacity: rows for each device; clients that do not fit are left out. None: enough for a cohort
            of usual length; the clients that do not fit are added in further turns.
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


def _most_clients(clients: PackedClients, cohort_size: int) -> int:
    """Return the most clients in a chunk; twice those of a packed chunk, so that rows limit a chunk first."""
    return max(min(2 * clients.client_ids.shape[1], cohort_size), 1)


def _ends_of(lengths: Int[Array, "clients"]) -> Int[Array, "ends"]:
    """Return 0 and the sums of the first 1, 2, ... lengths; empty places have length -1."""
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(jnp.maximum(lengths, 0), dtype=jnp.int32)])


def _next_chunk(
    ends: Int[Array, "ends"], num_rows: Any, most_clients: int, rest: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Fill a chunk from the longest histories on, then from the shortest.

    Args:
        ends: `_ends_of` the lengths, in falling order.
        num_rows: rows of a chunk.
        most_clients: clients of a chunk.
        rest: the clients that are left are those from the first of these places to before the second.

    Returns:
        The places of the clients that are left then.
    """
    front, back = rest
    find = partial(jnp.searchsorted, ends, method="compare_all" if ends.size <= _FEW else "scan")
    next_front = find(ends[front] + num_rows, side="right").astype(jnp.int32) - 1
    next_front = jnp.minimum(next_front, jnp.minimum(front + most_clients, back))
    free = num_rows - (ends[next_front] - ends[front])
    next_back = find(ends[back] - free).astype(jnp.int32)
    most_left = most_clients - (next_front - front)
    return next_front, jnp.maximum(next_back, jnp.maximum(back - most_left, next_front))


def _gather(
    clients: PackedClients, client_ids: Int[Array, "clients"], *, row_capacity: int, num_shares: int
) -> tuple[PackedClients, Int[Array, "left"]]:
    """Gather the clients that fit; return also the ids of those that do not, padded with `num_users`."""
    clients = jax.tree.map(jnp.asarray, clients._replace(items=None))
    longest = clients.owners.shape[1]
    num_rows, num_turns = min(row_capacity, longest), -(-row_capacity // longest)
    chunk_ids, left = _deal(
        clients, client_ids, num_rows=num_rows, num_turns=num_turns, num_shares=num_shares
    )
    all_rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), clients.rows)

    def gather_chunk(ids: Int[Array, "clients"]) -> tuple:
        counts = clients.row_counts.at[ids].get(mode="fill", fill_value=0)
        ends = jnp.cumsum(counts, dtype=jnp.int32)
        positions = jnp.arange(num_rows, dtype=jnp.int32)
        owners = jnp.searchsorted(ends, positions, side="right")
        owner_ids = ids.at[owners].get(mode="clip")
        offsets = positions - (ends - counts).at[owners].get(mode="clip")
        source = clients.first_row.at[owner_ids].get(mode="clip") + offsets
        rows = jax.tree.map(lambda leaf: leaf.at[source].get(mode="clip"), all_rows)
        return rows._replace(mask=rows.mask & (positions < ends[-1])[:, None]), owners

    rows, owners = jax.vmap(gather_chunk)(chunk_ids)
    return clients._replace(rows=rows, owners=owners, client_ids=chunk_ids), left


def _deal(
    clients: PackedClients,
    client_ids: Int[Array, "clients"],
    *,
    num_rows: int,
    num_turns: int,
    num_shares: int,
) -> tuple[Int[Array, "chunks places"], Int[Array, "left"]]:
    """Deal a cohort to chunks, in turns of one chunk for each device, until all have a place.

    Returns:
        The clients of each chunk, those of the first device first, and those that are left; both padded with
        `num_users`.
    """
    num_users, cohort_size = clients.row_counts.shape[0], client_ids.shape[0]
    most_clients = _most_clients(clients, cohort_size)
    lengths = clients.row_counts.at[client_ids].get(mode="fill", fill_value=-1)
    order = jnp.argsort(-lengths)
    client_ids, lengths = client_ids[order], lengths[order]
    deal = partial(_next_chunk, _ends_of(lengths), num_rows, most_clients)

    def next_chunk(rest: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple]:
        rest = deal(rest)
        return rest, rest

    start = jnp.zeros((), jnp.int32), jnp.sum(lengths >= 0, dtype=jnp.int32)
    rest, places = jax.lax.scan(next_chunk, start, length=num_turns * num_shares)
    next_front, next_back = places
    front, back = (jnp.concatenate([first[None], at[:-1]]) for first, at in zip(start, places, strict=True))
    place, num_long = jnp.arange(most_clients, dtype=jnp.int32), (next_front - front)[:, None]
    position = jnp.where(place < num_long, front[:, None] + place, next_back[:, None] + place - num_long)
    is_filled = place < num_long + (back - next_back)[:, None]
    chunk_ids = jnp.where(is_filled, client_ids.at[position].get(mode="clip"), num_users)
    position = jnp.arange(cohort_size, dtype=jnp.int32)
    left = jnp.where((position >= rest[0]) & (position < rest[1]), client_ids, num_users)
    in_turns = chunk_ids.reshape(num_turns, num_shares, most_clients)
    return jnp.swapaxes(in_turns, 0, 1).reshape(-1, most_clients), left
