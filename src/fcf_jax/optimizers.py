r"""Server steps for federated collaborative filtering; any other optax transformation works too.

The clients solve their factors exactly, so the server minimizes phi(Y) = min_X J(X, Y). Its Hessian for item
i is close to 2 (kappa_i S + lambda I) with S = \sum_u x_u x_u^T (`user_gram`) and kappa_i the mean confidence
in item i, raised slightly for safety. Preconditioning the gradient with it makes a round worth about one
sweep of centralised ALS.

`server_update` passes the model, the number of users and the clients' sums to each step as extra arguments,
so that no step needs a lambda of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.curvature import (
    Curvature,
    InverseProducts,
    curvature_of,
    inverse_products,
    precondition,
)
from fcf_jax.core.linalg import matmul, safe_sqrt, solve_definite
from fcf_jax.core.placement import Sharing
from fcf_jax.core.records import Model, Scalar

__all__ = ["gram_preconditioned", "guarded_gram", "paper_adam", "running_sums"]

_ANDERSON_RIDGE = 1e-5


class ServerPoint(NamedTuple):
    """Item factors, and the clients' sums at these factors.

    Attributes:
        item_factors: Y.
        gradient: dJ/dY.
        user_gram: S.
        mean_confidence: kappa_i without damping.
        value: loss.
    """

    item_factors: Float[Array, "items factors"]
    gradient: Float[Array, "items factors"]
    user_gram: Float[Array, "factors factors"]
    mean_confidence: Float[Array, "items"]
    value: Float[Array, ""]


class Memory(NamedTuple):
    """Changes from round to round, in rings: the latest overwrites the oldest.

    Attributes:
        point_changes: changes of Y.
        gradient_changes: changes of dJ/dY.
        count: number of changes since the memory was last cleared; the latest is at (count - 1) % memory.
    """

    point_changes: Float[Array, "memory items factors"]
    gradient_changes: Float[Array, "memory items factors"]
    count: Int[Array, ""]


class GuardedState(NamedTuple):
    """State of `guarded_gram`.

    Attributes:
        accepted: the last accepted point.
        predicted_decrease: predicted decrease of the loss by the step from there.
        damping: mu.
        memory: changes that the acceleration combines.
        is_first: True before the first round.
        was_accelerated: True if the last step used the memory.
    """

    accepted: ServerPoint
    predicted_decrease: Float[Array, ""]
    damping: Float[Array, ""]
    memory: Memory
    is_first: Bool[Array, ""]
    was_accelerated: Bool[Array, ""]


class RunningSumsState(NamedTuple):
    """Moving averages that estimate the sums over all users at the current Y.

    Attributes:
        round_index: number of rounds done.
        seen: average of F + w0 Y S, the part from observed items.
        user_gram: average of S.
        confidence_sum: average of the confidence sums, with the same weights.
        mean_confidence_sum: mean of the confidence sums over all rounds, as they do not depend on Y.
    """

    round_index: Int[Array, ""]
    seen: Float[Array, "items factors"]
    user_gram: Float[Array, "factors factors"]
    confidence_sum: Float[Array, "items"]
    mean_confidence_sum: Float[Array, "items"]


def paper_adam(
    learning_rate: optax.ScalarOrSchedule, *, b1: Scalar = 0.9, b2: Scalar = 0.99, eps: Scalar = 1e-8
) -> optax.GradientTransformation:
    """Build Adam with the bias correction as printed in the paper: m / (1 - b1), v / (1 - b2) in every round.

    `optax.adam` is Adam by Kingma & Ba, with 1 - b1^t and 1 - b2^t.

    Args:
        learning_rate: gamma, a number or a schedule of the round index.
        b1: decay of the mean gradient m, in [0, 1).
        b2: decay of the mean squared gradient v, in [0, 1).
        eps: number added to the denominator, above 0.

    References:
        arXiv:1901.09888, the server's update of the item factors.
    """

    def init(item_factors: Array) -> optax.ScaleByAdamState:
        zeros = jnp.zeros_like(item_factors)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros, nu=zeros)

    def update(gradient, state, params=None, **unused):
        first = b1 * state.mu + (1 - b1) * gradient
        second = b2 * state.nu + (1 - b2) * gradient**2
        step = (first / (1 - b1)) / (safe_sqrt(second / (1 - b2)) + eps)
        return step, optax.ScaleByAdamState(count=state.count + 1, mu=first, nu=second)

    return optax.chain(_transformation(init, update), optax.scale_by_learning_rate(learning_rate))


def gram_preconditioned(
    learning_rate: Scalar = 1.0, *, confidence_factor: Scalar = 3.0
) -> optax.GradientTransformationExtraArgs:
    """Build the step -eta dJ/dY (2 (kappa_i S + lambda I))^-1 with kappa_i = w0 + k confidence_sum_i / N.

    For rounds of all clients. It can diverge on some data; `guarded_gram` guards against that.

    Args:
        learning_rate: eta.
        confidence_factor: k; 1 can diverge slowly, 2 to 3 suits MovieLens.
    """

    def update(gradient, state, params=None, *, model, num_users, user_gram, confidence_sum, **unused):
        mean_confidence = _mean_confidence(model, confidence_factor, confidence_sum / num_users)
        step = precondition(gradient, curvature_of(model, user_gram, mean_confidence))
        return -learning_rate * step, state

    return _transformation(lambda item_factors: optax.EmptyState(), update)


def guarded_gram(
    *, confidence_factor: Scalar = 1.0, initial_damping: Scalar = 2.0, memory: int = 5
) -> optax.GradientTransformationExtraArgs:
    """Build the Gram-preconditioned step, damped (Levenberg-Marquardt) and Anderson-accelerated.

    The clients' summed loss shows, one round later, what a step gained. If the loss rose, the server returns
    to the last accepted Y and clears the memory; the rejected step still costs its round. With kappa_i =
    mu (w0 + k confidence_sum_i / N), the ratio gained / predicted adapts mu: below 0 it is multiplied by 4,
    below 0.3 by 2, and above 0.7 divided by 1.2; not after accelerated steps. For rounds of all clients: the
    loss of a small cohort is too noisy to decide on.

    Args:
        confidence_factor: k.
        initial_damping: mu in the first round, above 0.
        memory: past rounds that the acceleration combines, two copies of Y each; 0: the damped step alone.

    References:
        Levenberg-Marquardt as in Nocedal & Wright 2006, chapter 10; Anderson acceleration as in
        Walker & Ni, SIAM J. Numer. Anal. 49 (2011).
    """

    def init(item_factors: Array) -> GuardedState:
        return _first_guarded_state(memory, item_factors, initial_damping)

    def update(
        gradient, state, params, *, model, num_users, user_gram, confidence_sum, value, sharing=None, **unused
    ):
        mean_confidence = _mean_confidence(model, confidence_factor, confidence_sum / num_users)
        current = ServerPoint(params, gradient, user_gram, mean_confidence, value)
        accepted, damping, is_rejected = _judge(state, current)
        curvature = curvature_of(model, accepted.user_gram, damping * accepted.mean_confidence)
        restarts = is_rejected | state.is_first
        remembered = _remember(state.memory, state.accepted, accepted, restarts)
        step, predicted_decrease = _accelerated_step(remembered, accepted.gradient, curvature, sharing)
        return accepted.item_factors + step - params, GuardedState(
            accepted=accepted,
            predicted_decrease=predicted_decrease,
            damping=damping,
            memory=remembered,
            is_first=jnp.array(False),
            was_accelerated=~restarts & (memory > 0),
        )

    return _transformation(init, update)


def running_sums(
    learning_rate: optax.ScalarOrSchedule = 0.5,
    *,
    confidence_factor: Scalar = 3.0,
    averaging: Callable[[Array], Array] = lambda round_index: (round_index + 1.0) ** -0.8,
) -> optax.GradientTransformationExtraArgs:
    """Build the Gram-preconditioned step for small cohorts, on moving averages of the clients' sums.

    The part of the gradient from unobserved items, -w0 Y S, is evaluated at the current Y with the averaged
    S; the part from observed items is averaged over rounds (stochastic approximation ALS). The latter is
    divided by the averaged confidence in the item (a ratio estimator), so that it does not depend on how
    many of the item's users took part recently.

    Args:
        learning_rate: eta, a number or a schedule of the round index.
        confidence_factor: k in kappa_i = w0 + k confidence_sum_i / N; with 0, no confidences are used.
        averaging: round index t -> weight of the round in the averages, 1 at t = 0 and decreasing.

    References:
        Cappe & Moulines, J. R. Stat. Soc. B 71 (2009), online EM: the same averages of statistics.
    """

    def init(item_factors: Array) -> RunningSumsState:
        (num_items, num_factors), dtype = item_factors.shape, item_factors.dtype
        return RunningSumsState(
            round_index=jnp.zeros((), jnp.int32),
            seen=jnp.zeros_like(item_factors),
            user_gram=jnp.zeros((num_factors, num_factors), dtype),
            confidence_sum=jnp.zeros(num_items, dtype),
            mean_confidence_sum=jnp.zeros(num_items, dtype),
        )

    def update(
        gradient, state, params, *, model, num_users, user_gram, confidence_sum, item_prior=None, **unused
    ):
        shrunk = params if item_prior is None else params - item_prior
        w0, shrinkage = model.unobserved_weight, model.regularization * shrunk
        seen = shrinkage - 0.5 * gradient + w0 * matmul(params, user_gram)
        time = state.round_index.astype(params.dtype)

        def average(old: Array, new: Array, weight: Array) -> Array:
            return (1 - weight) * old + weight * new

        weight = averaging(time)
        state = RunningSumsState(
            round_index=state.round_index + 1,
            seen=average(state.seen, seen, weight),
            user_gram=average(state.user_gram, user_gram, weight),
            confidence_sum=average(state.confidence_sum, confidence_sum, weight),
            mean_confidence_sum=average(state.mean_confidence_sum, confidence_sum, 1 / (time + 1)),
        )
        is_seen = (state.confidence_sum > 0) & (jnp.asarray(confidence_factor) != 0)
        share = state.mean_confidence_sum / jnp.where(is_seen, state.confidence_sum, 1.0)
        all_seen = state.seen * jnp.where(is_seen, share, 1.0)[:, None]
        unobserved = w0 * matmul(params, state.user_gram)
        averaged = -2.0 * (all_seen - unobserved) + 2.0 * shrinkage
        mean_confidence = _mean_confidence(model, confidence_factor, state.mean_confidence_sum / num_users)
        step = precondition(averaged, curvature_of(model, state.user_gram, mean_confidence))
        rate = learning_rate(state.round_index - 1) if callable(learning_rate) else learning_rate
        return -1.0 * rate * step, state

    return _transformation(init, update)


def _transformation(
    init: Callable[..., Any], update: Callable[..., Any]
) -> optax.GradientTransformationExtraArgs:
    """Build an optax transformation of one array, whose types are narrower than optax's for pytrees."""
    return optax.GradientTransformationExtraArgs(init, update)


