"""Comparison of two models: paired statistics over users or seeds, and alignment of their factors."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

Factors = Float[np.ndarray, "_rows factors"]


class PairedDifference(NamedTuple):
    """Estimate of the mean of a - b over pairs, in the unit of a and b.

    Attributes:
        mean: mean of the differences.
        sd: standard deviation of the differences, with divisor n - 1.
        low: lower end of the confidence interval of the mean.
        high: upper end of the confidence interval.
        num_pairs: n.
    """

    mean: float
    sd: float
    low: float
    high: float
    num_pairs: int


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = 0.95) -> PairedDifference:
    """Estimate the mean of a - b with its Student t confidence interval.

    Args:
        a: one finite number per user or seed.
        b: those of the other model, in the same order.
        level: confidence level of the interval, in (0, 1).

    Raises:
        ValueError: for unequal lengths, fewer than two pairs, numbers that are not finite, or a level
            outside (0, 1).
    """
    from scipy import stats

    if not 0 < level < 1:
        raise ValueError(f"expected level in (0, 1), got {level}; 0.95 is usual")
    differences = _differences(a, b)
    count = differences.size
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    reach = float(stats.t.ppf(0.5 + level / 2, count - 1)) * sd / count**0.5
    return PairedDifference(mean, sd, mean - reach, mean + reach, count)


def equivalence_test(a: npt.ArrayLike, b: npt.ArrayLike, *, margin: float) -> float:
    """Test whether a and b differ by less than `margin` on average: two one-sided paired t tests (TOST).

    Args:
        a: one finite number per user or seed.
        b: those of the other model, in the same order.
        margin: largest irrelevant difference, > 0, in the unit of a and b; choose it before seeing the data.

    Returns:
        The p value. Below 0.05, the models are equivalent within the margin at that level; a large value
        means that equivalence is not shown, not that the models differ.

    Raises:
        ValueError: as for `paired_difference`, and for a margin that is not positive.

    References:
        Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    from scipy import stats

    if not margin > 0:
        raise ValueError(f"expected margin > 0, got {margin}; set it to the largest irrelevant difference")
    difference = paired_difference(a, b)
    if difference.sd == 0:  # t is infinite; its sign decides
        return 0.0 if abs(difference.mean) < margin else 1.0
    standard_error = difference.sd / difference.num_pairs**0.5
    degrees = difference.num_pairs - 1
    p_not_below = stats.t.sf((difference.mean + margin) / standard_error, degrees)
    p_not_above = stats.t.cdf((difference.mean - margin) / standard_error, degrees)
    return float(max(p_not_below, p_not_above))


def _differences(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size < 2:
        raise ValueError(
            f"expected two 1-D arrays of the same length >= 2, got {first.shape} and {second.shape}; "
            "evaluate both models on the same users"
        )
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError("expected finite numbers, got nan or inf; remove such pairs from both arrays")
    return differences


class ModelDifference(NamedTuple):
    """Norms of the differences of two models, relative to the norms of the second model.

    Attributes:
        item_factors: relative difference of Y, after alignment.
        user_factors: relative difference of X, after alignment.
        scores: relative difference of X Y^T, over all users and items.
    """

    item_factors: float
    user_factors: float
    scores: float


def model_difference(
    item_factors: Factors, user_factors: Factors, other_item_factors: Factors, other_user_factors: Factors
) -> ModelDifference:
    r"""Compare two models (X, Y) and (X', Y') after rotating the first onto the second.

    A model is determined up to a rotation: X R and Y R with an orthogonal R have the same scores X Y^T and
    the same lambda (|X|^2 + |Y|^2), so factors cannot be compared directly. The R that minimizes |Y R - Y'|
    (orthogonal Procrustes) aligns items and users:

        |Y R - Y'| / |Y'|,   |X R - X'| / |X'|,   |X Y^T - X' Y'^T| / |X' Y'^T|

    The scores need no alignment, and no array of [users, items]: |X Y^T|^2 is the trace of X^T X Y^T Y.

    Args:
        item_factors: Y, of any precision; everything is computed in float64.
        user_factors: X, solved against Y.
        other_item_factors: Y' of the same items.
        other_user_factors: X' of the same users.

    Returns:
        Relative differences; nan where the second model is 0.

    References:
        Schoenemann (1966), Psychometrika 31, for the rotation.
    """
    from scipy.linalg import orthogonal_procrustes

    y, x = np.asarray(item_factors, np.float64), np.asarray(user_factors, np.float64)
    other_y, other_x = np.asarray(other_item_factors, np.float64), np.asarray(other_user_factors, np.float64)
    rotation, _ = orthogonal_procrustes(y, other_y)
    squared, other_squared = _score_product(x, y, x, y), _score_product(other_x, other_y, other_x, other_y)
    apart = max(squared + other_squared - 2 * _score_product(x, y, other_x, other_y), 0.0)
    return ModelDifference(
        item_factors=_quotient(np.linalg.norm(y @ rotation - other_y), np.linalg.norm(other_y)),
        user_factors=_quotient(np.linalg.norm(x @ rotation - other_x), np.linalg.norm(other_x)),
        scores=_quotient(apart**0.5, other_squared**0.5),
    )


def _score_product(x: Factors, y: Factors, x2: Factors, y2: Factors) -> float:
    """Compute the inner product of X Y^T and X2 Y2^T."""
    return float(np.sum((x.T @ x2) * (y.T @ y2)))


def _quotient(value: np.floating | float, norm: np.floating | float) -> float:
    return float(value / norm) if norm > 0 else float("nan")
