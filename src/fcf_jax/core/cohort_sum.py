r"""The cohort sum, in sparse + Gram form, over packed clients.

    \sum_u a_u e_u x_u^T  =  scatter_{i in I_u} [ a_u (e_ui + w0 s_ui) x_u ]  -  w0 Y (\sum_u a_u x_u x_u^T)

A client's gradient of an item outside its history is -w0 s_i x. The sum of all x x^T gives these gradients
for all clients at once, so no array of [clients, items] is ever built. a_u is 1 unless a link of the channel
lowers it.

With several devices, each computes its share of the chunks, and one sum over the devices ends the round.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core import packing
from fcf_jax.core.accumulation import accumulation_of, received
from fcf_jax.core.checks import require, require_item_factors, require_user_map
from fcf_jax.core.client import chunk_uploads
from fcf_jax.core.features import empty_sums
from fcf_jax.core.kernels import choice as kernels
from fcf_jax.core.kernels import full_round
from fcf_jax.core.kernels.remarks import remark_on_scatters
from fcf_jax.core.objective import gram, observe
from fcf_jax.core.placement import Sharing, shares_items_of_clients
from fcf_jax.core.precision import cast, in_one_precision, precision_of
from fcf_jax.core.records import (
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
from fcf_jax.core.transformed import any_in_batch, beginning_like

Total = TypeVar("Total")


@in_one_precision
def cohort_sum(
    model: Model,
    item_factors: Float[Array | np.ndarray, "items factors"],
    clients: PackedClients,
    *,
    channel: Link | None = None,
    channel_state: Any = None,
    key: Key | None = None,
    mesh: Mesh | None = None,
    user_map: Float[Array, "features factors"] | None = None,
) -> tuple[CohortSum, Float[Array, ""]]:
    """Solve the factors of all packed clients, and sum their uploads.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y.
        clients: the cohort.
        channel: its client ends and accumulation are applied, its server ends are not; None: no channel.
        channel_state: state of the channel; None: its first state.
        key: key of the channel's client ends.
        mesh: devices that share the chunks, along its axis "clients"; None: one device.
        user_map: A, for clients with features; None: they have none.

    Returns:
        The sums, and the largest solve error of a client.

    Raises:
        ValueError: for item factors of another catalogue, a model with negative numbers, or features without
            a map or with a channel.

    References:
        arXiv:1901.09888, Algorithm 1: the server's sum over the users' gradients.
    """
    item_factors = jnp.asarray(item_factors)
    sharing = None if mesh is None else Sharing(mesh)
    total, worst = accumulate(
        model,
        item_factors,
        clients,
        channel=channel,
        channel_state=channel_state,
        key=key,
        sharing=sharing,
        user_map=user_map,
    )
    item_factors = received(channel, key, _state_of(channel, channel_state), item_factors)
    return accumulation_of(channel).read(model, item_factors, total), worst


@in_one_precision
def accumulate(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    channel: Link | None = None,
    channel_state: Any = None,
    key: Key | None = None,
    sharing: Sharing | None = None,
    user_weights: Float[Array, "users"] | None = None,
    user_map: Float[Array, "features factors"] | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Add up the uploads of the clients, without reading the total; other arguments as for `cohort_sum`.

    Args:
        sharing: devices that share the chunks; those that share the items too keep the sums of their items.
        user_weights: factor on all that each user sends, before the channel; None: all 1.

    Returns:
        The total, which adds leaf by leaf to that of other clients, and the largest solve error.
    """
    require(model=model)
    mesh = None if sharing is None else sharing.mesh
    require_item_factors(item_factors, clients, mesh)
    require_user_map(user_map, clients, channel)
    accumulation, channel_state = accumulation_of(channel), _state_of(channel, channel_state)
    item_factors = received(channel, key, channel_state, item_factors)

    def share(message: tuple, clients: PackedClients) -> tuple[Any, Array]:
        model, item_factors, channel, channel_state, key, user_weights, user_map = message

        def add(total: Any, uploads: Uploads) -> tuple[Any, None]:
            uploads = _weighted(uploads, user_weights)
            if channel is not None:
                uploads = cast(channel.client(key, channel_state, uploads), precision_of(item_factors))
            return accumulation.add(total, uploads), None

        broadcast = broadcast_of(model, item_factors, channel, sharing)._replace(user_map=user_map)
        start = begin(item_factors, user_map)
        total, _, worst = solve_chunks(broadcast, clients, add, start, may_skip=True)
        if packing.is_split(mesh):
            total, worst = jax.tree.map(_over_devices, total, kept), jax.lax.pmax(worst, "clients")
        return total, worst

    def begin(item_factors: Array, user_map: Array | None) -> Any:
        start = accumulation.start(item_factors)
        return start if user_map is None else start._replace(features=empty_sums(user_map))

    kept = _kept_sums(jax.eval_shape(begin, item_factors, user_map), item_factors, sharing)
    if clients.items is not None and channel is None and user_weights is None and not packing.is_split(mesh):
        if user_map is None:
            return _sum_all(share, model, item_factors, clients)
        kernels.remark_on_features(clients)
    remark_on_scatters()
    message = as_pytree((model, item_factors, channel, channel_state, key, user_weights, user_map))
    by_device = packing.split_chunks(share, mesh, out_specs=(kept, PartitionSpec()))
    return by_device(message, clients._replace(items=None))


