"""What a caller hands over, checked, and what it gets back, in the shape that it asked for."""

from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from scipy import sparse

from fcf_jax.data.interactions import Interactions, check_implicit
from fcf_jax.evaluation.recommend import recommend_many

NO_SCORE = np.finfo(np.float32).min  # of a place that nothing could fill, as in `implicit`

Ids = int | npt.ArrayLike
IdsAndScores = tuple[np.ndarray, np.ndarray]


def histories_of(user_items: Any, *, alpha: float) -> Interactions:
    """Take a sparse matrix, or one row of a sparse array, as implicit feedback; zeros are dropped.

    Raises:
        ValueError: when it is not sparse, or has values that cannot be strengths.
    """
    if sparse.issparse(user_items) and user_items.ndim == 1:
        user_items = user_items.reshape(1, -1)
    histories = Interactions.from_scipy(user_items).drop_zeros()
    check_implicit(histories, alpha=alpha)
    return histories


def check_sizes(rows: Interactions, *, num_items: int, num_users: int | None) -> None:
    """Refuse rows of other items than those of the fit, or of more or fewer users than were asked for."""
    if rows.num_items != num_items:
        raise ValueError(
            f"expected user_items with {num_items} columns, one for each item of the fit, got "
            f"{rows.num_items}; build the matrix with shape=(users, {num_items})"
        )
    if num_users is not None and rows.num_users != num_users:
        raise ValueError(
            f"expected user_items with one row for every user in userid ({num_users}), "
            f"got {rows.num_users}; pass user_items[userid]"
        )


def checked_ids(ids: Ids, count: int, name: str) -> npt.NDArray[np.int64]:
    """Return one id or a list of them as an array, or refuse one that is not in [0, count)."""
    array = np.atleast_1d(np.asarray(ids))
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"expected {name} to be a whole number or a list of them, got {ids!r}; correct it")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise ValueError(f"expected {name} in [0, {count}), got {wrong[0]}; count as in the fitted matrix")
    return array.astype(np.int64)


def best(
    factors: jax.Array,
    queries: np.ndarray,
    count: int,
    *,
    own: Interactions | None = None,
    among: npt.ArrayLike | None = None,
    left_out: npt.ArrayLike | None = None,
) -> IdsAndScores:
    """Rank the rows of `factors` for each query: all, only `among` these, or with these `left_out`."""
    if left_out is not None and among is not None:
        raise ValueError("expected items or filter_items, got both; take the filtered ones off items")
    is_candidate = np.full(len(factors), among is None)
    if among is not None:
        is_candidate[checked_ids(among, len(factors), "items")] = True
        count = min(count, int(is_candidate.sum()))
    if left_out is not None:
        is_candidate[checked_ids(left_out, len(factors), "filter_items")] = False
    if count < 1:
        raise ValueError(f"expected N >= 1 and an item to choose among, got {count}; ask for at least one")
    ids, scores = recommend_many(factors, queries, own, is_candidate=is_candidate, k=count)
    return ids, np.maximum(scores, NO_SCORE)


def as_asked(ids: Ids, results: IdsAndScores) -> IdsAndScores:
    """Give one row to who asked for one id, all rows to who asked for a list."""
    first, second = results
    return (first[0], second[0]) if np.ndim(ids) == 0 else (first, second)
