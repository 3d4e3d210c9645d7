r"""The objective of one user: scores, residuals, loss and item gradient.

    J = \sum_u \sum_i c_ui (p_ui - x_u.y_i)^2 + lambda (\sum_u |x_u|^2 + \sum_i |y_i|^2)

The inner sum runs over ALL items: an item outside the history has p = 0 and confidence w0
(`unobserved_weight`). A user's item set is small, so every function walks the history only
and takes the other items from the Gram matrix G = Y^T Y.
"""

from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.records import Observations, Scalar


def gram(factors: Float[Array, "rows factors"]) -> Float[Array, "factors factors"]:
    """Compute G = Y^T Y."""
    return jnp.matmul(factors.T, factors, precision="highest")


def scores(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
) -> Float[Array, "slots"]:
    """Predict s_i = x.y_i for the user's own items."""
    return jnp.matmul(item_factors[observations.item_ids], user_factor, precision="highest")


def residuals(scores: Float[Array, "*rows slots"], observations: Observations) -> Float[Array, "*rows slots"]:
    """Compute e_i = c_i (p_i - s_i) on a user's own items, 0 in empty slots."""
    return jnp.where(observations.mask, observations.confidence * (observations.preference - scores), 0.0)


def sparse_residuals(
    scores: Float[Array, "*rows slots"], observations: Observations, *, unobserved_weight: Scalar = 1.0
) -> Float[Array, "*rows slots"]:
    """Compute e_i + w0 s_i = c_i p_i - (c_i - w0) s_i, 0 in empty slots.

    What an item's residual has beyond -w0 s_i, the residual that it would have unseen.
    """
    extra = observations.confidence - unobserved_weight  # the Gram counts every item with w0 already
    return jnp.where(
        observations.mask, observations.confidence * observations.preference - extra * scores, 0.0
    )


def history_loss(
    scores: Float[Array, "slots"], observations: Observations, *, unobserved_weight: Scalar = 1.0
) -> Float[Array, ""]:
    """Sum c_i (p_i - s_i)^2 - w0 s_i^2 over the user's own items: the loss beyond w0 x^T G x."""
    observed = observations.confidence * (observations.preference - scores) ** 2
    return jnp.sum(jnp.where(observations.mask, observed - unobserved_weight * scores**2, 0.0))


def catalogue_loss(
    item_gram: Float[Array, "factors factors"],
    user_factor: Float[Array, "factors"],
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, ""]:
    """Compute w0 x^T G x + lambda |x|^2: the loss of a user as if every item were unseen."""
    unseen = jnp.dot(
        user_factor, jnp.matmul(item_gram, user_factor, precision="highest"), precision="highest"
    )
    return unobserved_weight * unseen + regularization * jnp.sum(user_factor**2)


def loss(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, ""]:
    """Compute one user's share of J over all items, lambda |x|^2 included, lambda |Y|^2 not.

    Args:
        regularization: lambda, at least 0.
        unobserved_weight: w0, the confidence of the items that are not in the history.

    References:
        arXiv:1901.09888, equation of the cost function; Hu et al. 2008, equation 3.
    """
    user_scores = scores(item_factors, user_factor, observations)
    return history_loss(user_scores, observations, unobserved_weight=unobserved_weight) + catalogue_loss(
        gram(item_factors), user_factor, regularization=regularization, unobserved_weight=unobserved_weight
    )


def all_residuals(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
    *,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, "items"]:
    """Compute c_i (p_i - x.y_i) for every item: what a device sends about each of them."""
    catalogue_scores = jnp.matmul(item_factors, user_factor, precision="highest")
    own_scores = catalogue_scores[observations.item_ids]
    extra = sparse_residuals(own_scores, observations, unobserved_weight=unobserved_weight)
    return (-unobserved_weight * catalogue_scores).at[observations.item_ids].add(extra)


def item_gradient(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observations: Observations,
    *,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, "items factors"]:
    """Compute one user's share of dJ/dY: -2 c_i (p_i - x.y_i) x for every item, without lambda.

    Summed over all users, with 2 lambda Y added once, this is the full gradient.

    References:
        arXiv:1901.09888, the item gradient f(i, j) of Algorithm 1, times -2.
    """
    residual = all_residuals(item_factors, user_factor, observations, unobserved_weight=unobserved_weight)
    return -2.0 * residual[:, None] * user_factor[None, :]
