r"""The server's side: one optax step on the shared item factors from the clients' sums.

dJ/dY = -2 (N / Theta) F + 2 lambda Y
"""

from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.records import CohortSum, Key, Scalar


class ServerState(NamedTuple):
    """What the next round needs."""

    item_factors: Float[Array, "items factors"]  # Y, the shared model
    optimizer_state: optax.OptState
    round_index: Int[Array, ""]
    mechanism_state: Any = ()  # of a privacy mechanism


class ServerInfo(NamedTuple):
    """What one would like to see of a server step."""

    loss: Float[Array, ""]  # estimate of min_X J(X, Y) at the Y before the step
    gradient_norm: Float[Array, ""]
    num_clients: Int[Array, ""] | Float[Array, ""]
    num_clipped: Int[Array, ""] | Float[Array, ""]
    num_clipped_entries: Any


def server_init(
    item_factors: Float[Array, "items factors"], optimizer: optax.GradientTransformation
) -> ServerState:
    """Begin with these item factors and a fresh optimizer."""
    return ServerState(item_factors, optimizer.init(item_factors), jnp.zeros((), jnp.int32))


def server_update(
    state: ServerState,
    sums: CohortSum,
    optimizer: optax.GradientTransformation,
    *,
    num_users: int,
    regularization: Scalar,
) -> tuple[ServerState, ServerInfo]:
    """Step on the item factors with the gradient that the cohort's sums estimate.

    The sums of Theta clients are scaled by N / Theta to stand for all N users; lambda is added
    once, here, and is not scaled. A round in which nobody took part leaves everything as it is,
    but for its count.

    Args:
        optimizer: any optax transformation; one that takes extra arguments is given
            `user_gram`, `confidence_sum`, `value` (the loss), scaled likewise, and `num_users`.
        num_users: N, at least the number of clients in the sums.
        regularization: lambda, at least 0.

    References:
        arXiv:1901.09888, Algorithm 1, the server's update.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    item_factors, optimizer_state = state.item_factors, state.optimizer_state
    scale = num_users / jnp.maximum(sums.num_clients, 1).astype(item_factors.dtype)
    gradient = -2.0 * scale * sums.upload + 2.0 * regularization * item_factors
    loss = scale * sums.loss + regularization * jnp.sum(item_factors**2)
    updates, next_optimizer_state = optimizer.update(
        gradient,
        optimizer_state,
        item_factors,
        user_gram=scale * sums.user_gram,
        confidence_sum=scale * sums.confidence_sum,
        value=loss,
        num_users=num_users,
    )
    somebody = sums.num_clients > 0
    stepped = (optax.apply_updates(item_factors, updates), next_optimizer_state)
    kept = (item_factors, optimizer_state)
    item_factors, optimizer_state = optax.tree.where(somebody, stepped, kept)
    counts = sums.num_clients, sums.num_clipped, sums.num_clipped_entries
    info = ServerInfo(loss, jnp.linalg.norm(gradient), *counts)
    next_round = {"round_index": state.round_index + 1}
    return state._replace(item_factors=item_factors, optimizer_state=optimizer_state, **next_round), info


def draw_item_factors(
    key: Key, *, num_items: int, num_factors: int, init_scale: Scalar = 0.1
) -> Float[Array, "items factors"]:
    """Draw the first item factors, normal with this standard deviation.

    `fit_als` and `federation.init` draw the same start from the same key.
    """
    return init_scale * jax.random.normal(key, (num_items, num_factors))
