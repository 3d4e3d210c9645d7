r"""Attack on published item factors: who took part, by the loss of a history at many models.

The attacker knows a user's history, and trains shadow models, each on a random half of the users. At the
attacked model it computes the loss of the history, min_x J_u(x), and compares it with the losses at the
shadows that were trained with this user and without: the logarithm of the ratio of two normal densities.
Each model is attacked with the help of all others.

References:
    Carlini et al., "Membership inference attacks from first principles", 2022, arXiv:2112.03570.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fcf_jax.data import Interactions
from fcf_jax.privacy.attacks.figures import Figure, ratio
from fcf_jax.privacy.attacks.knowledge import Public, weigh

FEWEST_MODELS = 6  # with fewer, no deviation of losses can be estimated
_LEAST_DEVIATION = 1e-6  # of the losses, relative


class Membership(NamedTuple):
    """Success of the attack over all models.

    Attributes:
        auc: how well members are told from others; 0.5 is chance.
        tpr: members found at the false positive rate.
    """

    auc: Figure
    tpr: Figure


def draw_halves(num_models: int, num_users: int) -> Bool[np.ndarray, "models users"]:
    """Draw which users each model is trained on; each user is in half of the models."""
    order = np.random.default_rng(0).random((num_models, num_users)).argsort(axis=0)
    return order < num_models // 2


def losses_of(public: Public, histories: Interactions) -> Float[np.ndarray, "users"]:
    """Compute min_x J_u(x) of each history in float64."""
    from scipy.sparse import csr_array

    y, w0 = public.item_factors, public.unobserved_weight
    confidence, preference = weigh(public, np.asarray(histories.strengths, np.float64))
    shape, places = (histories.num_users, histories.num_items), (histories.user_ids, histories.item_ids)
    pairs = (y[:, :, None] * y[:, None, :]).reshape(len(y), -1)
    extra = csr_array((confidence - w0, places), shape=shape) @ pairs
    shared = w0 * y.T @ y + public.regularization * np.eye(y.shape[1])
    right = np.asarray(csr_array((confidence * preference, places), shape=shape) @ y)
    x = np.linalg.solve(shared + extra.reshape(len(right), *shared.shape), right[:, :, None])[:, :, 0]
    at_zero = csr_array((confidence * preference**2, places), shape=shape).sum(axis=1)
    return np.asarray(at_zero) - (x * right).sum(axis=1)


def log_ratios(
    losses: Float[np.ndarray, "models users"], is_member: Bool[np.ndarray, "models users"]
) -> Float[np.ndarray, "models users"]:
    """Compute log p(with the user) / p(without) of each user at each model, fitted on all other models."""
    from scipy import stats

    ratios = np.empty_like(losses)
    least = _LEAST_DEVIATION * np.abs(losses).mean()
    for target in range(len(losses)):
        others, density = np.arange(len(losses)) != target, {}
        for member in (True, False):
            chosen = np.where(is_member[others] == member, losses[others], np.nan)
            deviation = np.maximum(np.nanstd(chosen, axis=0, ddof=1), least)
            density[member] = stats.norm.logpdf(losses[target], np.nanmean(chosen, axis=0), deviation)
        ratios[target] = density[True] - density[False]
    return ratios


def membership_of(
    losses: Float[np.ndarray, "models users"],
    is_member: Bool[np.ndarray, "models users"],
    *,
    false_positive_rate: float = 0.01,
) -> Membership:
    """Measure how well members are told from others, with intervals over users.

    Args:
        losses: of each history at each model.
        is_member: which users each model was trained on; at least two models with and without each user
            besides the attacked one.
        false_positive_rate: share of users who did not take part and may be claimed.

    Raises:
        ValueError: for too few models.
    """
    if len(losses) < FEWEST_MODELS:
        raise ValueError(f"expected at least {FEWEST_MODELS} shadow models, got {len(losses)}")
    ratios = log_ratios(losses, is_member)
    outside = np.sort(ratios[~is_member])
    below = np.searchsorted(outside, ratios, "left") + np.searchsorted(outside, ratios, "right")
    wins = np.where(is_member, below / (2 * len(outside)), 0.0).sum(axis=0)
    threshold = np.quantile(outside, 1.0 - false_positive_rate)
    found = (is_member & (ratios > threshold)).sum(axis=0)
    members = is_member.sum(axis=0)
    return Membership(ratio(wins, members), ratio(found, members))
