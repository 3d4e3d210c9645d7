"""Means of the metrics over users, by name."""

from collections.abc import Mapping

import jax
import numpy as np
import numpy.typing as npt

from fcf_jax.evaluation.metrics import RankingMetrics, SampledMetrics, UserMetrics


def summarize(metrics: UserMetrics) -> dict[str, float]:
    """Average the metrics over users, in float64.

    Args:
        metrics: result of `user_metrics`.

    Returns:
        Means over the users, for each length k, of `precision_at_k`, `recall_at_k`, `f1_at_k`, `map_at_k`,
        `ndcg_at_k`, `hit_rate_at_k`, and `auc`: the probability that a test item scores above an item of
        neither set, where ties count 1/2, and 1/2 for a user without such items. `rmse` is the root of the
        mean of (p - x.y)^2 over all test interactions. With the prefix `normalized_`, each value is divided
        by the user's best possible value before averaging; `normalized_rmse` is divided by the root mean
        square of p, which is the error of predicting 0 (nan if every p is 0). With sampled negatives, there
        are also `sampled_hit_rate_at_k` and `sampled_ndcg_at_k`. `docs/metrics.md` has the formulas.

    References:
        arXiv:1901.09888, for the choice of metrics.
    """
    values = {name: float(np.mean(of_users)) for name, of_users in per_user(metrics).items()}
    error, preference, count = (
        float(np.sum(np.asarray(leaf, np.float64)))
        for leaf in (metrics.squared_error_sum, metrics.squared_preference_sum, metrics.num_relevant)
    )
    values["rmse"] = (error / count) ** 0.5
    values["normalized_rmse"] = (error / preference) ** 0.5 if preference > 0 else float("nan")
    return values


def per_user(metrics: UserMetrics) -> dict[str, npt.NDArray[np.float64]]:
    """Return the metrics of each user, arrays of [users], by the names of `summarize`.

    The `rmse` of a user is the root of the mean squared error of that user, and `normalized_rmse` is divided
    by the root mean square of that user's preferences, nan if they are all 0.
    """
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), metrics)
    values, best = _named(host.at_k), _named(host.best_at_k)
    values["rmse"] = np.sqrt(host.squared_error_sum / host.num_relevant)
    best["rmse"] = np.sqrt(host.squared_preference_sum / host.num_relevant)
    values["auc"], best["auc"] = host.auc, np.ones_like(host.auc)
    normalized = {f"normalized_{name}": _quotient(value, best[name]) for name, value in values.items()}
    return values | normalized | _named(host.sampled or {}, prefix="sampled_")


def _named(
    by_length: Mapping[int, RankingMetrics] | Mapping[int, SampledMetrics], *, prefix: str = ""
) -> dict[str, npt.NDArray[np.float64]]:
    return {
        f"{prefix}{name}_at_{k}": values
        for k, metrics in by_length.items()
        for name, values in metrics._asdict().items()
    }


def _quotient(value: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(value, best, out=np.full_like(value, np.nan), where=best > 0)
