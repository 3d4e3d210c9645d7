"""Ranking metrics of ONE user; the caller vmaps.

`hits[j]` is True if the item at rank j (0 is the best) is one of the user's test items; k is the length of
`hits`, and `num_relevant` the number of the user's test items, n. All metrics lie in [0, 1], with binary
relevance, and are 0 for a user without test items.
"""

from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class RankingMetrics(NamedTuple):
    """Metrics of the first k ranks, each in [0, 1].

    Attributes:
        precision: share of the k ranks that hit.
        recall: share of the test items that are hit.
        f1: harmonic mean of both.
        map: average precision of one user; its mean over users is the MAP.
        ndcg: normalized discounted cumulative gain.
        hit_rate: 1 if anything is hit.
    """

    precision: Float[Array, "*users"]
    recall: Float[Array, "*users"]
    f1: Float[Array, "*users"]
    map: Float[Array, "*users"]
    ndcg: Float[Array, "*users"]
    hit_rate: Float[Array, "*users"]


def metric_names(k: int) -> list[str]:
    """Name the metrics that `evaluate` returns."""
    plain = [*(f"{name}_at_{k}" for name in RankingMetrics._fields), "rmse", "auc"]
    return plain + [f"normalized_{name}" for name in plain]


class UserMetrics(NamedTuple):
    """Metrics of each user; sums where the division happens over all users at once.

    Attributes:
        at_k: metrics of the first k ranks.
        best_at_k: those of a perfect ranking: with fewer than k test items no precision reaches 1.
        auc: how often a test item scores above an item of neither set.
        squared_error_sum: sum of (p - x.y)^2 over the user's test items.
        squared_preference_sum: the same for the prediction 0.
        num_relevant: test items, at least 1 for a user that is evaluated.
    """

    at_k: RankingMetrics
    best_at_k: RankingMetrics
    auc: Float[Array, "*users"]
    squared_error_sum: Float[Array, "*users"]
    squared_preference_sum: Float[Array, "*users"]
    num_relevant: Int[Array, "*users"]


def ranking_metrics(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> RankingMetrics:
    """Compute every metric of one ranked list."""
    return RankingMetrics(
        precision=precision_at_k(hits, num_relevant),
        recall=recall_at_k(hits, num_relevant),
        f1=f1_at_k(hits, num_relevant),
        map=average_precision_at_k(hits, num_relevant),
        ndcg=ndcg_at_k(hits, num_relevant),
        hit_rate=hit_rate_at_k(hits, num_relevant),
    )


def best_ranking_metrics(num_relevant: Int[Array, ""], *, k: int) -> RankingMetrics:
    """Compute every metric of the best possible list: all test items first.

    With m = min(n, k): precision m / k, recall m / n, f1 2m / (n + k); 1 for the others.
    """
    return ranking_metrics(jnp.arange(k) < num_relevant, num_relevant)


def precision_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute hits / k, whatever the number of test items or of candidates."""
    del num_relevant
    return jnp.sum(hits) / hits.shape[0]


def recall_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute hits / n."""
    return jnp.sum(hits) / jnp.maximum(num_relevant, 1)


def f1_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute the harmonic mean of precision and recall, 2 hits / (k + n)."""
    return 2 * jnp.sum(hits) / (hits.shape[0] + num_relevant)


def average_precision_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Average the precision at the rank of each hit, over the min(n, k) hits that are possible.

    Example:
        >>> average_precision_at_k(jnp.array([True, False, True]), jnp.array(2)).item()  # (1 + 2/3) / 2
        0.8333333730697632
    """
    precisions = jnp.cumsum(hits) / (1 + jnp.arange(hits.shape[0]))
    return jnp.sum(jnp.where(hits, precisions, 0.0)) / _num_possible(hits, num_relevant)


def ndcg_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute the discounted gain of the hits, 1 / log2(rank + 2) each, over that of the best list.

    References:
        Jarvelin & Kekalainen (2002), with binary relevance and the best list of min(n, k) hits.
    """
    ranks = jnp.arange(hits.shape[0])
    discounts = 1.0 / jnp.log2(ranks + 2.0)
    best = jnp.sum(jnp.where(ranks < _num_possible(hits, num_relevant), discounts, 0.0))
    return jnp.sum(jnp.where(hits, discounts, 0.0)) / best


def hit_rate_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Say whether there is any hit, 1 or 0."""
    del num_relevant
    return jnp.any(hits).astype(jnp.result_type(float))


def _num_possible(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.clip(num_relevant, 1, hits.shape[0])  # at least 1: nobody is divided by 0
