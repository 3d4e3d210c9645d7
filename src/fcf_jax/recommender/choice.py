"""Choice of the best items or users for each of several queries."""

import jax
import numpy as np
import numpy.typing as npt

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
) -> IdsAndScores:
    """Find for each query the `count` best rows of `factors`, only `among` some or with some `left_out`."""
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
    ids, scores = recommend_many(factors, queries, observed, is_candidate=is_candidate, k=count)
    return ids, np.maximum(scores, _NO_SCORE)