def _state_of(channel: Link | None, channel_state: Any) -> Any:
    """Return the state of the channel, by default its first."""
    return channel.init() if channel is not None and channel_state is None else channel_state


def _kept_sums(total: Any, item_factors: Array, sharing: Sharing | None) -> Any:
    """Return the parts of each sum that a device keeps: those of its items, or all."""
    num_items, is_shared = item_factors.shape[0], shares_items_of_clients(sharing)

    def kept(leaf: Any) -> PartitionSpec:
        of_items = is_shared and leaf.shape[:1] == (num_items,)
        return PartitionSpec("clients") if of_items else PartitionSpec()

    return jax.tree.map(kept, total)


def _over_devices(total: Array, kept: PartitionSpec) -> Array:
    """Add up the totals of all devices, as far as this device keeps them."""
    if kept == PartitionSpec():
        return jax.lax.psum(total, "clients")
    return jax.lax.psum_scatter(total, "clients", scatter_dimension=0, tiled=True)


def _sum_all(share: Callable, model: Model, item_factors: Array, clients: PackedClients) -> Any:
    """Add up a full round without a channel, by kernels where they serve."""

    def plain(model: Model, item_factors: Array, clients: PackedClients) -> tuple[Any, Array]:
        return share((model, item_factors, None, None, None, None, None), clients._replace(items=None))

    model, clients = as_pytree((model, kernels.suited(model, clients)))
    return kernels.choose(full_round.sum_clients, plain, model, item_factors, clients)


def _weighted(uploads: Uploads, user_weights: Float[Array, "users"] | None) -> Uploads:
    if user_weights is None:
        return uploads
    weights = user_weights.at[uploads.client_ids].get(mode="fill", fill_value=0.0)
    return uploads._replace(weights=uploads.weights * weights.astype(uploads.weights.dtype))


def broadcast_of(
    model: Model,
    item_factors: Float[Array, "items factors"],
    channel: Link | None = None,
    sharing: Sharing | None = None,
) -> Broadcast:
    """Build the message to all clients of a round; devices that share items add up their Gram matrices."""
    item_gram, weights = _gram_of(item_factors, sharing), None if channel is None else channel.item_weights
    if weights is None:
        return Broadcast(model, item_factors, item_gram, None, item_gram)
    weights = jnp.pad(weights, (0, item_factors.shape[0] - weights.shape[0]))  # 0 for padding rows of a mesh
    return Broadcast(model, item_factors, item_gram, weights, gram(weights[:, None] * item_factors))


def _gram_of(item_factors: Float[Array, "items factors"], sharing: Sharing | None) -> Array:
    if sharing is None or not shares_items_of_clients(sharing):
        return gram(item_factors)
    num_own = item_factors.shape[0] // sharing.mesh.shape["clients"]
    begin = jax.lax.axis_index("clients") * num_own
    own = jax.lax.dynamic_slice_in_dim(item_factors, begin, num_own)
    return jax.lax.psum(gram(own), "clients")


