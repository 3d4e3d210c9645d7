"""Arguments of the estimator: hyperparameters, histories and ids, checked."""

import warnings
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from fcf_jax.core.checks import require
from fcf_jax.data import Interactions, check_implicit
from fcf_jax.data.feedback import Strengths, transformed
from fcf_jax.data.rows import first_of
from fcf_jax.data.selection import positions_of, with_items

if TYPE_CHECKING:
    from fcf_jax.recommender.estimator import FederatedCollaborativeFilter

Ids = int | str | npt.ArrayLike
IdsAndScores = tuple[np.ndarray, np.ndarray]
_NUMBERS = (
    "num_factors", "num_rounds", "cohort_size", "seed", "alpha", "regularization", "unobserved_weight",
    "regularization_exponent",
)  # fmt: skip


def check_hyperparameters(model: "FederatedCollaborativeFilter") -> None:
    """Raise ValueError for a hyperparameter that is out of range."""
    require(**{name: getattr(model, name) for name in _NUMBERS})
    if model.strengths not in get_args(Strengths):
        choices = ", ".join(get_args(Strengths))
        raise ValueError(
            f"expected strengths: one of {choices}, got {model.strengths!r}; the default is keep"
        )


def histories_of(
    user_items: Any,
    *,
    alpha: float,
    strengths: Strengths = "keep",
    item_labels: np.ndarray | None = None,
) -> Interactions:
    """Read implicit feedback: strengths are transformed, and zeros dropped.

    Args:
        user_items: a sparse matrix, a row of a sparse array, a DataFrame or `Interactions`.
        alpha: of the model.
        strengths: transformation of the model.
        item_labels: of the model; items with labels are matched to them. None: items are kept as they are.

    Raises:
        ValueError: if it is none of these, or has values that cannot be strengths, or no item of the model.
    """
    histories = _as_interactions(user_items)
    if item_labels is not None and histories.item_labels is not None:
        histories = _over_known_items(histories, item_labels)
    histories = transformed(histories.drop_zeros(), strengths)
    check_implicit(histories, alpha=alpha)
    return histories


def _as_interactions(user_items: Any) -> Interactions:
    from scipy import sparse

    if isinstance(user_items, Interactions):
        return user_items
    if hasattr(user_items, "iloc"):  # of pandas, which need not be installed
        return Interactions.from_frame(user_items)
    if sparse.issparse(user_items) and user_items.ndim == 1:
        user_items = user_items.reshape(1, -1)
    return Interactions.from_scipy(user_items)


def _over_known_items(histories: Interactions, item_labels: np.ndarray) -> Interactions:
    known = with_items(histories, item_labels)
    num_unknown = histories.num_interactions - known.num_interactions
    if num_unknown and not known.num_interactions:
        theirs, ours = first_of(np.asarray(histories.item_labels)), first_of(item_labels)
        raise ValueError(f"expected items of the model, such as {ours}, got only others: {theirs}")
    if num_unknown:
        warnings.warn(
            f"{num_unknown} of {histories.num_interactions} interactions are with items that the model does "
            "not know, and are left out",
            stacklevel=2,
        )
    return known


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


def checked_ids(ids: Ids, count: int, name: str, labels: np.ndarray | None = None) -> npt.NDArray[np.int64]:
    """Return the positions of an id or a list of ids: whole numbers are positions, strings are labels.

    Raises:
        ValueError: for a position outside [0, count), or a label that is not among `labels`.
    """
    array = np.atleast_1d(np.asarray(ids))
    if labels is not None and array.ndim == 1 and array.size and all(isinstance(one, str) for one in array):
        positions = positions_of(array, labels)
        if (positions < 0).any():
            unknown = str(array[int((positions < 0).argmax())])
            raise ValueError(
                f"expected {name} to be a label such as {first_of(labels)}, got {unknown!r}; correct it"
            )
        return positions
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"expected {name} to be a whole number or a list of them, got {ids!r}; correct it")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise ValueError(f"expected {name} in [0, {count}), got {wrong[0]}; count as in the fitted matrix")
    return array.astype(np.int64)


def labels_of(ids: Ids, labels: np.ndarray | None) -> list[str] | None:
    """Return the labels of an id or a list of ids as text; None for positions without labels."""
    array = np.atleast_1d(np.asarray(ids))
    if array.size and all(isinstance(one, str) for one in array.flat):
        return [str(one) for one in array.flat]
    return None if labels is None else [str(labels[i]) for i in checked_ids(ids, len(labels), "userid")]


def shaped_like(ids: Ids, results: IdsAndScores) -> IdsAndScores:
    """Return a single row for a single id, all rows for a list."""
    first, second = results
    return (first[0], second[0]) if np.ndim(ids) == 0 else (first, second)
