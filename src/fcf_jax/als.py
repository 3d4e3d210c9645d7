"""Centralised alternating least squares, the baseline that sees all data.

    item_factors, info = fit_als(key, model, clients, items, num_factors=25, num_sweeps=20)

References:
    Hu, Koren & Volinsky, ICDM 2008.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.checks import require, require_catalogue, require_pair
from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.features import fit_map, item_prior, map_penalty
from fcf_jax.core.objective import for_items, of_items, total_loss
from fcf_jax.core.precision import precision_of
from fcf_jax.core.records import Key, Model, PackedClients, Scalar, as_pytree
from fcf_jax.core.server import draw_item_factors

__all__ = ["AlsInfo", "converge_als", "fit_als", "has_converged", "run_sweeps", "sweep"]

MIN_SWEEPS = 40
MAX_SWEEPS = 1000
TOLERANCE = 1e-5  # relative decrease of the loss in a sweep below which ALS has converged
_BLOCK_SWEEPS = 10


class AlsInfo(NamedTuple):
    """Report of a sweep; `run_sweeps` stacks it along a leading axis of sweeps.

    Attributes:
        loss: min_X J(X, Y) at the start of the sweep.
        user_map: A at the end of the sweep; None: users have no features.
    """

    loss: Float[Array, "*sweeps"]
    user_map: Float[Array, "*sweeps features factors"] | None = None


def fit_als(
    key: Key,
    model: Model,
    clients: PackedClients,
    items: PackedClients,
    *,
    num_factors: int,
    num_sweeps: int,
    init_scale: Scalar = 0.1,
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Factorize the interactions with centralised ALS, with the same model as `federated_cf`.

    Args:
        key: key of the first item factors, the same as those of `federation.init(key)`.
        model: weighting, lambda and w0.
        clients: the users' histories, from `pack_clients`, and their features if they have any.
        items: the same interactions by item, from `pack_items`, and the items' features if they have any.
        num_factors: K.
        num_sweeps: number of sweeps; each solves all users and then all items.
        init_scale: standard deviation of the first item factors.

    Returns:
        Y, and the loss before each sweep; with user features, A after each sweep too.

    Raises:
        ValueError: for clients and items of other numbers of users or items, or a negative number.
    """
    require(key=key, num_factors=num_factors, num_sweeps=num_sweeps, init_scale=init_scale)
    require_pair(clients, items)
    start = draw_item_factors(
        key,
        num_items=items.row_counts.shape[0],
        num_factors=num_factors,
        init_scale=init_scale,
        biases=model.biases,
    )
    return run_sweeps(model, start, clients, items, num_sweeps=num_sweeps)


def run_sweeps(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    num_sweeps: int,
    mesh: Mesh | None = None,
    user_map: Float[Array, "features factors"] | None = None,
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Run sweeps in one compiled program.

    Args:
        model: weighting, lambda and w0; other numbers do not recompile.
        item_factors: Y to begin with.
        clients: the users' histories.
        items: the same interactions by item.
        num_sweeps: number of sweeps.
        mesh: devices that share the work; place clients and items on it too. None: one device.
        user_map: A to begin with, if users have features; None: 0.

    Returns:
        Y, and the loss before each sweep; with user features, A after each sweep too.

    Raises:
        ValueError: as for `fit_als`.
    """
    require(model=model, num_sweeps=num_sweeps)
    item_factors = jnp.asarray(item_factors)
    require_pair(clients, items)
    require_catalogue(item_factors.shape[0], name="item_factors", clients=clients)
    start = item_factors, _first_user_map(item_factors, clients, user_map)
    (item_factors, _), info = _scan_sweeps(num_sweeps, mesh, as_pytree(model), start, clients, items)
    return item_factors, info


def sweep(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    mesh: Mesh | None = None,
    user_map: Float[Array, "features factors"] | None = None,
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Solve all users for fixed Y, then all items for fixed X; arguments as for `run_sweeps`.

    With features, the users' prior is that of the given A, the items' that of the best B for the given Y; the
    info holds the best A for X.
    """
    user_map = _first_user_map(item_factors, clients, user_map)
    user_factors, loss = solve_clients(model, item_factors, clients, mesh=mesh, user_map=user_map)
    of_each = for_items(model, clients.item_counts, clients.row_counts.shape[0])
    prior = None if items.features is None else item_prior(of_each, item_factors, items.features)
    item_map = None if prior is None else prior.item_map
    next_item_factors, _ = solve_clients(of_items(model), user_factors, items, mesh=mesh, user_map=item_map)
    loss = total_loss(of_each, item_factors if prior is None else item_factors - prior.means, loss)
    for feature_map in (user_map, item_map):
        if feature_map is not None:
            loss = loss + map_penalty(model, feature_map)
    if clients.features is not None:  # the items' packing counts the histories
        of_users = for_items(model, items.item_counts, items.row_counts.shape[0])
        of_users = of_users._replace(biases=model.biases)
        user_map = fit_map(of_users, user_factors, clients.features)
    return next_item_factors.astype(item_factors.dtype), AlsInfo(loss, user_map)


def _first_user_map(item_factors: Array, clients: PackedClients, user_map: Array | None) -> Array | None:
    """Return A to begin with: as given, or 0 if the users have features."""
    if user_map is not None or clients.features is None:
        return user_map
    return jnp.zeros((clients.features.shape[-1], item_factors.shape[1]), precision_of(item_factors))


def converge_als(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    mesh: Mesh | None = None,
    on_block: Callable[[int, float], None] = lambda num_sweeps, loss: None,
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Sweep until the relative decrease of the loss in a sweep is below 1e-5, from 40 to 1000 times.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y to begin with.
        clients: the users' histories.
        items: the same interactions by item.
        mesh: devices that share the work; None: one device.
        on_block: called after every ten sweeps with the number of sweeps done and the latest loss.

    Returns:
        Y, and the report of `run_sweeps` on all sweeps; the losses are in float64.
    """
    item_factors = jax.device_put(item_factors, clients.row_counts.sharding)  # as sweeps return them
    losses, blocks = [], []
    while len(losses) < MIN_SWEEPS or not has_converged(*losses[-2:]):
        user_map = None
        if blocks and blocks[-1].user_map is not None:
            user_map = jnp.asarray(blocks[-1].user_map[-1], precision_of(item_factors))
        item_factors, info = run_sweeps(
            model, item_factors, clients, items, num_sweeps=_BLOCK_SWEEPS, mesh=mesh, user_map=user_map
        )
        blocks.append(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), info))
        losses += blocks[-1].loss.tolist()
        on_block(len(losses), losses[-1])
        if len(losses) >= MAX_SWEEPS or not np.isfinite(losses[-1]):
            break
    return item_factors, jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)


def has_converged(before: npt.ArrayLike, after: npt.ArrayLike) -> np.bool_ | npt.NDArray[np.bool_]:
    """Return whether the loss decreased by less than the tolerance in a sweep."""
    return np.subtract(before, after) < TOLERANCE * np.abs(before)


@partial(jax.jit, static_argnums=(0, 1))
def _scan_sweeps(
    num_sweeps: int,
    mesh: Mesh | None,
    model: Model,
    start: tuple[Array, Array | None],
    clients: PackedClients,
    items: PackedClients,
):
    def next_sweep(so_far: tuple[Array, Array | None], _: None) -> tuple[tuple, AlsInfo]:
        item_factors, user_map = so_far
        item_factors, info = sweep(model, item_factors, clients, items, mesh=mesh, user_map=user_map)
        return (item_factors, info.user_map), info

    return jax.lax.scan(next_sweep, start, length=num_sweeps)
