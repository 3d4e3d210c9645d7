"""Figures with bootstrap confidence intervals over users.

A vectorised bootstrap: multinomial counts of the users weigh sums. Percentile intervals of 95 %.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

_RESAMPLES = 1000
_ENDS = (2.5, 97.5)


class Figure(NamedTuple):
    """A figure with its 95 % interval.

    Attributes:
        value: from all users.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def exactly(value: float) -> Figure:
    """Return a figure that is known without error."""
    return Figure(value, value, value)


def ratio(
    numerators: Num[np.ndarray, "users"] | Bool[np.ndarray, "users"],
    denominators: Num[np.ndarray, "users"] | Bool[np.ndarray, "users"],
    *,
    seed: int = 0,
) -> Figure:
    """Divide sums over users; where all resamples of a share agree, the interval is by the rule of three."""
    counts = _counts(len(numerators), seed)
    tops, bottoms = counts @ np.asarray(numerators, float), counts @ np.asarray(denominators, float)
    if not np.sum(denominators) > 0:
        return exactly(math.nan)
    value = float(np.sum(numerators) / np.sum(denominators))
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], _ENDS)
    reach = min(3 / len(numerators), 1.0)
    if value in (0.0, 1.0) and low == high:
        return Figure(value, max(value - reach, 0.0), min(value + reach, 1.0))
    return Figure(value, float(low), float(high))


def auc_across_users(
    scores: Num[np.ndarray, "users items"], is_held: Bool[np.ndarray, "users items"], *, seed: int = 0
) -> Figure:
    """Compute the AUC between users who hold an item and users who do not; its popularity cancels."""
    wins, pairs = wins_across_users(scores, is_held)
    if not pairs.any():
        return exactly(math.nan)
    counts = _counts(len(scores), seed)
    tops = np.einsum("bu,bu->b", counts @ wins, counts)
    bottoms = np.einsum("bu,bu->b", counts @ pairs, counts)
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], _ENDS)
    return Figure(float(wins.sum() / pairs.sum()), float(low), float(high))


def wins_across_users(
    scores: Num[np.ndarray, "users items"] | Bool[np.ndarray, "users items"],
    is_held: Bool[np.ndarray, "users items"],
) -> tuple[Float[np.ndarray, "users users"], Float[np.ndarray, "users users"]]:
    """Count wins and pairs over the items that the first user holds and the second does not."""
    num_users = len(scores)
    wins, pairs = np.zeros((num_users, num_users)), np.zeros((num_users, num_users))
    for user in range(num_users):
        (items,) = np.nonzero(is_held[user])
        others, lacks = scores[:, items], ~is_held[:, items]
        own = scores[user, items]
        wins[user] = (((own > others) + 0.5 * (own == others)) * lacks).sum(axis=1)
        pairs[user] = lacks.sum(axis=1)
    return wins, pairs


def true_positive_rate(
    scores: Num[np.ndarray, "users items"],
    is_held: Bool[np.ndarray, "users items"],
    *,
    false_positive_rate: float = 1e-3,
    seed: int = 0,
) -> Figure:
    """Compute the share of held items that score above nearly all others, with one threshold for all users.

    Args:
        scores: of every item for every user.
        is_held: the truth.
        false_positive_rate: share of items that are not held and may score above the threshold.
        seed: of the resamples.
    """
    if is_held.all() or not is_held.any():
        return exactly(math.nan)
    threshold = np.quantile(scores[~is_held], 1.0 - false_positive_rate)
    return ratio(((scores > threshold) & is_held).sum(axis=1), is_held.sum(axis=1), seed=seed)


def _counts(num_users: int, seed: int) -> Float[np.ndarray, "resamples users"]:
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_users, np.full(num_users, 1 / num_users), _RESAMPLES).astype(float)