@partial(jax.jit, static_argnums=0)  # one program in place of many
def _first_guarded_state(
    memory: int, item_factors: Float[Array, "items factors"], damping: Scalar
) -> GuardedState:
    (num_items, num_factors), dtype = item_factors.shape, item_factors.dtype
    start = ServerPoint(
        item_factors=item_factors,
        gradient=jnp.zeros_like(item_factors),
        user_gram=jnp.eye(num_factors, dtype=dtype),
        mean_confidence=jnp.ones(num_items, dtype),
        value=jnp.zeros((), dtype),
    )
    past = jnp.zeros((memory, num_items, num_factors), dtype)
    return GuardedState(
        accepted=start,
        predicted_decrease=jnp.zeros((), dtype),
        damping=jnp.asarray(damping, dtype),
        memory=Memory(past, past, jnp.zeros((), jnp.int32)),
        is_first=jnp.array(True),
        was_accelerated=jnp.array(False),
    )


def _judge(state: GuardedState, current: ServerPoint) -> tuple[ServerPoint, Array, Array]:
    """Decide between the last accepted point and the current one, and adapt the damping."""
    gained = state.accepted.value - current.value
    rounding = 32 * jnp.finfo(current.value.dtype).eps * jnp.abs(state.accepted.value)
    ratio = gained / jnp.maximum(state.predicted_decrease, rounding)
    is_rejected = ~state.is_first & ~(gained >= -rounding)  # in this form, nan is rejected too
    changes = [jnp.asarray(change, state.damping.dtype) for change in (4.0, 2.0, 1 / 1.2, 1.0)]
    change = jnp.select([is_rejected, ratio < 0.3, ratio > 0.7], changes[:3], changes[3])
    is_telling = ~state.is_first & ~state.was_accelerated & ~(jnp.abs(gained) <= rounding)
    damping = jnp.where(is_telling, state.damping * change, state.damping)
    return optax.tree.where(is_rejected, state.accepted, current), damping, is_rejected


