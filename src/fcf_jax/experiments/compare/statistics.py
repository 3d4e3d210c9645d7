"""What the builds of a comparison say: means, paired differences, equivalence, and a sentence about them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fcf_jax.evaluation import equivalence_test, paired_difference

SIGNIFICANCE = 0.05
_NORMALIZED = "normalized_"
_LOWER_IS_BETTER = ("rmse", "normalized_rmse", "loss")
Values = npt.NDArray[np.float64]
Figures = dict[str, Any]  # numbers by name, None for what cannot be computed


def compare_builds(
    centralized: dict[str, Values], federated: dict[str, Values], *, margin_percent: float
) -> dict[str, Figures]:
    """Compare both sides over the builds, metric by metric.

    Args:
        centralized: [builds] of each metric; builds in which it is not finite are left out.
        federated: the same metrics of the same builds.
        margin_percent: of the centralised mean; the largest difference that does not matter, fixed
            beforehand.

    Returns:
        Of each metric the means and standard deviations (n - 1) of both sides, `difference_percent` =
        100 (federated - centralized) / |centralized| of the means with its 95 % confidence interval,
        paired over the builds, and `tost_p`, the p value of `equivalence_test`.
    """
    return {
        name: _compare_metric(*_finite(values, federated[name]), margin_percent=margin_percent)
        for name, values in centralized.items()
    }


def compare_users(centralized: dict[str, Values], federated: dict[str, Values]) -> dict[str, Figures]:
    """Compare both sides user by user, each user's metric averaged over the builds first.

    Args:
        centralized: [builds, users] of each metric, the users in one order.
        federated: the same metrics of the same builds and users.

    Returns:
        Of each metric the number of users with a finite value and the difference of the means over them in
        percent, with its 95 % confidence interval, paired over the users.
    """
    compared = {}
    for name, values in centralized.items():
        of_users = _finite(values.mean(axis=0), federated[name].mean(axis=0))
        compared[name] = {"num_users": of_users[0].size, **_difference_percent(*of_users)}
    return compared


def distinct_metrics(metrics: dict[str, Figures]) -> dict[str, Figures]:
    """Leave out normalised metrics that equal the plain ones, as where the best possible value is 1."""
    return {
        name: one
        for name, one in metrics.items()
        if not name.startswith(_NORMALIZED) or not _are_equal(one, metrics[name.removeprefix(_NORMALIZED)])
    }


def worse_metrics(metrics: dict[str, Figures], *, tolerance_percent: float) -> list[str]:
    """Name the metrics that are worse than ALS's by more than the tolerance, in the mean of the builds."""
    return [
        name
        for name in _measured(metrics)
        if _loss_of_quality(name, metrics[name]["difference_percent"]) > tolerance_percent
    ]


def unproven_metrics(metrics: dict[str, Figures]) -> list[str]:
    """Name the metrics, of those that were tested, whose equivalence is not shown."""
    return [
        name for name, one in metrics.items() if one["tost_p"] is not None and one["tost_p"] >= SIGNIFICANCE
    ]


def verdict(
    metrics: dict[str, Figures], *, num_builds: int, margin_percent: float, tolerance_percent: float
) -> str:
    """Put the outcome into words.

    Each metric is tested at the level 0.05. That all are equivalent is claimed only where every single test
    says so, which needs no correction for their number (an intersection-union test).
    """
    measured = _measured(metrics)
    undefined = [name for name in metrics if name not in measured]
    sentences = [
        _on_quality(metrics, num_builds, tolerance_percent),
        _on_equivalence(metrics, num_builds, margin_percent),
    ]
    if undefined:
        sentences.append(f"Nothing can be said of {', '.join(undefined)}.")
    return " ".join(sentences)


def _compare_metric(centralized: Values, federated: Values, *, margin_percent: float) -> Figures:
    margin = margin_percent / 100 * abs(_mean(centralized) or 0.0)
    is_testable = centralized.size >= 2 and margin > 0
    return {
        "centralized_mean": _mean(centralized),
        "centralized_sd": _sd(centralized),
        "federated_mean": _mean(federated),
        "federated_sd": _sd(federated),
        **_difference_percent(centralized, federated),
        "tost_p": equivalence_test(federated, centralized, margin=margin) if is_testable else None,
    }


def _difference_percent(centralized: Values, federated: Values) -> Figures:
    """Give the paired difference and its interval, relative to the centralised mean."""
    names = ("difference_percent", "difference_low_percent", "difference_high_percent")
    scale = abs(_mean(centralized) or 0.0)
    if not scale:
        return dict.fromkeys(names)
    if centralized.size < 2:
        return dict.fromkeys(names) | {names[0]: 100 * float(federated[0] - centralized[0]) / scale}
    found = paired_difference(federated, centralized)
    ends = (found.mean, found.low, found.high)
    return {name: 100 * value / scale for name, value in zip(names, ends, strict=True)}


def _on_quality(metrics: dict[str, Figures], num_builds: int, tolerance_percent: float) -> str:
    over = f"Over {num_builds} builds" if num_builds > 1 else "In one build"
    if not _measured(metrics):
        return f"{over} nothing could be measured."
    worse = worse_metrics(metrics, tolerance_percent=tolerance_percent)
    by = f"by more than {tolerance_percent:g} %" + (" in the mean" if num_builds > 1 else "")
    if not worse:
        return f"{over} no metric of the federation is worse than centralised ALS's {by}."
    named = ", ".join(f"{name} ({metrics[name]['difference_percent']:+.2f} %)" for name in worse)
    return f"{over} the federation is worse than centralised ALS {by} in {named}."


def _on_equivalence(metrics: dict[str, Figures], num_builds: int, margin_percent: float) -> str:
    if num_builds < 2:
        return "One build allows no test of equivalence."
    tested = [name for name, one in metrics.items() if one["tost_p"] is not None]
    if not tested:
        return "Equivalence could not be tested."
    within = f"within {margin_percent:g} % of ALS's mean (TOST, paired over the builds, p < {SIGNIFICANCE:g})"
    unproven = unproven_metrics(metrics)
    if not unproven:
        return f"Equivalence {within} is shown for all {len(tested)} metrics."
    named = ", ".join(f"{name} (p = {metrics[name]['tost_p']:.2g})" for name in unproven)
    shown = len(tested) - len(unproven)
    return f"Equivalence {within} is shown for {shown} of {len(tested)} metrics, not for {named}."


def _are_equal(one: Figures, other: Figures) -> bool:
    means = [[figures[f"{side}_mean"] for side in ("centralized", "federated")] for figures in (one, other)]
    first, second = np.array(means, np.float64)
    return bool(np.allclose(first, second, rtol=1e-6, atol=0, equal_nan=True))  # quotients of float32


def _loss_of_quality(name: str, difference_percent: float) -> float:
    return difference_percent if name in _LOWER_IS_BETTER else -difference_percent


def _measured(metrics: dict[str, Figures]) -> list[str]:
    return [name for name, one in metrics.items() if one["difference_percent"] is not None]


def _finite(first: Values, second: Values) -> tuple[Values, Values]:
    """Keep the pairs of which both are finite."""
    finite = np.isfinite(first) & np.isfinite(second)
    return first[finite], second[finite]


def _mean(values: Values) -> float | None:
    return float(values.mean()) if values.size else None


def _sd(values: Values) -> float | None:
    return float(values.std(ddof=1)) if values.size > 1 else None
