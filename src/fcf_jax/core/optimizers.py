r"""Server steps of our own, as optax transformations; any other optax optimizer serves as well.

The clients solve their factors exactly, so the server minimises phi(Y) = min_X J(X, Y), whose
Hessian for item i is close to 2 (kappa_i S + lambda I) with S = \sum_u x_u x_u^T (`user_gram`)
and kappa_i the mean confidence in item i, raised a little for safety. Dividing the gradient by
it makes one federated round worth about one sweep of centralised ALS.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.types import Scalar


class CurvatureStep(NamedTuple):
    """What a Gram-preconditioned step is computed from."""

    item_factors: Float[Array, "items factors"]
    gradient: Float[Array, "items factors"]
    user_gram: Float[Array, "factors factors"]
    curvature: Float[Array, "items"]  # kappa_i before damping
    value: Float[Array, ""]


class GuardedState(NamedTuple):
    """The last accepted point, what was expected of the step taken there, and the damping."""

    accepted: CurvatureStep
    predicted_decrease: Float[Array, ""]
    damping: Float[Array, ""]
    is_first: Bool[Array, ""]


class RunningSumsState(NamedTuple):
    """Moving averages that estimate the sums over all users at the current Y."""

    round_index: Int[Array, ""]
    seen: Float[Array, "items factors"]  # of F + w0 Y S
    user_gram: Float[Array, "factors factors"]
    confidence_sum: Float[Array, "items"]


def paper_adam(
    learning_rate: optax.ScalarOrSchedule, *, b1: Scalar = 0.9, b2: Scalar = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam with the bias correction as the paper prints it: m / (1 - b1), v / (1 - b2) in every round.

    `optax.adam` is Adam as Kingma & Ba define it, with 1 - b1^t and 1 - b2^t.

    References:
        arXiv:1901.09888, the server's update of the item factors.
    """

    def init(item_factors: Array) -> optax.ScaleByAdamState:
        zeros = jnp.zeros_like(item_factors)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros, nu=zeros)

    def update(gradient: Array, state: optax.ScaleByAdamState, params: Array | None = None):
        del params
        first = b1 * state.mu + (1 - b1) * gradient
        second = b2 * state.nu + (1 - b2) * gradient**2
        step = (first / (1 - b1)) / (jnp.sqrt(second / (1 - b2)) + eps)
        return step, optax.ScaleByAdamState(count=state.count + 1, mu=first, nu=second)

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
    )


def gram_preconditioned(
    learning_rate: Scalar = 1.0,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    confidence_factor: Scalar = 3.0,
) -> optax.GradientTransformationExtraArgs:
    """Step by -eta dJ/dY (2 (kappa_i S + lambda I))^-1 with kappa_i = w0 + k confidence_sum_i / N.

    For everybody in every round. Not safe on all data: see `guarded_gram`.

    Args:
        learning_rate: eta.
        regularization: lambda of the model.
        unobserved_weight: w0 of the model.
        confidence_factor: k; 1 is too bold and can diverge slowly, 2 to 3 suits MovieLens.
    """

    def update(gradient, state, params=None, *, user_gram, confidence_sum, num_users, **unused):
        del params, unused
        curvature = unobserved_weight + confidence_factor * confidence_sum / num_users
        step = _precondition(gradient, user_gram, curvature, regularization)
        return -learning_rate * step, state

    return optax.GradientTransformationExtraArgs(lambda item_factors: optax.EmptyState(), update)


