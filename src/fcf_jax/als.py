"""Centralised alternating least squares, the yardstick: it sees all data and solves both sides.

    als = centralized_als(implicit_feedback(alpha=4.0), num_items=..., num_factors=25, ...)
    state = als.init(key)
    state, info = als.sweep(state, clients, items)

References:
    Hu, Koren & Volinsky, ICDM 2008.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.records import Key, PackedClients, Scalar, Weighting
from fcf_jax.core.server import draw_item_factors
from fcf_jax.core.weighting import as_pytree


class AlsInfo(NamedTuple):
    """What one would like to see of a sweep; under `fit_als` with a leading axis of sweeps."""

    loss: Float[Array, "*sweeps"]  # min_X J(X, Y) at the Y that the sweep began with


class Factors(NamedTuple):
    """Both sides of the model."""

    user_factors: Float[Array, "users factors"]  # solved against the item factors before the last half sweep
    item_factors: Float[Array, "items factors"]


class Als(NamedTuple):
    """Alternating least squares as pure functions; a sweep needs nothing but the item factors."""

    init: Callable[[Key], Float[Array, "items factors"]]
    sweep: Callable[..., tuple[Factors, AlsInfo]]  # (item_factors, clients, items)


def centralized_als(
    weighting: Weighting,
    *,
    num_items: int,
    num_factors: int,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    init_scale: Scalar = 0.1,
    mesh: Mesh | None = None,
) -> Als:
    """Set up centralised ALS on the same model as `federated_cf`.

    Args:
        weighting: how strengths become confidence and preference.
        num_items: M.
        num_factors: K.
        regularization: lambda, at least 0.
        unobserved_weight: w0, the confidence of items outside a history.
        init_scale: standard deviation of the first item factors.
        mesh: devices to share a sweep's work; place clients and items there too.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight, "mesh": mesh}

    def init(key: Key) -> Float[Array, "items factors"]:
        return draw_item_factors(key, num_items=num_items, num_factors=num_factors, init_scale=init_scale)

    def sweep(
        item_factors: Float[Array, "items factors"], clients: PackedClients, items: PackedClients
    ) -> tuple[Factors, AlsInfo]:
        user_factors, loss = solve_clients(item_factors, clients, weighting, **weights)
        loss = loss + regularization * jnp.sum(item_factors**2)
        next_item_factors, _ = solve_clients(user_factors, items, weighting, **weights)
        return Factors(user_factors, next_item_factors), AlsInfo(loss)

    return Als(init, sweep)


def fit_als(
    key: Key,
    clients: PackedClients,
    items: PackedClients,
    weighting: Weighting,
    *,
    num_factors: int,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    init_scale: Scalar = 0.1,
    num_sweeps: int,
) -> tuple[Factors, AlsInfo]:
    """Factorise the interactions with `num_sweeps` sweeps of ALS.

    Args:
        clients: the histories of the users, packed.
        items: the same interactions seen from the items (`batch_items`).

    Returns:
        The factors, and the loss before each sweep.
    """
    hyperparameters = (regularization, unobserved_weight, init_scale)
    return _fit_als(num_factors, num_sweeps, key, clients, items, as_pytree(weighting), hyperparameters)


@partial(jax.jit, static_argnums=(0, 1))
def _fit_als(num_factors: int, num_sweeps: int, key: Key, clients, items, weighting, hyperparameters):
    regularization, unobserved_weight, init_scale = hyperparameters
    als = centralized_als(
        weighting,
        num_items=items.row_counts.shape[0],
        num_factors=num_factors,
        regularization=regularization,
        unobserved_weight=unobserved_weight,
        init_scale=init_scale,
    )
    return run_sweeps(als, als.init(key), clients, items, num_sweeps=num_sweeps)


def run_sweeps(
    als: Als,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    items: PackedClients,
    *,
    num_sweeps: int,
) -> tuple[Factors, AlsInfo]:
    """Run sweeps in one compiled program, starting from these item factors."""
    return _scan_sweeps(als.sweep, num_sweeps, item_factors, clients, items)


@partial(jax.jit, static_argnums=(0, 1))
def _scan_sweeps(sweep: Callable, num_sweeps: int, item_factors: Array, clients, items):
    num_users, num_factors = clients.row_counts.shape[0], item_factors.shape[1]
    start = Factors(jnp.zeros((num_users, num_factors), item_factors.dtype), item_factors)
    return jax.lax.scan(
        lambda factors, _: sweep(factors.item_factors, clients, items), start, length=num_sweeps
    )
