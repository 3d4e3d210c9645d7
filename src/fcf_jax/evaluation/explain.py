r"""Why an item was recommended: the user's score of it, taken apart by the user's own items.

    x.y_i = \sum_{j in I_u} c_j p_j y_i^T A_u^-1 y_j

with A_u the matrix of the user's normal equations. In float64 on the host: one user at a time asks.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve


class Explanation(NamedTuple):
    """The share of each own item in a score; they sum to the score."""

    contributions: npt.NDArray[np.float64]  # [slots], in the order of the history
    factorization: Any  # of A_u, for the next question of the same user


def explain_score(
    item_factors: npt.NDArray[np.floating],
    item_id: int,
    own_item_ids: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.floating],
    preference: npt.ArrayLike = 1.0,
    *,
    regularization: float,
    unobserved_weight: float = 1.0,
    factorization: Any = None,
) -> Explanation:
    """Compute what each own item contributes to the score of an item.

    Args:
        item_factors: Y [items, factors].
        item_id: i, in [0, num_items).
        own_item_ids: the user's history [slots].
        confidence: c [slots].
        preference: p [slots], or one number for all.
        regularization: lambda, above 0 if Y has dependent columns.
        unobserved_weight: w0.
        factorization: from an earlier explanation for the same user; saves the work for A_u.

    Raises:
        ValueError: when A_u is singular.

    References:
        Hu, Koren & Volinsky, ICDM 2008, section 5.
    """
    factors = item_factors.astype(np.float64)
    own = factors[own_item_ids]
    if factorization is None:
        extra = np.asarray(confidence, np.float64) - unobserved_weight
        unseen = unobserved_weight * factors.T @ factors + regularization * np.eye(factors.shape[1])
        try:
            factorization = cho_factor(unseen + (own.T * extra) @ own)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"expected a definite matrix, got: {error}; raise regularization") from error
    similarities = own @ cho_solve(factorization, factors[item_id])
    return Explanation(np.multiply(confidence, preference) * similarities, factorization)
