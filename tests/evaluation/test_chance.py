"""Metrics of a random order: against the mean over all orders, and against a shuffle."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from fcf_jax.evaluation import RankingMetrics, chance_metrics, evaluate_chance, ranking_metrics


@pytest.mark.parametrize(
    ("num_relevant", "num_candidates", "k"), [(2, 5, 3), (3, 5, 2), (1, 4, 1), (2, 3, 4)]
)
def test_expectation_matches_the_mean_over_all_orders(num_relevant, num_candidates, k):
    orders = [
        np.isin(np.arange(num_candidates), chosen)
        for chosen in itertools.combinations(range(num_candidates), num_relevant)
    ]
    lists = np.pad(np.array(orders), ((0, 0), (0, max(k - num_candidates, 0))))[:, :k]
    each = [ranking_metrics(jnp.asarray(hits), jnp.asarray(num_relevant)) for hits in lists]
    expected = chance_metrics(np.array([num_relevant]), num_candidates, k=k)
    for name in RankingMetrics._fields:
        mean = np.mean([getattr(one, name) for one in each])
        np.testing.assert_allclose(expected[name], [mean], rtol=1e-5, err_msg=name)


def test_means_are_over_users_with_test_items():
    found = evaluate_chance([0, 1, 4], 50, k=[5, 10])
    assert found["recall_at_5"] == pytest.approx(0.1) and found["recall_at_10"] == pytest.approx(0.2)
    assert found["precision_at_5"] == pytest.approx((1 + 4) / 2 / 50)
    assert found["auc"] == 0.5
    assert np.isnan(evaluate_chance([0], 3, k=1)["recall_at_1"])
