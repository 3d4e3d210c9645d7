"""Placement of the server's state on the devices of a mesh: copied to all, or split by items."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fcf_jax.core.records import ServerState

_WORTH_SPLITTING = 2**26  # bytes; the sums of a split step depend on the number of devices


class ItemSplit(NamedTuple):
    """Devices of which each holds an equal part of the items in the optimizer's state.

    Attributes:
        mesh: all devices.
        axis: the axis of the mesh along which they lie.
    """

    mesh: Mesh
    axis: str


def split_of(state: ServerState, mesh: Mesh | None) -> ItemSplit | None:
    """Return how the optimizer's state is split; None if every device has all of it.

    If the mesh splits items, so is everything. If not, a large state is split over the devices that share
    the clients: each takes the step for its items. A number of items that the devices do not divide is not
    split.
    """
    if mesh is None:
        return None
    if mesh.shape["items"] > 1:
        return ItemSplit(mesh, "items")
    leaves = jax.tree.leaves(state.optimizer_state)
    is_large = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) >= _WORTH_SPLITTING
    num_devices = mesh.shape["clients"]
    is_even = num_devices > 1 and state.item_factors.shape[0] % num_devices == 0
    return ItemSplit(mesh, "clients") if is_large and is_even else None


def state_shardings(state: ServerState, mesh: Mesh) -> Any:
    """Return the sharding of each array of a state.

    If the mesh splits items, so is everything. If not, the item factors are copied to all devices, which all
    need them; the state of the optimizer is split or copied, as `split_of` says.

    Args:
        state: the state, or its shapes.
        mesh: from `fcf_jax.parallel.client_mesh`.
    """
    num_items, of_state = state.item_factors.shape[0], split_of(state, mesh)

    def split(leaf: Any) -> NamedSharding:
        items_axes = [place for place, size in enumerate(leaf.shape) if size == num_items][:1]
        axis = None if of_state is None else of_state.axis
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
