"""One client's round: receive Y, solve the own factor, tell what is sent.

A simulation and a real deployment run these same functions.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.objective import all_residuals, catalogue_loss, history_loss, residuals
from fcf_jax.core.records import ClientInfo, ClientUpdate, Observations, Scalar, SentNorms
from fcf_jax.core.solve import RowSums, Solution, one_client, solve_history

_ROUNDED_UP = 1 + 1e-5  # so that float32 never understates a norm, for up to a million interactions
_CANCELS, _ROUNDS = 4e-6, 1e-6  # relative errors, likewise, where a difference is much less than its terms


class RankOneUpload(NamedTuple):
    """A dense upload in its smallest form, f(u, .) = e x^T: the same information in M + K numbers."""

    residuals: Float[Array, "items"]
    user_factor: Float[Array, "factors"]


def client_update(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> tuple[ClientUpdate, ClientInfo]:
    """Solve the user's factor and the residuals of its own items: one client's work of a round.

    Args:
        item_factors: Y as received from the server.
        item_gram: Y^T Y; every client could compute it, the server may send it.
        observations: the client's weighted history.
        regularization: lambda, at least 0.
        unobserved_weight: w0, the confidence of the items that are not in the history.

    References:
        arXiv:1901.09888, Algorithm 1, the function run by each client.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    solution = solve_history(item_factors, item_gram, observations, **weights)
    info = describe(solution, item_gram, rows, one_client(), **weights)
    return ClientUpdate(solution.user_factors, residuals(solution.scores[0], observations)), info


def describe(
    solution: Solution,
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    row_sums: RowSums,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> ClientInfo:
    """Compute each client's loss, and how exactly it was solved."""

    def seen(scores: Array, row: Observations) -> Array:
        return history_loss(scores, row, unobserved_weight=unobserved_weight)

    def unseen(user_factor: Array) -> Array:
        return catalogue_loss(
            item_gram, user_factor, regularization=regularization, unobserved_weight=unobserved_weight
        )

    loss = row_sums.total(jax.vmap(seen)(solution.scores, observations))
    loss = loss + jnp.vectorize(unseen, signature="(k)->()")(solution.user_factors)
    return ClientInfo(loss=loss, solve_error=solution.error)


def sent_norms(
    solution: Solution,
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    row_sums: RowSums,
    loss: Float[Array, "*clients"],
    *,
    unobserved_weight: Scalar = 1.0,
    item_weights: Float[Array, "items"] | None = None,
) -> SentNorms:
    r"""Compute the norm of everything that each client sends, without building any of it.

        |W e x^T| = |x| \sqrt{ w0^2 (x^T G x - \sum_{i in I_u} w_i^2 s_i^2) + \sum_{i in I_u} w_i^2 e_i^2 }

    since the items outside a history have e_i = -w0 s_i; and |x x^T| = |x|^2. What float32 may have
    lost to cancellation is added.

    Args:
        item_gram: G = Y^T W^2 Y.
        item_weights: w_i, by which the rows of items count; None: 1.
    """
    factors = solution.user_factors
    squared_scores = jnp.sum(jnp.matmul(factors, item_gram, precision="highest") * factors, axis=-1)

    importance = 1.0 if item_weights is None else item_weights[observations.item_ids] ** 2

    def of_history(values: Array) -> Array:
        return row_sums.total(jnp.sum(jnp.where(observations.mask, importance * values, 0.0), axis=-1))

    unseen = jnp.maximum(squared_scores - of_history(solution.scores**2), 0.0) + _CANCELS * squared_scores
    seen = of_history(residuals(solution.scores, observations) ** 2)
    minuends = observations.confidence * (jnp.abs(observations.preference) + jnp.abs(solution.scores))
    rounding = _ROUNDS * jnp.sqrt(of_history(minuends**2))  # of c (p - s), however small it is
    residual_norm = jnp.sqrt(unobserved_weight**2 * unseen + seen) + rounding
    squared_length = jnp.sum(factors**2, axis=-1)
    confidence = of_history((observations.confidence - unobserved_weight) ** 2)
    return SentNorms(
        upload=_ROUNDED_UP * jnp.sqrt(squared_length) * residual_norm,
        user_gram=_ROUNDED_UP * squared_length,
        confidence_sum=_ROUNDED_UP * jnp.sqrt(confidence),
        loss=_ROUNDED_UP * jnp.abs(loss),
    )


def rank_one_upload(
    item_factors: Float[Array, "items factors"],
    update: ClientUpdate,
    observations: Observations,
    *,
    unobserved_weight: Scalar = 1.0,
) -> RankOneUpload:
    """Give what the client sends as the pair (e, x).

    As revealing as the dense upload, and it cannot be summed before it reaches the server.
    """
    residual = all_residuals(
        item_factors, update.user_factor, observations, unobserved_weight=unobserved_weight
    )
    return RankOneUpload(residual, update.user_factor)


def dense_upload(
    item_factors: Float[Array, "items factors"],
    update: ClientUpdate,
    observations: Observations,
    *,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, "items factors"]:
    """Give what the client sends: f(u, i) = c_i (p_i - x.y_i) x for every item i.

    References:
        arXiv:1901.09888, the item gradient f(i, j).
    """
    upload = rank_one_upload(item_factors, update, observations, unobserved_weight=unobserved_weight)
    return upload.residuals[:, None] * upload.user_factor[None, :]
