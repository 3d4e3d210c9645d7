"""Who takes part in a round: drawing a cohort and gathering its rows.

Cohorts are a pure function of the key, so the host can draw those of many rounds beforehand and
learn how many rows they need: one compiled size serves them all, whatever the longest history.
"""

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Int

from fcf_jax.core.types import Key, PackedClients


def round_key(key: Key, round_index: Int[Array, ""]) -> Key:
    """Derive the key of one round, so that a resumed run draws what an unbroken one would have."""
    return jax.random.fold_in(key, round_index)


def draw_cohort(key: Key, *, num_users: int, cohort_size: int) -> Int[Array, "clients"]:
    """Draw `cohort_size` different users, every set of them equally likely (to 30 bits a user)."""
    bits = jax.random.bits(key, (num_users,), jnp.uint32) >> 2
    ranks = jax.lax.bitcast_convert_type(bits, jnp.float32)  # in the same order, and finite
    return jax.lax.top_k(ranks, cohort_size)[1]  # on a CPU fast for floats only


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