def _remember(memory: Memory, last: ServerPoint, current: ServerPoint, restarts: Array) -> Memory:
    """Add the changes of item factors and gradient since the last round; a restart clears the memory."""
    count, size = jnp.where(restarts, 0, memory.count + 1), memory.point_changes.shape[0]
    if size == 0:
        return memory

    def push(change: Array, past: Array) -> Array:
        latest = jnp.maximum(count - 1, 0) % size
        return past.at[latest].set(jnp.where(restarts, 0.0, change))

    return Memory(
        point_changes=push(current.item_factors - last.item_factors, memory.point_changes),
        gradient_changes=push(current.gradient - last.gradient, memory.gradient_changes),
        count=count,
    )


def _accelerated_step(
    memory: Memory,
    gradient: Float[Array, "items factors"],
    curvature: Curvature,
    sharing: Sharing | None,
) -> tuple[Float[Array, "items factors"], Float[Array, ""]]:
    """Combine past changes with the preconditioned step, and predict what that step alone gains."""
    products = inverse_products(memory.gradient_changes, gradient, curvature, sharing)
    size = memory.point_changes.shape[0]
    weights = _anderson_weights(memory.count, products) if size else products.mixed

    def combined(changes: Array) -> Array:
        terms = [jnp.where(weights[one] == 0, 0.0, weights[one] * changes[one]) for one in range(size)]
        return sum(terms, start=jnp.zeros_like(gradient))

    remaining = precondition(gradient - combined(memory.gradient_changes), curvature)
    return -remaining - combined(memory.point_changes), 0.5 * products.gradient


def _anderson_weights(count: Int[Array, ""], products: InverseProducts) -> Float[Array, "memory"]:
    """Weigh past changes so that the remaining step is shortest in the metric of the curvature."""
    (size,) = products.mixed.shape
    ages = jnp.arange(size, dtype=count.dtype)
    latest_first, is_filled = (count - 1 - ages) % size, ages < count
    normal = products.changes[latest_first[:, None], latest_first]
    normal = jnp.where(is_filled[:, None] & is_filled, normal, 0.0)
    target = jnp.where(is_filled, products.mixed[latest_first], 0.0)
    ridge = jnp.diag(_ANDERSON_RIDGE * jnp.diagonal(normal))  # past changes are nearly parallel
    return jnp.zeros_like(target).at[latest_first].set(solve_definite(normal + ridge, target))


def _mean_confidence(model: Model, confidence_factor: Scalar, mean_extra: Array) -> Float[Array, "items"]:
    """Compute kappa_i = w0 + k (mean of c - w0); with k = 0 clients need not send their confidences."""
    extra = jnp.where(jnp.asarray(confidence_factor) == 0, 0.0, confidence_factor * mean_extra)
    return model.unobserved_weight + extra
