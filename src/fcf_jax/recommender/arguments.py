"""Arguments of the estimator: histories and ids, checked."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fcf_jax.data import Interactions, check_implicit

Ids = int | npt.ArrayLike
IdsAndScores = tuple[np.ndarray, np.ndarray]


def histories_of(user_items: Any, *, alpha: float) -> Interactions:
    """Read a sparse matrix, or a row of a sparse array, as implicit feedback; zeros are dropped.

    Raises:
        ValueError: if it is not sparse, or has values that cannot be strengths.
    """
    from scipy import sparse

    if sparse.issparse(user_items) and user_items.ndim == 1:
        user_items = user_items.reshape(1, -1)
    histories = Interactions.from_scipy(user_items).drop_zeros()
    check_implicit(histories, alpha=alpha)
    return histories


def check_sizes(rows: Interactions, *, num_items: int, num_users: int | None) -> None:
    """Raise ValueError unless the rows have the items of the fit, and one row for each requested user."""
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
    """Return an id or a list of ids as an array; raise ValueError for an id outside [0, count)."""
    array = np.atleast_1d(np.asarray(ids))
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"expected {name} to be a whole number or a list of them, got {ids!r}; correct it")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise ValueError(f"expected {name} in [0, {count}), got {wrong[0]}; count as in the fitted matrix")
    return array.astype(np.int64)


def shaped_like(ids: Ids, results: IdsAndScores) -> IdsAndScores:
    """Return a single row for a single id, all rows for a list."""
    first, second = results
    return (first[0], second[0]) if np.ndim(ids) == 0 else (first, second)
