"""Placement of the server's state on the devices of a mesh: copied to all, or split by items."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fcf_jax.core.records import ServerState

_WORTH_SPLITTING = 2**24  # bytes; the sums of a split step depend on the number of devices


class Sharing(NamedTuple):
    """How the devices of a mesh share a round.

    Attributes:
        mesh: the devices; those along its axis "clients" share the clients.
        items_axis: axis of the mesh along which the optimizer's state is split by items; None: each device
            has all of it.
    """

    mesh: Mesh
    items_axis: str | None = None


def sharing_of(state: ServerState, mesh: Mesh | None) -> Sharing | None:
    """Return how the devices share a round with a state of this size; None without a mesh.

    If the mesh splits items, so is everything. If not, a large state of the optimizer is split over the
    devices that share the clients: each takes the step for its items. A number of items that the devices do
    not divide is not split.
    """
    if mesh is None or mesh.shape["items"] > 1:
        return None if mesh is None else Sharing(mesh, "items")
    leaves = jax.tree.leaves(state.optimizer_state)
    is_large = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) >= _WORTH_SPLITTING
    num_devices = mesh.shape["clients"]
    is_even = num_devices > 1 and state.item_factors.shape[0] % num_devices == 0
    return Sharing(mesh, "clients" if is_large and is_even else None)


def state_shardings(state: ServerState, mesh: Mesh) -> Any:
    """Return the sharding of each array of a state.

    If the mesh splits items, so is everything. If not, the item factors are copied to all devices, which all
    need them; the state of the optimizer is split or copied, as `sharing_of` says.

    Args:
        state: the state, or its shapes.
        mesh: from `fcf_jax.parallel.client_mesh`.
    """
    num_items, sharing = state.item_factors.shape[0], sharing_of(state, mesh)

    def split(leaf: Any) -> NamedSharding:
        items_axes = [place for place, size in enumerate(leaf.shape) if size == num_items][:1]
        axis = None if sharing is None else sharing.items_axis
        of_axes = (axis if position in items_axes else None for position in range(leaf.ndim))
        return NamedSharding(mesh, PartitionSpec(*of_axes))

    def copy(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec())

    if mesh.shape["items"] > 1:
        return jax.tree.map(split, state)
    shardings = jax.tree.map(copy, state)
    return shardings._replace(optimizer_state=jax.tree.map(split, state.optimizer_state))


def kept_in_place(state: ServerState, mesh: Mesh | None) -> ServerState:
    """Constrain the state, in a compiled program, to the shardings that `state_shardings` gives it."""
    if mesh is None or mesh.shape["items"] > 1:
        return state
    return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))


def shares_items_of_clients(sharing: Sharing | None) -> bool:
    """Return True if the devices that share the clients also share the items."""
    return sharing is not None and sharing.items_axis == "clients"
