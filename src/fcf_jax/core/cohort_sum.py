r"""The cohort sum, in sparse + Gram form, over packed clients.

    \sum_u a_u e_u x_u^T  =  scatter_{i in I_u} [ a_u (e_ui + w0 s_ui) x_u ]  -  w0 Y (\sum_u a_u x_u x_u^T)

Every client's gradient of the items that it never touched is -w0 s_i x, and the sum of all x x^T yields that
for everybody at once: no array of [clients, items] is ever built. a_u is 1 unless a link of the channel
lowers it.

Over several devices each takes its share of the chunks, and one sum over the devices ends a round.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core import packing
from fcf_jax.core.client import chunk_uploads
from fcf_jax.core.objective import extra_confidence, gram
from fcf_jax.core.records import (
    Accumulation,
    Broadcast,
    CohortSum,
    Key,
    Link,
    Model,
    PackedClients,
    Uploads,
    as_pytree,
)
from fcf_jax.core.solve import shared_part

Total = TypeVar("Total")


def cohort_sum(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    channel: Link | None = None,
    channel_state: Any = None,
    key: Key | None = None,
    mesh: Mesh | None = None,
) -> tuple[CohortSum, Float[Array, ""]]:
    """Solve all packed clients, and sum what they send.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y.
        clients: the cohort.
        channel: whose client ends and accumulation are applied; its server ends are not.
        channel_state: of the channel; None: its first.
        key: of the round, for links that draw at the client.
        mesh: devices that share the chunks, along an axis "clients"; None: one device.

    Returns:
        The sums, and the worst client's solve error.

    References:
        arXiv:1901.09888, Algorithm 1: the server's sum over the users' gradients.
    """
    total, worst = accumulate(
        model, item_factors, clients, channel=channel, channel_state=channel_state, key=key, mesh=mesh
    )
    return accumulation_of(channel).read(model, item_factors, total), worst


def accumulation_of(channel: Link | None) -> Accumulation:
    """Return how the channel wants uploads added up: in floating point unless it says otherwise."""
    return FLOAT_SUMS if channel is None or channel.accumulation is None else channel.accumulation


def accumulate(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    channel: Link | None = None,
    channel_state: Any = None,
    key: Key | None = None,
    mesh: Mesh | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Add up what the clients send without reading the total; arguments as of `cohort_sum`.

    Returns:
        The total, which may be added to that of other clients leaf by leaf, and the worst solve error.
    """
    accumulation = accumulation_of(channel)
    if channel is not None and channel_state is None:
        channel_state = channel.init()

    def share(received: tuple, clients: PackedClients) -> tuple[Any, Array]:
        model, item_factors, channel, channel_state, key = received

        def add(total: Any, uploads: Uploads) -> tuple[Any, None]:
            sent = uploads if channel is None else channel.client(key, channel_state, uploads)
            return accumulation.add(total, sent), None

        broadcast = broadcast_of(model, item_factors, channel)
        total, _, worst = solve_chunks(broadcast, clients, add, accumulation.start(item_factors))
        if packing.is_split(mesh):
            total, worst = jax.lax.psum(total, "clients"), jax.lax.pmax(worst, "clients")
        return total, worst

    received = as_pytree((model, item_factors, channel, channel_state, key))
    return packing.split_chunks(share, mesh)(received, clients)


def broadcast_of(
    model: Model, item_factors: Float[Array, "items factors"], channel: Link | None = None
) -> Broadcast:
    """Compute what all clients of a round know."""
    item_gram, weights = gram(item_factors), None if channel is None else channel.item_weights
    if weights is None:
        return Broadcast(model, item_factors, item_gram, None, item_gram)
    weights = jnp.pad(weights, (0, item_factors.shape[0] - weights.shape[0]))  # rows that fill up a mesh
    return Broadcast(model, item_factors, item_gram, weights, gram(weights[:, None] * item_factors))


def solve_chunks(
    broadcast: Broadcast,
    clients: PackedClients,
    use: Callable[[Total, Uploads], tuple[Total, Any]],
    start: Total,
) -> tuple[Total, Any, Float[Array, ""]]:
    """Solve the clients chunk by chunk, and fold `use` over what they send.

    Args:
        broadcast: from `broadcast_of`.
        clients: the cohort.
        use: (accumulated so far, uploads of a chunk) -> (accumulated, output of this chunk).
        start: what `use` begins with.

    Returns:
        What was accumulated, the outputs stacked, and the worst client's solve error.
    """
    model, num_users = broadcast.model, clients.row_counts.shape[0]
    shared = shared_part(model, broadcast.item_gram)

    def step(carry: tuple[Total, Array], chunk: tuple) -> tuple[tuple[Total, Array], Any]:
        (so_far, worst), (rows, owners, client_ids) = carry, chunk
        uploads = chunk_uploads(
            broadcast, shared, model.weighting(rows), owners, client_ids, num_users=num_users
        )
        so_far, output = use(so_far, uploads)
        return (so_far, jnp.maximum(worst, jnp.max(uploads.solve_error))), output

    chunks = clients.rows, clients.owners, clients.client_ids
    start_of_scan = start, jnp.zeros((), broadcast.item_factors.dtype)
    (end, worst), outputs = jax.lax.scan(step, start_of_scan, chunks)
    return end, outputs, worst


