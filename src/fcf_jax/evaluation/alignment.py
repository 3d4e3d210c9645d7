"""How far apart two factor models of the same data are, apart from a rotation."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes

Factors = Float[np.ndarray, "_rows factors"]


class ModelDifference(NamedTuple):
    """Norms of differences, each relative to the norm of the second model's."""

    item_factors: float
    user_factors: float
    scores: float  # X Y^T, of every user and item


def model_difference(
    item_factors: Factors, user_factors: Factors, other_item_factors: Factors, other_user_factors: Factors
) -> ModelDifference:
    r"""Compare two models (X, Y) and (X', Y'), the first turned so that its items lie best on the other's.

    The model is free to rotate: X R and Y R with an orthogonal R predict the same scores X Y^T and
    pay the same lambda (|X|^2 + |Y|^2), so factors as such cannot be compared. R is the one that
    minimises |Y R - Y'| (orthogonal Procrustes), and it turns the users as well:

        |Y R - Y'| / |Y'|,   |X R - X'| / |X'|,   |X Y^T - X' Y'^T| / |X' Y'^T|

    The scores need no alignment, and no array of [users, items]: |X Y^T|^2 is the trace of X^T X Y^T Y.

    Args:
        item_factors: Y, of any precision; computed with in float64.
        user_factors: X, solved against Y.
        other_item_factors: Y' of the same items.
        other_user_factors: X' of the same users.

    Returns:
        Relative differences; nan where the second model is 0.

    References:
        Schoenemann (1966), Psychometrika 31, for the rotation.
    """
    y, x = np.asarray(item_factors, np.float64), np.asarray(user_factors, np.float64)
    other_y, other_x = np.asarray(other_item_factors, np.float64), np.asarray(other_user_factors, np.float64)
    rotation, _ = orthogonal_procrustes(y, other_y)
    own, others = _score_product(x, y, x, y), _score_product(other_x, other_y, other_x, other_y)
    apart = max(own + others - 2 * _score_product(x, y, other_x, other_y), 0.0)
    return ModelDifference(
        item_factors=_quotient(np.linalg.norm(y @ rotation - other_y), np.linalg.norm(other_y)),
        user_factors=_quotient(np.linalg.norm(x @ rotation - other_x), np.linalg.norm(other_x)),
        scores=_quotient(apart**0.5, others**0.5),
    )


def _score_product(x: Factors, y: Factors, x2: Factors, y2: Factors) -> float:
    """Sum the products of the elements of X Y^T and X2 Y2^T."""
    return float(np.sum((x.T @ x2) * (y.T @ y2)))


def _quotient(value: np.floating | float, norm: np.floating | float) -> float:
    return float(value / norm) if norm > 0 else float("nan")
