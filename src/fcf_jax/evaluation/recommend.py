"""Recommend items to one user, on its device or for a person to read."""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Float


class Recommendations(NamedTuple):
    """The best unseen items, best first; on the host."""

    item_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.floating]  # x.y, about 1 for a certain interaction under implicit feedback


def recommend(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    own_item_ids: npt.ArrayLike,
    *,
    k: int = 10,
) -> Recommendations:
    """Return the k unseen items of the highest score x.y, of equal scores the lower id first.

    Args:
        item_factors: Y.
        user_factor: x of the user.
        own_item_ids: What the user has already, in [0, num_items), in any order; may be empty.
        k: At least 1; where fewer items are unseen, only those are returned.

    Raises:
        ValueError: For a k below 1, or an own item that is out of range.
    """
    num_items = item_factors.shape[0]
    own = np.asarray(own_item_ids)
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}; ask for at least one item")
    if own.size and (own.min() < 0 or own.max() >= num_items):
        wrong = own.min() if own.min() < 0 else own.max()
        raise ValueError(f"expected own_item_ids in [0, {num_items}), got {wrong}; translate labels to ids")
    scores = np.array(_scores(item_factors, user_factor))
    scores[own.astype(np.int64)] = -np.inf
    num_unseen = num_items - np.unique(own).size
    best = np.argsort(-scores, kind="stable")[: min(k, num_unseen)]
    return Recommendations(best, scores[best])


@jax.jit
def _scores(
    item_factors: Float[Array, "items factors"], user_factor: Float[Array, "factors"]
) -> Float[Array, "items"]:
    return jnp.matmul(item_factors, user_factor, precision="highest")
