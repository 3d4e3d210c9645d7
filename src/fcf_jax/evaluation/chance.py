"""Metrics of a ranking in random order, in expectation: the floor where nothing tells the items apart.

Popularity counts 0 for every item that was held out whole. Its ranking of such items is one of ties, and its
metrics are means over all orders of them: see `docs/metrics.md` for the formulas.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from fcf_jax.evaluation.metrics import lengths_of


def chance_metrics(
    num_relevant: Int[np.ndarray, "users"], num_candidates: int | Int[np.ndarray, "users"], *, k: int
) -> dict[str, npt.NDArray[np.float64]]:
    r"""Compute the expected metrics of each user, over all orders of the candidates.

    With n test items among C candidates and m = min(k, C), the expected number of hits is n m / C, and

        map = n / (C min(n, k)) \sum_{j=1}^m (1 + (j - 1) (n - 1) / (C - 1)) / j

    Args:
        num_relevant: n, at least 1.
        num_candidates: C, at least n.
        k: length of the list, at least 1.

    Returns:
        Arrays of [users] by the names of `RankingMetrics`.
    """
    n, candidates = np.broadcast_arrays(
        *(np.asarray(one, np.float64) for one in (num_relevant, num_candidates))
    )
    share = n / candidates  # probability that a rank holds a test item
    ranks = np.arange(1, k + 1)
    is_filled = ranks <= candidates[:, None]
    hits = share * np.minimum(k, candidates)
    # of the items before a hit, each is a test item with this probability
    others = np.divide(n - 1, candidates - 1, out=np.zeros_like(n), where=candidates > 1)
    precisions = (1 + (ranks - 1) * others[:, None]) / ranks
    gains = 1 / np.log2(ranks + 1)
    possible = np.minimum(n, k)
    best = np.where(ranks <= possible[:, None], gains, 0).sum(axis=1)
    return {
        "precision": hits / k,
        "recall": hits / n,
        "f1": 2 * hits / (k + n),
        "map": share * np.where(is_filled, precisions, 0).sum(axis=1) / possible,
        "ndcg": share * np.where(is_filled, gains, 0).sum(axis=1) / best,
        "hit_rate": 1 - _no_hit(n, candidates, k),
    }


def _no_hit(
    n: Float[np.ndarray, "users"], candidates: Float[np.ndarray, "users"], k: int
) -> npt.NDArray[np.float64]:
    """Return the probability that the first k hold no test item: C(C - n, k) / C(C, k)."""
    draws = np.arange(k)
    left = candidates[:, None] - draws
    factors = np.divide(left - n[:, None], left, out=np.zeros((n.size, k)), where=left > 0)
    return np.prod(np.where(left > 0, np.maximum(factors, 0), 1), axis=1)


def evaluate_chance(
    num_relevant: npt.ArrayLike, num_candidates: npt.ArrayLike, *, k: int | list[int] | tuple[int, ...]
) -> dict[str, float]:
    """Average `chance_metrics` over users with test items, under the names of `evaluate`; `auc` is 1/2.

    Args:
        num_relevant: test items of each user; users without one do not count.
        num_candidates: candidates of each user, or of all.
        k: length of the list, or several.

    Example:
        >>> round(evaluate_chance([3, 0, 1], 40, k=20)["recall_at_20"], 4)
        0.5
    """
    counts = np.asarray(num_relevant)
    has_test = counts > 0
    candidates = np.broadcast_to(num_candidates, counts.shape)[has_test]
    found = {
        f"{name}_at_{length}": float(np.mean(values)) if has_test.any() else float("nan")
        for length in lengths_of(k)
        for name, values in chance_metrics(counts[has_test], candidates, k=length).items()
    }
    return found | {"auc": 0.5 if has_test.any() else float("nan")}
