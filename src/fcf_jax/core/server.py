"""The server's side of a round: its state, and the step from the sums of a cohort."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from fcf_jax.core.biases import Biases, with_biases, without_constant
from fcf_jax.core.checks import require
from fcf_jax.core.features import first_feature_state, item_prior, map_penalty, next_feature_state
from fcf_jax.core.linalg import safe_sqrt
from fcf_jax.core.objective import total_loss
from fcf_jax.core.placement import Sharing, state_shardings
from fcf_jax.core.precision import cast, cast_like, precision_of
from fcf_jax.core.records import CohortSum, FeatureState, Key, Model, RoundInfo, Scalar, ServerState


def server_init(
    item_factors: Float[Array, "items factors"],
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    num_user_features: int = 0,
) -> ServerState:
    """Return the first state, with these item factors, a new optimizer state and, for features, A = 0.

    All its arrays are distinct, so that it can be donated.

    Args:
        item_factors: Y.
        optimizer: any optax transformation.
        mesh: devices of the state; each makes its own part. None: one device.
        num_user_features: length of f_u; 0: users have no features.

    Raises:
        ValueError: for no optax transformation, or a negative number.
    """
    require(optimizer=optimizer, num_user_features=num_user_features)

    def first_state(item_factors: Array) -> ServerState:
        optimizer_state = optimizer.init(cast(item_factors, precision_of(item_factors)))
        features = first_feature_state(num_user_features, item_factors) if num_user_features else None
        return ServerState(item_factors, optimizer_state, jnp.zeros((), jnp.int32), features=features)

    if mesh is not None:
        shardings = state_shardings(jax.eval_shape(first_state, item_factors), mesh)
        first_state = jax.jit(first_state, out_shardings=shardings)
    known: set[int] = set()

    def distinct(leaf: Any) -> Any:
        is_new = id(leaf) not in known
        known.add(id(leaf))
        return leaf if is_new else jnp.copy(leaf)

    return jax.tree.map(distinct, first_state(item_factors))


def server_update(
    model: Model,
    state: ServerState,
    sums: CohortSum,
    optimizer: optax.GradientTransformation,
    *,
    num_users: int,
    sharing: Sharing | None = None,
    item_features: Float[Array, "items features"] | None = None,
) -> tuple[ServerState, RoundInfo]:
    """Update the item factors with the gradient that the cohort's sums estimate.

    The sums over Theta clients are scaled by N / Theta to estimate those over all N users; the lambda term is
    added once and not scaled. A round without clients changes only the round index.

    Args:
        model: gives lambda; with an exponent or biases, the result of `core.objective.for_items`.
        state: state before the round.
        sums: sums over the cohort.
        optimizer: any optax transformation; as extra arguments it gets `model`, `num_users`, `sharing`,
            `item_prior` (the means B^T g_i, or None) and, scaled by N / Theta, `user_gram`, `confidence_sum`
            and `value` (the loss).
        num_users: N, at least the number of clients in the sums.
        sharing: devices that share the step, from `core.placement.sharing_of`; None: one device.
        item_features: g_i of each item; None: items have no features.

    Returns:
        The next state, and the info of the round without `solve_error` and `client_ids`.

    References:
        arXiv:1901.09888, Algorithm 1, the server's update.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    precision = precision_of(state.item_factors)
    model, sums, item_factors = cast((model, sums, state.item_factors), precision)
    scale = num_users / jnp.maximum(sums.num_clients, 1).astype(item_factors.dtype)
    prior = None if item_features is None else item_prior(model, item_factors, item_features)
    shrunk = item_factors if prior is None else item_factors - prior.means
    gradient = -2.0 * scale * sums.upload + 2.0 * model.regularization * shrunk
    gradient = without_constant(gradient, model.biases)
    loss = total_loss(model, shrunk, scale * sums.loss)
    if prior is not None:
        loss = loss + map_penalty(model, prior.item_map)
    if state.features is not None:
        loss = loss + map_penalty(model, state.features.user_map)
    extra = {
        "model": model,
        "num_users": num_users,
        "sharing": sharing,
        "item_prior": None if prior is None else prior.means,
        "user_gram": scale * _of_learned(sums.user_gram, model),
        "confidence_sum": scale * sums.confidence_sum,
        "value": loss,
    }

    def take_step(before: Any) -> Any:
        updates, after = _update(optimizer, gradient, before[1], item_factors, **extra)
        updates = without_constant(updates, model.biases)
        features = _next_features(model, before[2], sums, num_users, state.round_index)
        return cast_like((optax.apply_updates(item_factors, updates), after, features), before)

    before = state.item_factors, state.optimizer_state, state.features
    after = _step_if(sums.num_clients > 0, jax.jit(take_step), before)
    info = RoundInfo(
        loss=loss,
        gradient_norm=safe_sqrt(jnp.sum(gradient**2)),
        solve_error=jnp.zeros((), precision),
        num_clients=sums.num_clients,
        num_clipped=sums.num_clipped,
        num_clipped_entries=jnp.asarray(sums.num_clipped_entries),
        client_ids=jnp.zeros(0, jnp.int32),
    )
    next_round = state.round_index + 1
    item_factors, optimizer_state, features = after
    return ServerState(item_factors, optimizer_state, next_round, state.channel_state, features), info


def _next_features(
    model: Model, state: FeatureState | None, sums: CohortSum, num_users: int, round_index: Array
) -> FeatureState | None:
    """Compute A from the cohorts' sums, averaged over about the rounds in which all users take part once."""
    if state is None or sums.features is None:
        return state
    share = sums.num_clients.astype(state.user_map.dtype) / num_users
    scaled = jax.tree.map(lambda total: total / share, sums.features)
    return next_feature_state(model, state, scaled, jnp.maximum(share, 1.0 / (round_index + 1)))


def _of_learned(user_gram: Float[Array, "factors factors"], model: Model) -> Array:
    """Leave the constant coordinate of items, which is not learned, out of their Hessians."""
    return without_constant(without_constant(user_gram, model.biases).T, model.biases)


def _step_if(has_clients: Array, take_step: Callable, before: Any) -> Any:
    """Take the step if there are clients; on a GPU, a branch would make the host wait for their sums."""

    def branch(has_clients: Array, before: Any) -> Any:
        return jax.lax.cond(has_clients, take_step, lambda before: before, before)

    def select(has_clients: Array, before: Any) -> Any:
        return optax.tree.where(has_clients, take_step(before), before)

    return jax.lax.platform_dependent(has_clients, before, cuda=select, default=branch)


def _update(optimizer: optax.GradientTransformationExtraArgs, *arguments: Any, **extra: Any) -> tuple:
    try:
        return optimizer.update(*arguments, **extra)
    except TypeError as error:
        if "required keyword-only argument" not in str(error):
            raise
        raise ValueError(
            f"expected an optimizer that a round can serve, got one that asks for more: {error}; "
            "a line search needs the loss at other points: switch it off, such as by linesearch=None"
        ) from error


def draw_item_factors(
    key: Key, *, num_items: int, num_factors: int, init_scale: Scalar = 0.1, biases: Biases | None = None
) -> Float[Array, "items columns"]:
    """Draw the first item factors from N(0, init_scale^2); biases begin at 0.

    `fit_als` and `federation.init` draw the same factors from the same key.
    """
    key = jax.random.clone(key)  # may be drawn again: JAX's check of reused keys need not object
    return with_biases(init_scale * jax.random.normal(key, (num_items, num_factors)), biases)
