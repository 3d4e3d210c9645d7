r"""Robust sums: trimmed means and medians over the clients' rows, where the server sees single uploads.

    F = n_i T_{u holds i}[ a_u (e_ui + w0 s_ui) x_u ] - w0 Y S,   S = n T_u[ a_u x_u x_u^T ]

T is a coordinate-wise trimmed mean. Of the n_i values of a coordinate, the g largest and the g smallest are
left out, g = floor(share n_i), at most until one or two are left: share = 1/2 is the median. The rows of an
item are compared among the clients that hold it: over all clients, a median would erase every item that fewer
than half of them hold.

What clients send is kept until the sum is read, a slot for each interaction and a factor for each user.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.channel.attack.roles import row_in_history
from fcf_jax.channel.link import link
from fcf_jax.core.accumulation import add_unobserved, num_clipped, sent_confidence
from fcf_jax.core.records import Accumulation, CohortSum, Link, Model, PackedClients, Scalar, Uploads

_MOST_NUMBERS = 2**28  # kept between the clients and the sum: 1 GiB


class Kept(NamedTuple):
    """Single uploads of a round, at places of their own; each leaf has a leading axis of size 1.

    A mesh that shares the items splits what has as many rows as there are items: not these.

    Attributes:
        item_ids: 1 + item of each slot; 0 for an empty slot and an absent client.
        seen: a_u (e_ui + w0 s_ui) of each slot.
        confidence: a_u (c_ui - w0) of each slot.
        user_factors: x_u.
        weights: a_u; those of padding and absent clients are 0.
        is_client: 1 for a client of the round.
        loss: a_u times the client's share of J.
        num_clipped: number of clients that the channel clipped.
    """

    item_ids: Int[Array, "1 rows slots"]
    seen: Float[Array, "1 rows slots"]
    confidence: Float[Array, "1 rows slots"]
    user_factors: Float[Array, "1 users factors"]
    weights: Float[Array, "1 users"]
    is_client: Int[Array, "1 users"]
    loss: Float[Array, "1 users"]
    num_clipped: Int[Array, "1"]


def trimmed_mean(clients: PackedClients, *, num_factors: int, share: Scalar) -> Link:
    """Build a link that sums by coordinate-wise trimmed means, in place of sums.

    Args:
        clients: the packed clients of the rounds, of which only the numbers of rows are used.
        num_factors: K.
        share: of the values to leave out at each end, in [0, 1/2]; may be traced.

    Raises:
        ValueError: if the uploads to keep exceed 1 GiB.

    References:
        Yin et al., ICML 2018, arXiv:1803.01498, definitions 1 and 2.
    """
    row_counts, row_width = np.asarray(clients.row_counts), clients.rows.item_ids.shape[-1]
    return trimmed_mean_of_rows(row_counts, row_width=row_width, num_factors=num_factors, share=share)


def coordinate_median(clients: PackedClients, *, num_factors: int) -> Link:
    """Build a link that sums by coordinate-wise medians; arguments as for `trimmed_mean`."""
    return trimmed_mean(clients, num_factors=num_factors, share=0.5)


def trimmed_mean_of_rows(
    row_counts: Int[np.ndarray, "users"], *, row_width: int, num_factors: int, share: Scalar
) -> Link:
    """Build the link of `trimmed_mean` before clients are packed.

    Args:
        row_counts: number of rows that each user will have.
        row_width: slots of a row.
        num_factors: K.
        share: as for `trimmed_mean`.
    """
    num_rows, num_users = int(row_counts.sum()), len(row_counts)
    numbers = 3 * num_rows * row_width + num_users * (num_factors + 3)
    if numbers > _MOST_NUMBERS:
        raise ValueError(
            f"expected at most {_MOST_NUMBERS} numbers of single uploads in memory, got {numbers}: robust "
            "sums keep every upload of a round; use clipping or the consistency check"
        )
    first_row = np.cumsum(row_counts) - row_counts
    user_of_row = np.repeat(np.arange(num_users), row_counts)
    start = _start_of(num_rows, row_width, num_users)
    return link(
        accumulation=Accumulation(start, Partial(_add, first_row), Partial(_read, user_of_row, share))
    )


@functools.cache
def _start_of(num_rows: int, width: int, num_users: int) -> Callable:
    """Return the same function for the same sizes: a link that is built again does not recompile."""

    def start(item_factors: Float[Array, "items factors"]) -> Kept:
        dtype, num_factors = item_factors.dtype, item_factors.shape[1]
        slots, users = jnp.zeros((1, num_rows, width), dtype), jnp.zeros((1, num_users), dtype)
        return Kept(
            item_ids=slots.astype(jnp.int32),
            seen=slots,
            confidence=slots,
            user_factors=jnp.zeros((1, num_users, num_factors), dtype),
            weights=users,
            is_client=users.astype(jnp.int32),
            loss=users,
            num_clipped=jnp.zeros(1, jnp.int32),
        )

    return start


def _add(first_row: Int[Array, "users"], kept: Kept, uploads: Uploads) -> Kept:
    """Put the uploads of a chunk in their places; those of clients that were dropped stay empty."""
    if uploads.observations.negative_ids is not None:
        raise ValueError("expected interactions that stand alone, got pairs; sum them without a defence")
    num_rows, users = kept.seen.shape[1], uploads.client_ids
    user_of_row = users.at[uploads.owners].get(mode="fill", fill_value=len(first_row))
    places = jnp.asarray(first_row, jnp.int32).at[user_of_row].get(mode="fill", fill_value=num_rows)
    places = places + row_in_history(uploads.owners)
    weights = jnp.where(uploads.is_client, uploads.weights, 0.0)
    is_present = uploads.is_client.at[uploads.owners].get(mode="fill", fill_value=False)[:, None]
    ids = jnp.where(uploads.observations.mask & is_present, uploads.observations.item_ids + 1, 0)
    of_rows = weights.at[uploads.owners].get(mode="clip")[:, None]
    return Kept(
        item_ids=kept.item_ids.at[0, places].add(ids, mode="drop"),
        seen=kept.seen.at[0, places].add(of_rows * uploads.seen, mode="drop"),
        confidence=kept.confidence.at[0, places].add(is_present * sent_confidence(uploads), mode="drop"),
        user_factors=kept.user_factors.at[0, users].add(uploads.user_factors, mode="drop"),
        weights=kept.weights.at[0, users].add(weights, mode="drop"),
        is_client=kept.is_client.at[0, users].add(uploads.is_client.astype(jnp.int32), mode="drop"),
        loss=kept.loss.at[0, users].add(weights * uploads.loss, mode="drop"),
        num_clipped=kept.num_clipped + num_clipped(uploads),
    )


def _read(
    user_of_row: Int[Array, "rows"],
    share: Scalar,
    model: Model,
    item_factors: Float[Array, "items factors"],
    kept: Kept,
) -> CohortSum:
    kept = jax.tree.map(lambda leaf: leaf[0], kept)
    num_items, dtype = item_factors.shape[0], item_factors.dtype
    share = jnp.asarray(share, dtype)
    of_items = functools.partial(_by_item, kept.item_ids.ravel(), num_items, share)
    x = kept.user_factors

    def rows_of(factor: Float[Array, "users"]) -> Float[Array, "items"]:
        return of_items((kept.seen * factor[user_of_row][:, None]).ravel())

    def gram_row(factor: Float[Array, "users"]) -> Float[Array, "factors"]:
        return _over_clients(kept.is_client, share, (kept.weights * factor)[:, None] * x)

    sums = CohortSum(
        upload=jax.lax.map(rows_of, x.T).T,
        user_gram=jax.lax.map(gram_row, x.T),
        confidence_sum=of_items(kept.confidence.ravel()),
        loss=_over_clients(kept.is_client, share, kept.loss[:, None])[0],
        num_clients=jnp.sum(kept.is_client),
        num_clipped=kept.num_clipped,
        num_clipped_entries=jnp.zeros((), jnp.int32),
    )
    return add_unobserved(model, item_factors, sums)


def _trimmed(places: Array, counts: Array, share: Array) -> tuple[Bool[Array, "..."], Array]:
    """Return which places of sorted values to keep, and the factor that makes their sum one of all."""
    most = jnp.maximum(counts - 1, 0) // 2
    cut = jnp.minimum(jnp.floor(share * counts).astype(counts.dtype), most)
    is_kept = (places >= cut) & (places < counts - cut)
    return is_kept, (counts / jnp.maximum(counts - 2 * cut, 1)).astype(share.dtype)


def _by_item(
    item_ids: Int[Array, "slots"], num_items: int, share: Array, values: Float[Array, "slots"]
) -> Float[Array, "items"]:
    """Sum robustly over the slots of each item; `item_ids` are 1 + item, 0 for empty slots."""
    counts = jnp.zeros(num_items + 1, jnp.int32).at[item_ids].add(1)
    ids, values = jax.lax.sort((item_ids, values), num_keys=2)
    places = jnp.arange(len(ids), dtype=jnp.int32) - (jnp.cumsum(counts) - counts)[ids]
    is_kept, factor = _trimmed(places, counts[ids], share)
    summed = jnp.where(is_kept, factor * values, 0.0)
    return jax.ops.segment_sum(summed, ids, num_items + 1, indices_are_sorted=True)[1:]


def _over_clients(
    is_client: Int[Array, "users"], share: Array, values: Float[Array, "users factors"]
) -> Float[Array, "factors"]:
    """Sum each column robustly over the clients of the round."""
    count = jnp.sum(is_client)
    ordered = jnp.sort(jnp.where(is_client[:, None] > 0, values, jnp.inf), axis=0)
    is_kept, factor = _trimmed(jnp.arange(len(values), dtype=count.dtype)[:, None], count, share)
    return factor * jnp.sum(jnp.where(is_kept, ordered, 0.0), axis=0)
