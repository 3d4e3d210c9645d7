"""Choice of the best items or users for each of several queries."""

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp

from fcf_jax.data import Interactions
from fcf_jax.evaluation.recommend import recommend_many
from fcf_jax.recommender.arguments import IdsAndScores

_NO_SCORE = np.finfo(np.float32).min  # score of a place without an item, as in `implicit`


def best(
    factors: jax.Array,
    queries: np.ndarray,
    count: int,
    *,
    observed: Interactions | None = None,
    among: npt.NDArray[np.int64] | None = None,
    left_out: npt.NDArray[np.int64] | None = None,
    is_known: npt.NDArray[np.bool_] | None = None,
) -> IdsAndScores:
    """Find for each query the `count` best rows of `factors`, only `among` some or with some `left_out`.

    Places that nothing can fill, such as by rows that are not known, have id -1 and the lowest float32.
    """
    if left_out is not None and among is not None:
        raise ValueError("expected items or filter_items, got both; remove the filtered ones from items")
    is_candidate = np.full(len(factors), among is None)
    if among is not None:
        is_candidate[among] = True
        count = min(count, int(is_candidate.sum()))
    if left_out is not None:
        is_candidate[left_out] = False
    if count < 1:
        raise ValueError(f"expected N >= 1 and an item to choose among, got {count}; ask for at least one")
    if is_known is not None:
        is_candidate &= is_known
    ids, scores = recommend_many(factors, queries, observed, is_candidate=is_candidate, k=count)
    return ids, np.maximum(scores, _NO_SCORE)


def neighbors(
    factors: np.ndarray,
    positions: npt.NDArray[np.int64],
    count: int,
    *,
    among: npt.NDArray[np.int64] | None = None,
    left_out: npt.NDArray[np.int64] | None = None,
) -> IdsAndScores:
    """Find the `count` rows with the highest cosine to each of these; rows of 0 neither are nor have any."""
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    is_known = norms[:, 0] > 0
    directions = factors / np.where(norms > 0, norms, 1.0)
    ids, cosines = best(
        jnp.asarray(directions),
        directions[positions],
        count,
        among=among,
        left_out=left_out,
        is_known=is_known,
    )
    has_none = ~is_known[positions][:, None]
    return np.where(has_none, np.int32(-1), ids), np.where(has_none, _NO_SCORE, cosines)
