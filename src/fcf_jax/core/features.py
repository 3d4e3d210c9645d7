r"""Side features: linear priors on the factors of users and items, and factors for those without a history.

    J = \sum_ui c (p - x.y)^2 + \sum_u lambda_u |x_u - A^T f_u|^2 + \sum_i lambda_i |y_i - B^T g_i|^2
        + lambda_F (|A|^2 + |B|^2)

f_u are the features of user u, g_i those of item i, and lambda_F is `Model.feature_regularization`. A client
knows its own f_u and receives A. It solves its factor with the prior mean A^T f_u and sends, beside the rest,
lambda_u f_u f_u^T and lambda_u f_u x_u^T, from whose sums the server computes A. B needs no client:

    A = (\sum_u lambda_u f_u f_u^T + lambda_F I)^-1 \sum_u lambda_u f_u x_u^T
    B = (G^T L G + lambda_F I)^-1 G^T L Y,   L = diag(lambda_i)

ALS with the same priors has the same fixed points. A new user or item needs its features alone:

    clients = pack_clients(train, features=user_features)                   # f_u of each user
    federation = federated_cf(
        model, guarded_gram(), num_items=..., num_factors=25,
        item_features=item_features, num_user_features=user_features.shape[1],
    )
    state, _ = run_rounds(federation, key, federation.init(key), clients, num_rounds=30)
    new_user = prior_factors(features_of_user, state.features.user_map)
    new_item = prior_factors(features_of_item, fit_map(model, state.item_factors, item_features))

What a single client sends for A reveals its features. No link of the channel protects these two sums, so
user features are refused together with a channel. Item features are not: they come from no client.

References:
    Agarwal & Chen, KDD 2009, "Regression-based latent factor models": priors that are linear in features.
"""

from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.biases import Biases, with_constant, without_constant
from fcf_jax.core.feature_records import FeatureState, FeatureSums, FeatureUploads
from fcf_jax.core.linalg import add_ridge, matmul, solve_definite
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Model, Scalar

__all__ = ["fit_map", "prior_factors", "replace_cold_items", "seen_features"]


class ItemPrior(NamedTuple):
    """The prior of the item factors at the best B for these factors.

    Attributes:
        item_map: B.
        means: B^T g_i of each item.
    """

    item_map: Float[Array, "features factors"]
    means: Float[Array, "items factors"]


def prior_factors(
    features: Float[Array | np.ndarray, "*batch features"],
    feature_map: Float[Array | np.ndarray, "features factors"],
    biases: Biases | None = None,
) -> Float[Array, "*batch factors"]:
    """Compute A^T f or B^T g: the factors of users or items by their features alone.

    Args:
        features: features of one user or item, or of many.
        feature_map: A for users, from the server's state or ALS's info; B for items, from `fit_map`.
        biases: those of the model, for items of the result of `core.objective.for_items`, whose constant
            coordinate is set to 1; None: there are none.
    """
    means = jnp.matmul(jnp.asarray(features), jnp.asarray(feature_map), precision="highest")
    return with_constant(means, biases)


@in_one_precision
def fit_map(
    model: Model,
    factors: Float[Array | np.ndarray, "rows factors"],
    features: Float[Array | np.ndarray, "rows features"],
) -> Float[Array, "features factors"]:
    """Compute B, the best linear map from the features of items to their factors; likewise A of users.

    Args:
        model: gives lambda and lambda_F; for items, the result of `core.objective.for_items`.
        factors: Y; X for users.
        features: one row for each item or user; a row of zeros has no influence.
    """
    factors, features = without_constant(jnp.asarray(factors), model.biases), jnp.asarray(features)
    own = jnp.broadcast_to(jnp.ravel(jnp.asarray(model.regularization, factors.dtype)), factors.shape[:1])
    return best_map(feature_sums(FeatureUploads(features, own), factors), model.feature_regularization)


def replace_cold_items(
    model: Model,
    item_factors: Float[Array | np.ndarray, "items factors"],
    item_features: Float[Array | np.ndarray, "items features"],
    item_map: Float[Array | np.ndarray, "features factors"],
    item_counts: Int[Array | np.ndarray, "items"],
) -> Float[Array, "items factors"]:
    """Return Y with B^T g_i in place of the factors of items that nobody has interacted with.

    Such items count as unobserved by everybody, so that their trained factors are near 0.

    Args:
        model: the result of `core.objective.for_items` if there are biases.
        item_factors: Y.
        item_features: G, with the features of these items.
        item_map: B.
        item_counts: number of training interactions of each item, as in `PackedClients.item_counts`.
    """
    is_cold = (jnp.asarray(item_counts) == 0)[:, None]
    cold = prior_factors(item_features, item_map, model.biases)
    return jnp.where(is_cold, cold, jnp.asarray(item_factors))