def solve_chunks(
    broadcast: Broadcast,
    clients: PackedClients,
    use: Callable[[Total, Uploads], tuple[Total, Any]],
    start: Total,
    *,
    may_skip: bool = False,
) -> tuple[Total, Any, Float[Array, ""]]:
    """Solve the clients chunk by chunk, and fold `use` over their uploads, as `lax.scan` does.

    Args:
        broadcast: the message that they received, from `broadcast_of`.
        clients: the cohort.
        use: (total, uploads of a chunk) -> (next total, output of the chunk).
        start: the total before the first chunk.
        may_skip: whether to skip chunks without clients, of which cohorts have some; `use` must have no
            output then.

    Returns:
        The final total, the stacked outputs, and the largest solve error of a client.
    """
    require_user_map(broadcast.user_map, clients)
    model, num_users = broadcast.model, clients.row_counts.shape[0]
    num_items = clients.item_counts.shape[-1]  # Y may have padding rows
    shared = shared_part(model, broadcast.item_factors, broadcast.item_gram, num_items=num_items)
    broadcast, shared = beginning_like((as_pytree(broadcast), shared), clients.owners)

    def solve(carry: tuple[Total, Array], chunk: tuple) -> tuple[tuple[Total, Array], Any]:
        (total, worst), (rows, owners, client_ids) = carry, chunk
        uploads = chunk_uploads(
            broadcast,
            shared,
            observe(model, rows),
            owners,
            client_ids,
            num_users=num_users,
            features=_features_of(clients, client_ids),
        )
        total, output = use(total, uploads)
        worst = jnp.maximum(worst, jnp.max(jax.lax.stop_gradient(uploads.solve_error)))
        return (total, worst), output

    def solve_if_filled(carry: tuple[Total, Array], chunk: tuple) -> tuple[tuple[Total, Array], None]:
        is_filled = _is_filled(chunk[-1], num_users=num_users)
        return jax.lax.cond(is_filled, lambda: solve(carry, chunk)[0], lambda: carry), None

    chunks = clients.rows, clients.owners, clients.client_ids
    start_of_scan = start, jnp.zeros((), broadcast.item_factors.dtype)
    start_of_scan = beginning_like(start_of_scan, broadcast.item_factors, clients.owners)
    (end, worst), outputs = jax.lax.scan(solve_if_filled if may_skip else solve, start_of_scan, chunks)
    return end, outputs, worst


def _features_of(
    clients: PackedClients, client_ids: Int[Array, "clients"]
) -> Float[Array, "clients features"] | None:
    """Gather the features of a chunk's clients, 0 for padding."""
    if clients.features is None:
        return None
    return jnp.asarray(clients.features).at[client_ids].get(mode="fill", fill_value=0.0)


def _is_filled(client_ids: Int[Array, "clients"], *, num_users: int) -> Bool[Array, ""]:
    """Return whether a chunk has clients; always True on a GPU, where a branch would make the host wait."""

    def has_clients(client_ids: Array) -> Array:
        return any_in_batch(jnp.any(client_ids < num_users))

    def always(client_ids: Array) -> Array:
        return jnp.full_like(client_ids[0], True, bool)  # differs by device as `client_ids` does

    return jax.lax.platform_dependent(client_ids, cuda=always, default=has_clients)


@in_one_precision
def solve_clients(
    model: Model,
    factors: Float[Array | np.ndarray, "items factors"],
    clients: PackedClients,
    *,
    mesh: Mesh | None = None,
    user_map: Float[Array, "features factors"] | None = None,
) -> tuple[Float[Array, "users factors"], Float[Array, ""]]:
    """Solve the factors of all packed clients; users that are not packed get 0.

    For ALS, in which items are solved as clients of the user factors, and for folding users in. A real
    server never sees user factors.

    Args:
        model: weighting, lambda and w0.
        factors: Y; X if the clients are items.
        clients: clients to solve.
        mesh: devices that share the chunks; None: one device.
        user_map: A, for clients with features (B if the clients are items); None: they have none.

    Returns:
        The factors, and the sum of the clients' losses.

    Raises:
        ValueError: as for `cohort_sum`.
    """

    def place(total: tuple[Array, Array], uploads: Uploads) -> tuple[tuple[Array, Array], None]:
        solved, loss = total
        solved = solved.at[uploads.client_ids].add(uploads.user_factors, mode="drop")
        return (solved, loss + jnp.sum(uploads.weights * uploads.loss)), None

    def share(message: tuple, clients: PackedClients) -> tuple[Array, Array]:
        model, factors, user_map = message
        unsolved = jnp.zeros((clients.row_counts.shape[0], factors.shape[1]), factors.dtype)
        start = unsolved, jnp.zeros((), factors.dtype)
        broadcast = broadcast_of(model, factors)._replace(user_map=user_map)
        total, _, _ = solve_chunks(broadcast, clients, place, start)
        return jax.lax.psum(total, "clients") if packing.is_split(mesh) else total

    def plain(
        model: Model, factors: Array, clients: PackedClients, user_map: Array | None = None
    ) -> tuple[Array, Array]:
        return packing.split_chunks(share, mesh)((model, factors, user_map), clients._replace(items=None))

    require(model=model)
    require_user_map(user_map, clients)
    require_item_factors(factors, clients, mesh)
    arguments = as_pytree(model), jnp.asarray(factors), kernels.suited(model, clients)
    if user_map is not None:
        kernels.remark_on_features(clients)
    if user_map is not None or packing.is_split(mesh):
        return plain(*arguments, user_map)
    return kernels.choose(full_round.solve_clients, plain, *arguments)
