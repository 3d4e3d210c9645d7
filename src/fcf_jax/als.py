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
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.checks import require, require_catalogue, require_pair
from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.objective import for_items, total_loss
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
    """

    loss: Float[Array, "*sweeps"]


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
        clients: the users' histories, from `pack_clients`.
        items: the same interactions by item, from `pack_items`.
        num_factors: K.
        num_sweeps: number of sweeps; each solves all users and then all items.
        init_scale: standard deviation of the first item factors.

    Returns:
        Y, and the loss before each sweep.

    Raises:
        ValueError: for clients and items of other numbers of users or items, or a negative number.
    """
    require(key=key, num_factors=num_factors, num_sweeps=num_sweeps, init_scale=init_scale)
    require_pair(clients, items)
    start = draw_item_factors(
        key, num_items=items.row_counts.shape[0], num_factors=num_factors, init_scale=init_scale
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
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Run sweeps in one compiled program.

    Args:
        model: weighting, lambda and w0; other numbers do not recompile.
        item_factors: Y to begin with.
        clients: the users' histories.
        items: the same interactions by item.
        num_sweeps: number of sweeps.
        mesh: devices that share the work; place clients and items on it too. None: one device.

    Returns:
        Y, and the loss before each sweep.

    Raises:
        ValueError: as for `fit_als`.
    """
    require(model=model, num_sweeps=num_sweeps)
    require_pair(clients, items)
    require_catalogue(item_factors.shape[0], name="item_factors", clients=clients)
    return _scan_sweeps(num_sweeps, mesh, as_pytree(model), item_factors, clients, items)


def sweep(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "items factors"], AlsInfo]:
    """Solve all users for fixed Y, then all items for fixed X; arguments as for `run_sweeps`."""
    user_factors, loss = solve_clients(model, item_factors, clients, mesh=mesh)
    next_item_factors, _ = solve_clients(model, user_factors, items, mesh=mesh)
    of_items = for_items(model, clients.item_counts, clients.row_counts.shape[0])
    return next_item_factors.astype(item_factors.dtype), AlsInfo(total_loss(of_items, item_factors, loss))


def converge_als(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    mesh: Mesh | None = None,
    on_block: Callable[[int, float], None] = lambda num_sweeps, loss: None,
) -> tuple[Float[Array, "items factors"], list[float]]:
    """Sweep until the relative decrease of the loss in a sweep is below 1e-5, from 40 to 1000 times.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y to begin with.
        clients: the users' histories.
        items: the same interactions by item.
        mesh: devices that share the work; None: one device.
        on_block: called after every ten sweeps with the number of sweeps done and the latest loss.

    Returns:
        Y, and the loss before each sweep.
    """
    item_factors = jax.device_put(item_factors, clients.row_counts.sharding)  # as sweeps return them
    losses: list[float] = []
    while len(losses) < MIN_SWEEPS or not has_converged(*losses[-2:]):
        item_factors, info = run_sweeps(
            model, item_factors, clients, items, num_sweeps=_BLOCK_SWEEPS, mesh=mesh
        )
        losses += np.asarray(info.loss, np.float64).tolist()
        on_block(len(losses), losses[-1])
        if len(losses) >= MAX_SWEEPS or not np.isfinite(losses[-1]):
            break
    return item_factors, losses


def has_converged(before: npt.ArrayLike, after: npt.ArrayLike) -> np.bool_ | npt.NDArray[np.bool_]:
    """Return whether the loss decreased by less than the tolerance in a sweep."""
    return np.subtract(before, after) < TOLERANCE * np.abs(before)


@partial(jax.jit, static_argnums=(0, 1))
def _scan_sweeps(
    num_sweeps: int,
    mesh: Mesh | None,
    model: Model,
    item_factors: Array,
    clients: PackedClients,
    items: PackedClients,
):
    return jax.lax.scan(
        lambda item_factors, _: sweep(model, item_factors, clients, items, mesh=mesh),
        item_factors,
        length=num_sweeps,
    )
