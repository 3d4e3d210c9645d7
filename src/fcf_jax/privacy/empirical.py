r"""Lower bounds on epsilon from scores of runs with and without one client: a test of what is claimed.

A claim of (epsilon, delta) allows no test of participation with a true positive rate above
e^epsilon times its false positive rate plus delta. Rates of simulated runs, with their exact confidence
limits, thus bound epsilon from below:

    epsilon \ge \log ((TPR - delta) / FPR)
    mu \ge \Phi^{-1}(TPR) - \Phi^{-1}(FPR)      if the noise of the whole run is one Gaussian mechanism

The second is far tighter with few runs, since it needs no rare events; epsilon then follows from mu exactly.
"""

import math

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy import stats

from fcf_jax.privacy.accounting import load_dp_accounting

_LEVEL = 0.975  # of each of two one-sided limits: 95 % together
_LEAST_TAIL = 5  # runs beyond a threshold that is tried


def epsilon_at_least(
    with_client: Float[np.ndarray, "runs"], without: Float[np.ndarray, "other_runs"], *, delta: float
) -> float:
    """Bound epsilon from below at 95 % confidence, whatever the mechanism.

    The first half of the runs chooses a threshold, and which of the two worlds is to be detected; the second
    half measures the rates there.

    Args:
        with_client: scores of runs with the client, such as log likelihood ratios; higher: more likely in.
        without: scores of runs without it.
        delta: of the claim.
    """
    halves = [(scores[: len(scores) // 2], scores[len(scores) // 2 :]) for scores in (with_client, without)]
    (choose_in, test_in), (choose_out, test_out) = halves
    best = (-math.inf, 1, 0.0)  # bound, sign of the scores, threshold
    for sign in (1, -1):
        positives, negatives = (choose_in, choose_out) if sign == 1 else (-choose_out, -choose_in)
        thresholds = np.sort(negatives)[:-_LEAST_TAIL]
        if len(thresholds):
            bounds = _of_rates(positives, negatives, thresholds, delta)
            best = max(best, (float(bounds.max()), sign, float(thresholds[bounds.argmax()])))
    bound, sign, threshold = best
    if math.isinf(bound):
        return 0.0
    pair = (test_in, test_out) if sign == 1 else (-test_out, -test_in)
    return max(0.0, float(_of_rates(*pair, np.array([threshold]), delta)[0]))


def _of_rates(
    positives: np.ndarray, negatives: np.ndarray, thresholds: np.ndarray, delta: float
) -> Float[np.ndarray, "thresholds"]:
    found, false = (
        len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right")
        for scores in (positives, negatives)
    )
    true_rate = _limit(found, len(positives), is_upper=False) - delta
    return np.log(np.maximum(true_rate, 1e-300) / _limit(false, len(negatives), is_upper=True))


def gaussian_epsilon_at_least(
    with_client: Float[np.ndarray, "runs"], without: Float[np.ndarray, "other_runs"], *, delta: float
) -> float:
    """Bound epsilon from below at 95 % confidence for a run that is one Gaussian mechanism.

    That is every run with everybody in each round.

    Args:
        with_client: log likelihood ratios of runs with the client.
        without: log likelihood ratios of runs without it.
        delta: of the claim.

    References:
        Dong, Roth & Su, JRSS B 2022; Nasr et al., "Tight Auditing of Differentially Private Machine
        Learning", USENIX Security 2023.
    """
    true = _limit(np.count_nonzero(with_client > 0), len(with_client), is_upper=False)
    false = _limit(np.count_nonzero(without > 0), len(without), is_upper=True)
    mu = float(stats.norm.ppf(true) - stats.norm.ppf(false))
    return float(load_dp_accounting().get_epsilon_gaussian(1 / mu, delta)) if mu > 0 else 0.0


def _limit(counts: npt.ArrayLike, total: int, *, is_upper: bool) -> np.ndarray:
    """Return the exact one-sided limits of rates, of Clopper and Pearson."""
    counts = np.asarray(counts, float)
    if is_upper:
        return np.where(counts < total, stats.beta.ppf(_LEVEL, counts + 1, total - counts), 1.0)
    return np.where(counts > 0, stats.beta.ppf(1 - _LEVEL, counts, total - counts + 1), 0.0)
