"""Recommend items to one user, on its device or for a person to read; or to many at a time."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.data.interactions import Interactions
from fcf_jax.evaluation.new_users import power_of_two

_CHUNK_SCORES = 2**21  # scores held at a time: 8 MiB, and once more for the masked ones
_FEWEST_PLACES = 256  # of own items, so that few sizes are compiled


class Recommendations(NamedTuple):
    """The best unseen items, best first; on the host."""

    item_ids: npt.NDArray[np.integer]
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


def recommend_many(
    item_factors: Float[Array, "items factors"],
    user_factors: Float[Array | np.ndarray, "users factors"],
    own: Interactions | None = None,
    *,
    is_candidate: Bool[np.ndarray, "items"] | None = None,
    k: int = 10,
) -> Recommendations:
    """Do what `recommend` does for many users, a chunk of them at a time on the device.

    Args:
        item_factors: Y.
        user_factors: X.
        own: What each user has already, row by row; None: that is no reason to leave an item out.
        is_candidate: False for items that nobody is to get; None: all may be recommended.
        k: At least 1.

    Returns:
        Always [users, k], int32 and float32; -1 and -inf where a user has no candidate left.

    Raises:
        ValueError: For a k below 1.
    """
    num_users, num_items = user_factors.shape[0], item_factors.shape[0]
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}; ask for at least one item")
    candidates = jnp.asarray(np.ones(num_items, bool) if is_candidate is None else is_candidate)
    factors = np.asarray(user_factors)  # sliced on the host: on the device every slice is a program
    chunk_users = min(power_of_two(num_users), max(_CHUNK_SCORES // max(num_items, 1), 1))
    chunks = []
    for first in range(0, num_users, chunk_users):
        chunk = slice(first, min(first + chunk_users, num_users))
        padded = np.pad(factors[chunk], ((0, chunk_users - (chunk.stop - first)), (0, 0)))
        best = _best(item_factors, padded, *_own_places(own, chunk, chunk_users), candidates, k=k)
        chunks.append([np.asarray(part)[: chunk.stop - first] for part in best])
    nobody = [np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)]
    item_ids, scores = (np.concatenate(parts) for parts in zip(nobody, *chunks, strict=True))
    return Recommendations(item_ids, scores)


def _own_places(
    own: Interactions | None, chunk: slice, chunk_users: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """List row and item of everything that the users of a chunk have, padded to few lengths."""
    if own is None:
        return np.full(1, chunk_users, np.int32), np.zeros(1, np.int32)
    lengths = own.history_lengths[chunk]
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    num_missing = power_of_two(len(rows), least=_FEWEST_PLACES) - len(rows)
    items = own.item_ids[own.indptr[chunk.start] : own.indptr[chunk.stop]]
    return np.pad(rows, (0, num_missing), constant_values=chunk_users), np.pad(items, (0, num_missing))


@functools.partial(jax.jit, static_argnames="k")
def _best(
    item_factors: Float[Array, "items factors"],
    user_factors: Float[Array, "users factors"],
    own_rows: Int[Array, "places"],  # `users` where there is nothing
    own_items: Int[Array, "places"],
    is_candidate: Bool[Array, "items"],
    *,
    k: int,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    scores = jnp.matmul(user_factors, item_factors.T, precision="highest")
    scores = jnp.where(is_candidate[None, :], scores, -jnp.inf)
    scores = scores.at[own_rows, own_items].set(-jnp.inf, mode="drop")
    best_scores, best_items = jax.lax.top_k(scores, min(k, scores.shape[1]))  # of equals the lower id first
    missing = ((0, 0), (0, max(k - scores.shape[1], 0)))
    best_items = jnp.where(best_scores > -jnp.inf, best_items, -1)
    return (
        jnp.pad(best_items, missing, constant_values=-1),
        jnp.pad(best_scores, missing, constant_values=-jnp.inf),
    )


@jax.jit
def _scores(
    item_factors: Float[Array, "items factors"], user_factor: Float[Array, "factors"]
) -> Float[Array, "items"]:
    return jnp.matmul(item_factors, user_factor, precision="highest")
