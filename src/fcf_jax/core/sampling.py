"""Who takes part in a round: drawing a cohort and gathering its rows.

Cohorts are a pure function of the key, so the host can draw those of many rounds beforehand and
learn how many rows they need: one compiled size serves them all, whatever the longest history.
"""

import math
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Int

from fcf_jax.core.records import Key, PackedClients

Sampling = Literal["shuffled", "independent", "poisson"]
_SHUFFLING_ROUNDS = 8  # of the Feistel network; 4 suffice for large numbers of users


def round_key(key: Key, round_index: Int[Array, ""]) -> Key:
    """Derive the key of one round, so that a resumed run draws what an unbroken one would have."""
    return jax.random.fold_in(key, round_index)


def draw_cohort(
    key: Key,
    round_index: Int[Array, ""],
    *,
    num_users: int,
    cohort_size: int,
    sampling: Sampling = "shuffled",
) -> Int[Array, "clients"]:
    """Draw the different users of one round.

    Args:
        key: one for all rounds.
        sampling: "shuffled": nobody takes part twice before the next pass through the users
            begins, each pass in an order of its own (random reshuffling); the remainder of
            num_users / cohort_size sits a pass out. "independent": every round draws anew, every
            set of users equally likely (to 30 bits a user), as privacy amplification by sampling
            wants it; then more rounds are needed for the same quality (benchmarks/README.md).
            "poisson": each user by itself, with probability cohort_size / num_users.

    Returns:
        User ids; of a Poisson sample as many as `poisson_capacity`, `num_users` standing for nobody.

    Raises:
        ValueError: for another sampling.

    References:
        Mishchenko, Khaled & Richtarik, NeurIPS 2020, on random reshuffling.
    """
    if sampling == "independent":
        bits = jax.random.bits(_cohort_key(key, round_index), (num_users,), jnp.uint32) >> 2
        ranks = jax.lax.bitcast_convert_type(bits, jnp.float32)  # in the same order, and finite
        return jax.lax.top_k(ranks, cohort_size)[1]  # on a CPU fast for floats only
    if sampling == "poisson":
        of_user = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys = of_user(_cohort_key(key, round_index), jnp.arange(num_users))
        threshold = jnp.uint32(min(round(2**32 * cohort_size / num_users), 2**32 - 1))
        takes_part = jax.vmap(lambda own: jax.random.bits(own, dtype=jnp.uint32))(keys) < threshold
        capacity = poisson_capacity(num_users=num_users, cohort_size=cohort_size)
        return jnp.nonzero(takes_part, size=capacity, fill_value=num_users)[0]
    if sampling != "shuffled":
        raise ValueError(f"expected sampling to be one of {get_args(Sampling)}, got {sampling!r}")
    pass_index, turn = jnp.divmod(round_index, num_users // cohort_size)
    places = turn * cohort_size + jnp.arange(cohort_size)
    return permute(_cohort_key(key, pass_index), places, size=num_users)


def poisson_capacity(*, num_users: int, cohort_size: int) -> int:
    """Compute how many places a Poisson sample needs: more turn up with probability below 2e-14.

    Those beyond would be left out; by Bernstein's inequality, for any expected cohort size.
    """
    return min(num_users, cohort_size + math.ceil(8 * math.sqrt(cohort_size)) + 20)


def permute(key: Key, positions: Int[Array, "n"], *, size: int) -> Int[Array, "n"]:
    """Look these positions up in a pseudo-random permutation of range(size), without making all of it.

    A Feistel network on the next power of two; what leaves the range goes through it again.

    References:
        Luby & Rackoff, SIAM J. Comput. 17 (1988); Black & Rogaway, CT-RSA 2002 (cycle walking).
    """
    bits = max((size - 1).bit_length(), 2)
    round_keys = jax.random.bits(key, (_SHUFFLING_ROUNDS,), jnp.uint32)

    def exchange(values: Array) -> Array:
        low, high = bits // 2, bits - bits // 2
        for round_key in round_keys:
            left, right = values >> low, values & jnp.uint32(2**low - 1)
            left = (left ^ _scramble(right ^ round_key)) & jnp.uint32(2**high - 1)
            values, low, high = (right << high) | left, high, low
        return values

    permuted = jax.lax.while_loop(
        lambda values: jnp.any(values >= size),
        lambda values: jnp.where(values >= size, exchange(values), values),
        exchange(positions.astype(jnp.uint32)),
    )
    return permuted.astype(jnp.int32)


def _scramble(values: Array) -> Array:
    """Let every bit depend on every other: the finaliser of MurmurHash3."""
    values = (values ^ (values >> 16)) * jnp.uint32(0x85EBCA6B)
    values = (values ^ (values >> 13)) * jnp.uint32(0xC2B2AE35)
    return values ^ (values >> 16)


def noise_key(key: Key, round_index: Int[Array, ""]) -> Key:
    """Derive the key of a round's noise, independent of its cohort's."""
    _, key_noise = jax.random.split(round_key(key, round_index))
    return key_noise


def _cohort_key(key: Key, index: Int[Array, ""]) -> Key:
    key_cohort, _ = jax.random.split(round_key(key, index))
    return key_cohort


def rows_needed(
    clients: PackedClients, client_ids: Int[Array, "*rounds clients"], *, num_shares: int = 1
) -> int:
    """Compute, on the host, the rows that the fullest chunk of these cohorts needs, rounded up.

    Rounded to a sixteenth of a power of two: a handful of sizes, at most 7 % too large.
    """
    counts = np.append(np.asarray(clients.row_counts), 0)
    chunks = np.asarray(split_into_chunks(client_ids, clients, num_shares=num_shares))
    needed = max(int(counts[chunks].sum(axis=-1).max(initial=1)), 1)
    unit = max(1, 2 ** (needed.bit_length() - 5))
    return -(-needed // unit) * unit


def split_into_chunks(
    client_ids: Int[Array, "*rounds clients"], clients: PackedClients, *, num_shares: int = 1
) -> Int[Array, "*rounds chunks chunk_clients"]:
    """Deal a cohort into chunks no larger than those of `clients`, nobody filling the last.

    Longest history first, to and fro, so that the chunks come out alike. As many chunks for each
    of `num_shares` devices.
    """
    num_users, largest = clients.row_counts.shape[0], clients.client_ids.shape[1]
    cohort_size = client_ids.shape[-1]
    num_chunks = -(-cohort_size // (largest * num_shares)) * num_shares
    chunk_size = -(-cohort_size // num_chunks)
    nobody = [(0, 0)] * (client_ids.ndim - 1) + [(0, num_chunks * chunk_size - cohort_size)]
    padded = jnp.pad(client_ids, nobody, constant_values=num_users)
    if num_chunks > 1:
        counts = clients.row_counts.at[padded].get(mode="fill", fill_value=0)
        padded = jnp.take_along_axis(padded, jnp.argsort(-counts, axis=-1), axis=-1)
    deals = padded.reshape(*client_ids.shape[:-1], chunk_size, num_chunks)
    deals = deals.at[..., 1::2, :].set(deals[..., 1::2, ::-1])
    return jnp.swapaxes(deals, -1, -2)


def gather_cohort(
    clients: PackedClients, client_ids: Int[Array, "clients"], *, row_capacity: int, num_shares: int = 1
) -> PackedClients:
    """Gather the rows of these users into chunks of `row_capacity` rows.

    Args:
        row_capacity: at least `rows_needed`, else the last users of a chunk lose rows.
    """
    chunk_ids = split_into_chunks(client_ids, clients, num_shares=num_shares)
    all_rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), clients.rows)

    def gather_chunk(ids: Int[Array, "clients"]) -> tuple:
        counts = clients.row_counts.at[ids].get(mode="fill", fill_value=0)
        ends = jnp.cumsum(counts)
        positions = jnp.arange(row_capacity)
        owners = jnp.searchsorted(ends, positions, side="right")
        owner_ids = ids.at[owners].get(mode="clip")
        offsets = positions - (ends - counts).at[owners].get(mode="clip")
        source = clients.first_row.at[owner_ids].get(mode="clip") + offsets
        rows = jax.tree.map(lambda leaf: leaf.at[source].get(mode="clip"), all_rows)
        is_owned = owners < ids.shape[0]
        return rows._replace(mask=rows.mask & is_owned[:, None]), owners

    rows, owners = jax.vmap(gather_chunk)(chunk_ids)
    return clients._replace(rows=rows, owners=owners, client_ids=chunk_ids)


def fill_up(
    clients: PackedClients, *, num_chunks: int = 0, num_rows: int = 0, num_clients: int = 0
) -> PackedClients:
    """Bring packed clients, on the host, to at least so many chunks, and rows and clients in a chunk.

    What is added belongs to nobody, and costs what it would if it were somebody's.
    """
    num_users, old_rows = clients.row_counts.shape[0], clients.owners.shape[1]
    chunks, rows = max(num_chunks, clients.owners.shape[0]), max(num_rows, old_rows)
    nobody, chunk_clients = clients.client_ids.shape[1], max(num_clients, clients.client_ids.shape[1])

    def fill(leaf: Any, second: int, value: int = 0) -> Any:
        missing = [(0, chunks - leaf.shape[0]), (0, second - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2)
        return np.pad(np.asarray(leaf), missing, constant_values=value)

    owners: Any = np.asarray(clients.owners)
    first_row: Any = np.asarray(clients.first_row)
    return PackedClients(
        rows=jax.tree.map(lambda leaf: fill(leaf, rows), clients.rows),
        owners=fill(np.where(owners == nobody, chunk_clients, owners), rows, chunk_clients),
        client_ids=fill(clients.client_ids, chunk_clients, num_users),
        first_row=first_row + first_row // old_rows * (rows - old_rows),
        row_counts=clients.row_counts,
    )