def seen_features(
    features: Float[np.ndarray, "rows features"], counts: Int[Array | np.ndarray, "rows"]
) -> Float[np.ndarray, "rows features"]:
    """Return the features with zeros for users or items without interactions.

    Use it for training where the catalogue holds items that are not on offer yet. Without it, every client
    counts them as items that it does not want, and B learns to predict factors near 0. With it, their
    factors are 0, and B is learned from all others.

    Args:
        features: one row for each user or item.
        counts: number of training interactions of each.
    """
    return np.where(np.asarray(counts)[:, None] > 0, features, 0.0).astype(features.dtype)


def checked_features(features: Any, num_rows: int, *, name: str) -> Any:
    """Return features in float32, or as they are if they are traced.

    Raises:
        ValueError: for another shape than [num_rows, features], or a number that is not finite.
    """
    if isinstance(features, jax.core.Tracer):
        return features
    array = np.asarray(features, np.float32)
    if array.ndim != 2 or array.shape[0] != num_rows or array.shape[1] == 0:
        raise ValueError(
            f"expected {name} of shape [{num_rows}, features], got {list(array.shape)}; give one row for each"
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"expected finite {name}, got {array[row].tolist()} in row {row}; fill the gaps")
    return array


def feature_sums(
    uploads: FeatureUploads,
    factors: Float[Array, "clients factors"],
    weights: Float[Array, "clients"] | None = None,
) -> FeatureSums:
    """Sum lambda_u f f^T and lambda_u f x^T over clients.

    Args:
        uploads: f and lambda of each client.
        factors: x of each client.
        weights: a_u, the factor on everything that a client sends; None: all 1.
    """
    scale = uploads.regularization if weights is None else weights * uploads.regularization
    weighted = scale[:, None] * uploads.features
    return FeatureSums(matmul(weighted.T, uploads.features), matmul(weighted.T, factors))


def best_map(sums: FeatureSums, feature_regularization: Scalar) -> Float[Array, "features factors"]:
    """Compute (gram + lambda_F I)^-1 cross."""
    matrix = add_ridge(sums.gram, jnp.asarray(feature_regularization, sums.gram.dtype))
    return jax.vmap(lambda right: solve_definite(matrix, right), in_axes=1, out_axes=1)(sums.cross)


def item_prior(
    model: Model, item_factors: Float[Array, "items factors"], item_features: Float[Array, "items features"]
) -> ItemPrior:
    """Compute B for these item factors, and the means; arguments as for `fit_map`."""
    item_map = fit_map(model, item_factors, item_features)
    return ItemPrior(item_map, prior_factors(item_features.astype(item_map.dtype), item_map))


def map_penalty(model: Model, feature_map: Float[Array, "features factors"]) -> Float[Array, ""]:
    """Compute lambda_F |A|^2, or that of B."""
    return model.feature_regularization * jnp.sum(feature_map**2)


def empty_sums(user_map: Float[Array, "features factors"]) -> FeatureSums:
    """Return the sums over no client."""
    num_features = user_map.shape[0]
    return FeatureSums(jnp.zeros((num_features, num_features), user_map.dtype), jnp.zeros_like(user_map))


def first_feature_state(num_features: int, item_factors: Float[Array, "items factors"]) -> FeatureState:
    """Return the server's state before the first round, with A = 0."""
    user_map = jnp.zeros((num_features, item_factors.shape[1]), item_factors.dtype)
    return FeatureState(user_map, empty_sums(user_map))


def next_feature_state(
    model: Model, state: FeatureState, sums: FeatureSums, weight: Float[Array, ""]
) -> FeatureState:
    """Average the sums over rounds, and compute A from the averages; a round that is not finite is dropped.

    Args:
        model: gives lambda_F.
        state: state before the round.
        sums: sums over the cohort, scaled by N / Theta.
        weight: weight of the round in the averages; 1: only this round counts.
    """
    averaged = jax.tree.map(lambda old, new: (1 - weight) * old + weight * new, state.sums, sums)
    after = FeatureState(best_map(averaged, model.feature_regularization), averaged)
    return optax.tree.where(jnp.all(jnp.isfinite(after.user_map)), after, state)
