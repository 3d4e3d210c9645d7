"""Statistics of a comparison: means, intervals, equivalence and the verdict."""

import numpy as np
import pytest
from scipy import stats

from fcf_jax.experiments.compare.statistics import (
    compare_replicates,
    compare_users,
    distinct_metrics,
    headline,
    unproven_metrics,
    verdict,
    worse_metrics,
)

RNG = np.random.default_rng(0)


def values(offset, *, num=8):
    base = 0.3 + 0.01 * np.arange(num) / num
    return base, base * (1 + offset) + 1e-5 * RNG.normal(size=num)


def test_figures_match_scipy():
    centralized, federated = values(0.004)
    (found,) = compare_replicates({"a": centralized}, {"a": federated}, margin_percent=1.0).values()
    scale, margin = 100 / centralized.mean(), 0.01 * centralized.mean()
    interval = stats.ttest_rel(federated, centralized).confidence_interval(0.95)
    tests = [
        stats.ttest_rel(federated + sign * margin, centralized, alternative=tail).pvalue
        for sign, tail in ((1, "greater"), (-1, "less"))
    ]
    assert found["difference_low_percent"] == pytest.approx(scale * interval.low)
    assert found["difference_high_percent"] == pytest.approx(scale * interval.high)
    assert found["tost_p"] == pytest.approx(max(tests))


def test_users_are_averaged_over_replicates_first():
    centralized = np.array([[1.0, 2.0, np.nan], [3.0, 2.0, 1.0]])
    (found,) = compare_users({"a": centralized}, {"a": centralized + [[1.0, 0.0, 0.0]]}).values()
    assert found["num_users"] == 2  # one is nan in a build
    assert found["difference_percent"] == pytest.approx(25.0)  # 1 and 0, of a mean of 2


def test_verdict_names_what_is_worse_and_what_is_not_shown():
    sides = {
        "map_at_10": values(-0.02), "recall_at_10": values(0.02), "rmse": values(0.02), "loss": values(-0.001)
    }  # fmt: skip
    centralized, federated = ({name: pair[side] for name, pair in sides.items()} for side in (0, 1))
    metrics = compare_replicates(centralized, federated, margin_percent=1.0)
    assert worse_metrics(metrics, tolerance_percent=0.5) == ["map_at_10", "rmse"]
    assert unproven_metrics(metrics) == ["map_at_10", "recall_at_10", "rmse"]
    text = verdict(metrics, num_replicates=8, margin_percent=1.0, tolerance_percent=0.5)
    assert "by more than 0.5 % on average in map_at_10 (-2.00 %), rmse (+2.00 %)." in text
    assert "shown for 1 of 4 metrics, not for map_at_10 (p = " in text
    named = {name: metrics[name] for name in ("map_at_10", "recall_at_10", "loss")}
    assert headline(named, margin_percent=1.0) == "Not equivalent: 1 of 3; worst: map_at_10 -2.00 %"
    good = {"loss": metrics["loss"]}
    assert headline(good, margin_percent=1.0) == "Equivalent within 1 %: 1 of 1; worst: loss -0.10 %"
    text = verdict(good, num_replicates=8, margin_percent=1.0, tolerance_percent=0.5)
    assert (
        "Over 8 replicates, no metric of the federation is worse than that of centralised ALS by" in text
        and "shown for all 1 metrics" in text
    )


def test_normalized_metrics_that_equal_the_plain_ones_are_left_out():
    sides = {"auc": values(0.0), "rmse": values(0.0)}
    sides |= {"normalized_auc": sides["auc"], "normalized_rmse": values(0.1)}
    centralized, federated = ({name: pair[side] for name, pair in sides.items()} for side in (0, 1))
    metrics = compare_replicates(centralized, federated, margin_percent=1.0)
    assert list(distinct_metrics(metrics)) == ["auc", "rmse", "normalized_rmse"]
