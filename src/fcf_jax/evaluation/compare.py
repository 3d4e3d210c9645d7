"""Compare two models on the same users, or two settings on the same seeds: paired, with uncertainty."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats


class PairedDifference(NamedTuple):
    """The mean of a - b over pairs, in the unit of a and b."""

    mean: float
    sd: float  # of the differences, with n - 1
    low: float  # ends of the confidence interval of the mean
    high: float
    num_pairs: int


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = 0.95) -> PairedDifference:
    """Estimate the mean of a - b with its Student t confidence interval.

    Args:
        a: One finite number per user or seed.
        b: The other model's, in the same order.
        level: Of the interval, in (0, 1).

    Raises:
        ValueError: For unequal lengths, fewer than two pairs, numbers that are not finite, or the level.
    """
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
        a: One finite number per user or seed.
        b: The other model's, in the same order.
        margin: The largest difference that does not matter, > 0, in the unit of a and b; fixed beforehand.

    Returns:
        The p value: below 0.05 the models are equivalent within the margin, at that level. A large value says
        that this is not shown, not that they differ.

    Raises:
        ValueError: As `paired_difference`, and for a margin that is not positive.

    References:
        Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15.
    """
    if not margin > 0:
        raise ValueError(f"expected margin > 0, got {margin}; name the largest difference that is irrelevant")
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
        raise ValueError("expected finite numbers, got nan or inf; leave such pairs out of both arrays")
    return differences