def solve_clients(
    model: Model,
    factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "users factors"], Float[Array, ""]]:
    """Solve the factor of every packed client; 0 for users that are not among them.

    For ALS, whose items are the clients of the user factors in turn, and for the fold-in of evaluation; a
    real server never sees a user factor.

    Args:
        model: weighting, lambda and w0.
        factors: Y, or X for items as clients.
        clients: whose factors are solved.
        mesh: devices that share the chunks; None: one device.

    Returns:
        The factors, and the sum of the clients' losses.
    """

    def place(total: tuple[Array, Array], uploads: Uploads) -> tuple[tuple[Array, Array], None]:
        everyone, loss = total
        everyone = everyone.at[uploads.client_ids].set(uploads.user_factors, mode="drop")
        return (everyone, loss + jnp.sum(uploads.loss)), None

    def share(received: tuple[Model, Array], clients: PackedClients) -> tuple[Array, Array]:
        model, factors = received
        everyone = jnp.zeros((clients.row_counts.shape[0], factors.shape[1]), factors.dtype)
        start = everyone, jnp.zeros((), factors.dtype)
        solved, _, _ = solve_chunks(broadcast_of(model, factors), clients, place, start)
        return jax.lax.psum(solved, "clients") if packing.is_split(mesh) else solved

    return packing.split_chunks(share, mesh)((as_pytree(model), factors), clients)


def sent_factors(uploads: Uploads) -> Float[Array, "clients factors"]:
    """Compute a_u x_u."""
    return uploads.weights[:, None] * uploads.user_factors


def sent_confidence(uploads: Uploads) -> Float[Array, "rows slots"]:
    """Compute a_u (c_ui - w0), 0 in empty slots."""
    extra = extra_confidence(uploads.broadcast.model, uploads.observations)
    return extra * uploads.weights.at[uploads.owners].get(mode="clip")[:, None]


def num_clipped(uploads: Uploads) -> Array:
    """Count the clients with a_u < 1."""
    return jnp.sum(uploads.is_client & (uploads.weights < 1), dtype=jnp.int32)


def _no_client(item_factors: Float[Array, "items factors"]) -> CohortSum:
    (num_items, num_factors), dtype = item_factors.shape, item_factors.dtype
    return CohortSum(
        upload=jnp.zeros((num_items, num_factors), dtype),
        user_gram=jnp.zeros((num_factors, num_factors), dtype),
        confidence_sum=jnp.zeros(num_items, dtype),
        loss=jnp.zeros((), dtype),
        num_clients=jnp.zeros((), jnp.int32),
        num_clipped=jnp.zeros((), jnp.int32),
        num_clipped_entries=jnp.zeros((), jnp.int32),
    )


def _add(sums: CohortSum, uploads: Uploads) -> CohortSum:
    """Add a chunk; of the upload only the part of the observed items beyond -w0 s x."""
    factors, item_ids = sent_factors(uploads), uploads.observations.item_ids
    of_rows = factors.at[uploads.owners].get(mode="clip")
    gram_of_chunk = jnp.matmul(factors.T, uploads.user_factors, precision="highest")
    return sums._replace(
        upload=sums.upload.at[item_ids].add(uploads.seen[:, :, None] * of_rows[:, None, :]),
        user_gram=sums.user_gram + gram_of_chunk,
        confidence_sum=sums.confidence_sum.at[item_ids].add(sent_confidence(uploads)),
        loss=sums.loss + jnp.sum(uploads.weights * uploads.loss),
        num_clients=sums.num_clients + jnp.sum(uploads.is_client, dtype=jnp.int32),
        num_clipped=sums.num_clipped + num_clipped(uploads),
    )


def add_unobserved(model: Model, item_factors: Float[Array, "items factors"], sums: CohortSum) -> CohortSum:
    """Add -w0 Y (sum of a x x^T), the part of the items that a client did not observe."""
    unobserved = model.unobserved_weight * jnp.matmul(item_factors, sums.user_gram, precision="highest")
    return sums._replace(upload=sums.upload - unobserved)


FLOAT_SUMS = Accumulation(start=_no_client, add=_add, read=add_unobserved)
