"""Ranking metrics of ONE user; the caller vmaps.

`hits[j]` is True if the item at rank j (0 is the best) is one of the user's test items, k is the length of
`hits`, and n = `num_relevant` the number of the user's test items. Relevance is binary. All metrics lie in
[0, 1], and are 0 for a user without test items. `docs/metrics.md` has the formulas, and who uses which.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.checks import require

RANKING = ("precision", "recall", "map", "ndcg")  # the metrics that tables and pictures begin with


class RankingMetrics(NamedTuple):
    """Metrics of the first k ranks, each in [0, 1].

    Attributes:
        precision: share of the k ranks that hold a test item.
        recall: share of the test items among the k ranks.
        f1: harmonic mean of precision and recall.
        map: average precision; its mean over users is the MAP.
        ndcg: normalized discounted cumulative gain.
        hit_rate: 1 with at least one hit, otherwise 0.
    """

    precision: Float[Array, "*users"]
    recall: Float[Array, "*users"]
    f1: Float[Array, "*users"]
    map: Float[Array, "*users"]
    ndcg: Float[Array, "*users"]
    hit_rate: Float[Array, "*users"]


class SampledMetrics(NamedTuple):
    """Metrics of the rank of a test item among sampled negatives, each in [0, 1].

    Attributes:
        hit_rate: probability that the test item is among the first k.
        ndcg: expected 1 / log2(rank + 2), 0 from rank k on.
    """

    hit_rate: Float[Array, "*users"]
    ndcg: Float[Array, "*users"]


def lengths_of(k: int | Sequence[int]) -> tuple[int, ...]:
    """Return the lengths of the ranked lists, ascending and each once.

    Raises:
        ValueError: for none, or a length below 1.
    """
    lengths = [*k] if isinstance(k, Iterable) else [k]
    for length in lengths or [0]:
        require(k=length)
    return tuple(sorted({int(length) for length in lengths}))


def metric_names(k: int | Sequence[int], *, has_negatives: bool = False) -> list[str]:
    """Return the names of the metrics that `evaluate` returns.

    Args:
        k: length of the ranked lists, or several.
        has_negatives: whether users have sampled negatives.
    """
    lengths = lengths_of(k)
    plain = [f"{name}_at_{length}" for length in lengths for name in RankingMetrics._fields]
    plain += ["rmse", "auc"]
    sampled = [f"sampled_{name}_at_{length}" for length in lengths for name in SampledMetrics._fields]
    return plain + [f"normalized_{name}" for name in plain] + (sampled if has_negatives else [])


class UserMetrics(NamedTuple):
    """Metrics of each user, and sums for means over all test interactions.

    Attributes:
        at_k: metrics of the first k ranks, by k.
        best_at_k: metrics of a perfect ranking, by k; with fewer than k test items, its precision is below 1.
        auc: share of pairs of a test item and an item of neither set in which the test item scores higher.
        squared_error_sum: sum of (p - x.y)^2 over the user's test items.
        squared_preference_sum: sum of p^2 over the user's test items.
        num_relevant: number of test items, at least 1 for an evaluated user.
        sampled: metrics of the test items among the user's sampled negatives, by k; None without negatives.
    """

    at_k: dict[int, RankingMetrics]
    best_at_k: dict[int, RankingMetrics]
    auc: Float[Array, "*users"]
    squared_error_sum: Float[Array, "*users"]
    squared_preference_sum: Float[Array, "*users"]
    num_relevant: Int[Array, "*users"]
    sampled: dict[int, SampledMetrics] | None = None


def ranking_metrics(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> RankingMetrics:
    """Compute all metrics of a ranked list."""
    return RankingMetrics(
        precision=precision_at_k(hits, num_relevant),
        recall=recall_at_k(hits, num_relevant),
        f1=f1_at_k(hits, num_relevant),
        map=average_precision_at_k(hits, num_relevant),
        ndcg=ndcg_at_k(hits, num_relevant),
        hit_rate=hit_rate_at_k(hits, num_relevant),
    )


def best_ranking_metrics(num_relevant: Int[Array, ""], *, k: int) -> RankingMetrics:
    """Compute all metrics of the best possible list, in which all test items come first.

    With m = min(n, k): precision m / k, recall m / n, f1 2m / (n + k); 1 for the others.
    """
    return ranking_metrics(jnp.arange(k) < num_relevant, num_relevant)


def precision_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute hits / k, also if there are fewer than k test items or candidates."""
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
    total = jnp.sum(jnp.where(hits, precisions, 0.0))
    return total / _num_possible(hits, num_relevant).astype(total.dtype)


def ndcg_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute the discounted gain of the hits, 1 / log2(rank + 2) each, divided by that of the best list.

    References:
        Jarvelin & Kekalainen (2002), with binary relevance and the best list of min(n, k) hits.
    """
    ranks = jnp.arange(hits.shape[0])
    discounts = 1.0 / jnp.log2(ranks.astype(float) + 2.0)
    best = jnp.sum(jnp.where(ranks < _num_possible(hits, num_relevant), discounts, 0.0))
    return jnp.sum(jnp.where(hits, discounts, 0.0)) / best


def hit_rate_at_k(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Float[Array, ""]:
    """Compute 1 if there is at least one hit, otherwise 0."""
    return jnp.any(hits).astype(jnp.result_type(float))


def sampled_metrics(num_above: Int[Array, ""], num_tied: Int[Array, ""], *, k: int) -> SampledMetrics:
    """Compute the metrics of a test item among sampled negatives, averaged over all orders of ties.

    With a negatives above and t tied, the rank is a, ..., a + t with equal probability. A model that scores
    everything alike reaches a hit rate of k / (number of candidates), and not 1.

    Args:
        num_above: negatives that score higher.
        num_tied: negatives that score the same.
        k: length of the list, at least 1.

    References:
        He et al., WWW 2017 (NCF), section 4.1, for hit rate and NDCG of one test item among 99 negatives.

    Example:
        >>> sampled_metrics(jnp.array(0), jnp.array(99), k=10).hit_rate.item()  # 100 candidates, all tied
        0.10000000149011612
    """
    gains = jnp.pad(jnp.cumsum(1.0 / jnp.log2(jnp.arange(k) + 2.0)), (1, 0))  # of the first 0, ..., k ranks
    first, after = jnp.minimum(num_above, k), jnp.minimum(num_above + num_tied + 1, k)
    return SampledMetrics(
        hit_rate=(after - first) / (num_tied + 1),
        ndcg=(gains[after] - gains[first]) / (num_tied + 1),
    )


def _num_possible(hits: Bool[Array, "k"], num_relevant: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.clip(num_relevant, 1, hits.shape[0])  # at least 1, so that nothing is divided by 0
