"""Statistics of a comparison: means, paired differences, tests of equivalence and the verdict."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from fcf_jax.evaluation import equivalence_test, paired_difference

SIGNIFICANCE = 0.05
_NORMALIZED = "normalized_"
_LOWER_IS_BETTER = ("rmse", "normalized_rmse", "loss")
Statistics = dict[str, Any]  # of one metric by name; None for a number that cannot be computed


def compare_replicates(
    centralized: dict[str, Float64[np.ndarray, "replicates"]],
    federated: dict[str, Float64[np.ndarray, "replicates"]],
    *,
    margin_percent: float,
) -> dict[str, Statistics]:
    """Compare both sides over the replicates, metric by metric.

    Args:
        centralized: values of each metric; replicates in which one is not finite are left out.
        federated: values of the same metrics in the same replicates.
        margin_percent: largest difference that does not matter, in percent of the centralised mean; fix it
            before looking at results.

    Returns:
        For each metric the means and standard deviations (n - 1) of both sides, `difference_percent` =
        100 (federated - centralized) / |centralized| of the means with its 95 % confidence interval,
        paired over the replicates, and `tost_p`, the p value of `equivalence_test`.
    """
    return {
        name: _compare_metric(*_finite(values, federated[name]), margin_percent=margin_percent)
        for name, values in centralized.items()
    }


def compare_users(
    centralized: dict[str, Float64[np.ndarray, "replicates users"]],
    federated: dict[str, Float64[np.ndarray, "replicates users"]],
) -> dict[str, Statistics]:
    """Compare both sides over the users, with each user's metric averaged over the replicates first.

    Args:
        centralized: values of each metric, for users in a fixed order.
        federated: values of the same metrics in the same replicates and for the same users.

    Returns:
        For each metric the number of users with a finite value, and the difference of the means over them
        in percent with its 95 % confidence interval, paired over the users.
    """
    compared = {}
    for name, values in centralized.items():
        by_user = _finite(values.mean(axis=0), federated[name].mean(axis=0))
        compared[name] = {"num_users": by_user[0].size, **_difference_percent(*by_user)}
    return compared


def spread_of(side: str, values: Float64[np.ndarray, "replicates"]) -> Statistics:
    """Compute `SIDE_mean` and `SIDE_sd` of the values that are finite."""
    finite = values[np.isfinite(values)]
    return {f"{side}_mean": _mean(finite), f"{side}_sd": _sd(finite)}


def distinct_metrics(metrics: dict[str, Statistics]) -> dict[str, Statistics]:
    """Leave out normalised metrics that equal another: the plain one, or one that is normalised alike."""
    distinct: dict[str, Statistics] = {}
    for name, one in metrics.items():
        if not name.startswith(_NORMALIZED) or not any(_are_equal(one, other) for other in distinct.values()):
            distinct[name] = one
    return distinct


def worse_metrics(metrics: dict[str, Statistics], *, tolerance_percent: float) -> list[str]:
    """Return the metrics whose mean is worse than that of ALS by more than the tolerance."""
    return [
        name
        for name in _measured(metrics)
        if _loss_of_quality(name, metrics[name]["difference_percent"]) > tolerance_percent
    ]


def unproven_metrics(metrics: dict[str, Statistics]) -> list[str]:
    """Return the tested metrics whose equivalence is not shown."""
    return [
        name for name, one in metrics.items() if one["tost_p"] is not None and one["tost_p"] >= SIGNIFICANCE
    ]


def headline(metrics: dict[str, Statistics], *, margin_percent: float) -> str:
    """Return the verdict in one line: how many metrics are equivalent, and which differs most for the worse.

    Args:
        metrics: from `compare_replicates`.
        margin_percent: margin of the tests of equivalence.
    """
    tested = [name for name, one in metrics.items() if one["tost_p"] is not None]
    num_shown = len(tested) - len(unproven_metrics(metrics))
    if not tested:
        first = "Equivalence not tested"
    elif num_shown == len(tested):
        first = f"Equivalent within {margin_percent:g} %: {num_shown} of {num_shown}"
    else:
        first = f"Not equivalent: {num_shown} of {len(tested)}"
    losses = {
        name: _loss_of_quality(name, metrics[name]["difference_percent"]) for name in _measured(metrics)
    }
    if not losses:
        return f"{first}."
    worst = max(losses, key=lambda name: losses[name])
    return f"{first}; worst: {worst} {metrics[worst]['difference_percent']:+.2f} %"


def verdict(
    metrics: dict[str, Statistics], *, num_replicates: int, margin_percent: float, tolerance_percent: float
) -> str:
    """Return a verdict of a few sentences: which metrics are worse, and which are equivalent.

    Each metric is tested at the level 0.05. All are called equivalent only if every single test shows
    it, which needs no correction for their number (an intersection-union test).

    Args:
        metrics: from `compare_replicates`.
        num_replicates: replicates compared.
        margin_percent: margin of the tests of equivalence.
        tolerance_percent: a metric worse by more is named.
    """
    measured = _measured(metrics)
    undefined = [name for name in metrics if name not in measured]
    sentences = [
        _on_quality(metrics, num_replicates, tolerance_percent),
        _on_equivalence(metrics, num_replicates, margin_percent),
    ]
    if undefined:
        sentences.append(f"No difference could be computed for {', '.join(undefined)}.")
    return " ".join(sentences)


def _compare_metric(
    centralized: Float64[np.ndarray, "n"], federated: Float64[np.ndarray, "n"], *, margin_percent: float
) -> Statistics:
    margin = margin_percent / 100 * abs(_mean(centralized) or 0.0)
    is_testable = centralized.size >= 2 and margin > 0
    return {
        **spread_of("centralized", centralized),
        **spread_of("federated", federated),
        **_difference_percent(centralized, federated),
        "tost_p": equivalence_test(federated, centralized, margin=margin) if is_testable else None,
    }


def _difference_percent(
    centralized: Float64[np.ndarray, "n"], federated: Float64[np.ndarray, "n"]
) -> Statistics:
    """Compute the paired difference and its interval, relative to the centralised mean."""
    names = ("difference_percent", "difference_low_percent", "difference_high_percent")
    scale = abs(_mean(centralized) or 0.0)
    if not scale:
        return dict.fromkeys(names)
    if centralized.size < 2:
        return dict.fromkeys(names) | {names[0]: 100 * float(federated[0] - centralized[0]) / scale}
    found = paired_difference(federated, centralized)
    ends = (found.mean, found.low, found.high)
    return {name: 100 * value / scale for name, value in zip(names, ends, strict=True)}


def _on_quality(metrics: dict[str, Statistics], num_replicates: int, tolerance_percent: float) -> str:
    over = f"Over {num_replicates} replicates" if num_replicates > 1 else "In one replicate"
    if not _measured(metrics):
        return f"{over}, nothing could be measured."
    worse = worse_metrics(metrics, tolerance_percent=tolerance_percent)
    by = f"by more than {tolerance_percent:g} %" + (" on average" if num_replicates > 1 else "")
    if not worse:
        return f"{over}, no metric of the federation is worse than that of centralised ALS {by}."
    named = ", ".join(f"{name} ({metrics[name]['difference_percent']:+.2f} %)" for name in worse)
    return f"{over}, the federation is worse than centralised ALS {by} in {named}."


def _on_equivalence(metrics: dict[str, Statistics], num_replicates: int, margin_percent: float) -> str:
    if num_replicates < 2:
        return "A test of equivalence needs at least two replicates."
    tested = [name for name, one in metrics.items() if one["tost_p"] is not None]
    if not tested:
        return "Equivalence could not be tested."
    within = (
        f"within {margin_percent:g} % of ALS's mean (TOST, paired over the replicates, p < {SIGNIFICANCE:g})"
    )
    unproven = unproven_metrics(metrics)
    if not unproven:
        return f"Equivalence {within} is shown for all {len(tested)} metrics."
    named = ", ".join(f"{name} (p = {metrics[name]['tost_p']:.2g})" for name in unproven)
    shown = len(tested) - len(unproven)
    return f"Equivalence {within} is shown for {shown} of {len(tested)} metrics, not for {named}."


def _are_equal(one: Statistics, other: Statistics) -> bool:
    means = [[found[f"{side}_mean"] for side in ("centralized", "federated")] for found in (one, other)]
    first, second = np.array(means, np.float64)
    return bool(np.allclose(first, second, rtol=1e-6, atol=0, equal_nan=True))  # quotients of float32


def _loss_of_quality(name: str, difference_percent: float) -> float:
    return difference_percent if name in _LOWER_IS_BETTER else -difference_percent


def _measured(metrics: dict[str, Statistics]) -> list[str]:
    return [name for name, one in metrics.items() if one["difference_percent"] is not None]


def _finite(
    first: Float64[np.ndarray, "n"], second: Float64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "finite"], Float64[np.ndarray, "finite"]]:
    """Keep the pairs of which both are finite."""
    finite = np.isfinite(first) & np.isfinite(second)
    return first[finite], second[finite]


def _mean(values: Float64[np.ndarray, "n"]) -> float | None:
    return float(values.mean()) if values.size else None


def _sd(values: Float64[np.ndarray, "n"]) -> float | None:
    return float(values.std(ddof=1)) if values.size > 1 else None