def guarded_gram(
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    confidence_factor: Scalar = 1.0,
    initial_damping: Scalar = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """The Gram-preconditioned step with Levenberg-Marquardt damping: kappa_i = mu (w0 + k confidence_sum_i / N).

    The clients' summed loss tells, one round later, what a step really gained. With rho = gained
    / predicted: rho < 0 goes back to the last Y with 4 mu, rho < .3 doubles mu, rho > .7 divides
    it by 1.2. A rejected step has cost its round. For everybody in every round: the loss of a
    small cohort is too noisy to guard with.

    Args:
        regularization: lambda of the model.
        unobserved_weight: w0 of the model.
        confidence_factor: k.
        initial_damping: mu in the first round.
    """

    def init(item_factors: Array) -> GuardedState:
        num_items, num_factors = item_factors.shape
        zero = jnp.zeros((), item_factors.dtype)
        nothing = CurvatureStep(
            item_factors=item_factors,
            gradient=jnp.zeros_like(item_factors),
            user_gram=jnp.eye(num_factors, dtype=item_factors.dtype),
            curvature=jnp.ones(num_items, item_factors.dtype),
            value=zero,
        )
        return GuardedState(nothing, zero, jnp.asarray(initial_damping, item_factors.dtype), jnp.array(True))

    def update(gradient, state, params, *, user_gram, confidence_sum, value, num_users, **unused):
        del unused
        curvature = unobserved_weight + confidence_factor * confidence_sum / num_users
        current = CurvatureStep(params, gradient, user_gram, curvature, value)
        accepted, damping = _judge(state, current)
        step = -_precondition(
            accepted.gradient, accepted.user_gram, damping * accepted.curvature, regularization
        )
        predicted = -0.5 * jnp.sum(accepted.gradient * step)
        return accepted.item_factors + step - params, GuardedState(
            accepted, predicted, damping, jnp.array(False)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def running_sums(
    learning_rate: optax.ScalarOrSchedule = 0.15,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    confidence_factor: Scalar = 3.0,
    averaging: Callable[[Array], Array] = lambda round_index: (round_index + 1.0) ** -0.7,
) -> optax.GradientTransformationExtraArgs:
    """The Gram-preconditioned step for small cohorts, on moving averages of the clients' sums.

    The part of the gradient that comes from unseen items, -w0 Y S, is then evaluated at the
    current Y without sampling noise, and the rest is averaged over rounds (stochastic
    approximation ALS).

    Args:
        learning_rate: eta, a number or a schedule of the round.
        regularization: lambda of the model.
        unobserved_weight: w0 of the model.
        confidence_factor: k in kappa_i = w0 + k confidence_sum_i / N.
        averaging: the weight of round t in the averages, 1 at t = 0 and falling.
    """

    def init(item_factors: Array) -> RunningSumsState:
        num_items, num_factors = item_factors.shape
        return RunningSumsState(
            round_index=jnp.zeros((), jnp.int32),
            seen=jnp.zeros_like(item_factors),
            user_gram=jnp.zeros((num_factors, num_factors), item_factors.dtype),
            confidence_sum=jnp.zeros(num_items, item_factors.dtype),
        )

    def update(gradient, state, params, *, user_gram, confidence_sum, num_users, **unused):
        del unused
        seen = regularization * params - 0.5 * gradient + unobserved_weight * _times(params, user_gram)
        weight = averaging(state.round_index.astype(params.dtype))

        def average(old: Array, new: Array) -> Array:
            return (1 - weight) * old + weight * new

        state = RunningSumsState(
            round_index=state.round_index + 1,
            seen=average(state.seen, seen),
            user_gram=average(state.user_gram, user_gram),
            confidence_sum=average(state.confidence_sum, confidence_sum),
        )
        unseen = unobserved_weight * _times(params, state.user_gram)
        averaged = -2.0 * (state.seen - unseen) + 2.0 * regularization * params
        curvature = unobserved_weight + confidence_factor * state.confidence_sum / num_users
        step = _precondition(averaged, state.user_gram, curvature, regularization)
        rate = learning_rate(state.round_index - 1) if callable(learning_rate) else learning_rate
        return -rate * step, state

    return optax.GradientTransformationExtraArgs(init, update)


def _judge(state: GuardedState, current: CurvatureStep) -> tuple[CurvatureStep, Array]:
    """Decide between the last accepted point and the current one, and adapt the damping."""
    gained = state.accepted.value - current.value
    rounding = 32 * jnp.finfo(current.value.dtype).eps * jnp.abs(state.accepted.value)
    ratio = gained / jnp.maximum(state.predicted_decrease, rounding)
    is_rejected = ~state.is_first & ~(gained >= -rounding)  # so written, NaN is rejected too
    change = jnp.select([is_rejected, ratio < 0.3, ratio > 0.7], [4.0, 2.0, 1 / 1.2], 1.0)
    is_readable = is_rejected | (~state.is_first & (jnp.abs(gained) > rounding))
    damping = jnp.where(is_readable, state.damping * change, state.damping)
    return optax.tree.where(is_rejected, state.accepted, current), damping


def _precondition(
    gradient: Float[Array, "items factors"],
    user_gram: Float[Array, "factors factors"],
    curvature: Float[Array, "items"],
    regularization: Scalar,
) -> Float[Array, "items factors"]:
    """Compute g_i (2 (kappa_i S + lambda I))^-1 for every item, from one eigendecomposition."""
    eigenvalues, basis = _eigh(user_gram)
    hessian = 2.0 * (curvature[:, None] * jnp.maximum(eigenvalues, 0.0)[None, :] + regularization)
    tiny = jnp.finfo(gradient.dtype).tiny
    return _times(_times(gradient, basis) / jnp.maximum(hessian, tiny), basis.T)


@jax.custom_batching.sequential_vmap  # one at a time: a batched LAPACK call can block for ever on a CPU
def _eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _times(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")
