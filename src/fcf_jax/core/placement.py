"""Placement of the server's state on the devices of a mesh: copied to all, or split by items."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fcf_jax.core.records import ServerState

_WORTH_SPLITTING = 2**26  # bytes; the sums of a split step depend on the number of devices


def state_shardings(state: ServerState, mesh: Mesh) -> Any:
    """Return the sharding of each array of a state.

    If the mesh splits items, so is everything. If not, the item factors are copied to all devices, which all
    need them, but a large state of the optimizer is split over the devices that share the clients: each
    takes the step for its items. A number of items that the devices do not divide is not split.

    Args:
        state: the state, or its shapes.
        mesh: from `fcf_jax.parallel.client_mesh`.
    """
    axis = "items" if mesh.shape["items"] > 1 else "clients"
    num_items, is_even = state.item_factors.shape[0], state.item_factors.shape[0] % mesh.shape[axis] == 0
    leaves = jax.tree.leaves(state.optimizer_state)
    is_large = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) >= _WORTH_SPLITTING

    def split(leaf: Any) -> NamedSharding:
        items_axes = [place for place, size in enumerate(leaf.shape) if size == num_items][:1]
        of_axes = (axis if position in items_axes else None for position in range(leaf.ndim))
        return NamedSharding(mesh, PartitionSpec(*of_axes))

    def copy(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec())

    if axis == "items":
        return jax.tree.map(split, state)
    of_optimizer = split if is_even and is_large else copy
    shardings = jax.tree.map(copy, state)
    return shardings._replace(optimizer_state=jax.tree.map(of_optimizer, state.optimizer_state))


def kept_in_place(state: ServerState, mesh: Mesh | None) -> ServerState:
    """Constrain the state, in a compiled program, to the shardings that `state_shardings` gives it."""
    if mesh is None or mesh.shape["items"] > 1:
        return state
    return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
