r"""Attacks on uploads and sums with noise: which items a client holds, and whether it took part.

Items, from one upload Z = a e x^T + noise: Z is projected on a direction, which scores the items. The
client's own direction is lost early, since the noise has a spectral norm of about sigma C sqrt(M). The
expected factor of a client that holds item i survives longer, and it has a sign.

Membership, for an attacker who knows all other uploads and g_u, the upload of u in clip norms: the
likelihood ratio is a monotone function of the noised sum, less the others', projected on g_u. That is
N(|g_u|, sigma^2) if u took part and N(0, sigma^2) if not. No attack does better (Neyman & Pearson).
"""

import numpy as np
from jaxtyping import Float

from fcf_jax.privacy.attacks.figures import Figure, ratio
from fcf_jax.privacy.attacks.knowledge import Public

_DRAWS = 1000  # of each user's statistic, with the user and without


def expected_factors(
    public: Public, shares: Float[np.ndarray, "items"]
) -> tuple[Float[np.ndarray, "factors"], Float[np.ndarray, "items factors"]]:
    """Compute the factor x of a history in which item j counts p_j, and x_i of one that surely holds item i.

    Strengths are taken as 1.

    Args:
        public: the server's knowledge.
        shares: p, the share of clients that hold each item; public.
    """
    factors, w0 = public.item_factors, public.unobserved_weight
    confidence = 1.0 + (public.alpha or 0.0)
    matrix = w0 * factors.T @ factors + (factors.T * (shares * (confidence - w0))) @ factors
    matrix += max(public.regularization, 1e-9 * np.trace(matrix)) * np.eye(factors.shape[1])
    mean = np.linalg.solve(matrix, confidence * factors.T @ shares)
    return mean, mean + np.linalg.solve(matrix, confidence * factors.T).T


def scores_by_expectation(
    uploads: Float[np.ndarray, "clients items factors"], expected: Float[np.ndarray, "items factors"]
) -> Float[np.ndarray, "clients items"]:
    """Score item i of every client by z_i x_i / |x_i|, with x_i its expected factor."""
    lengths = np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-300)
    return np.einsum("uik,ik->ui", uploads, expected / lengths, optimize=True)


def scores_by_own_direction(
    uploads: Float[np.ndarray, "clients items factors"], mean: Float[np.ndarray, "factors"]
) -> Float[np.ndarray, "clients items"]:
    """Score every item by Z v, with v the upload's leading direction, on the side of the mean factor x."""
    own = np.stack([np.linalg.eigh(np.asarray(z.T @ z, np.float64))[1][:, -1] for z in uploads])
    own *= np.where(own @ mean < 0, -1.0, 1.0)[:, None]
    return np.einsum("uik,uk->ui", uploads, own, optimize=True)


def membership(
    signals: Float[np.ndarray, "users"],
    *,
    noise_multiplier: float,
    num_rounds: int = 1,
    false_positive_rate: float = 1e-3,
) -> tuple[Figure, Figure]:
    """Measure how well a user who took part is distinguished from one who did not.

    The noise is drawn along g_u, where it is N(0, sigma^2) as in any direction.

    Args:
        signals: |g_u| of each user, at most 1.
        noise_multiplier: sigma.
        num_rounds: rounds with one model, which are averaged.
        false_positive_rate: at which the second figure is read.

    Returns:
        The AUC, and the true positive rate at `false_positive_rate`.
    """
    rng = np.random.default_rng(0)
    noise = noise_multiplier / np.sqrt(num_rounds) * rng.normal(size=(2, len(signals), _DRAWS))
    with_user, without = signals[:, None] + noise[0], noise[1]
    wins = [_mean_wins(*draws) for draws in zip(with_user, without, strict=True)]
    threshold = np.quantile(without, 1.0 - false_positive_rate)
    draws = np.full(len(signals), float(_DRAWS))
    return ratio(np.array(wins), draws), ratio((with_user > threshold).sum(axis=1), draws)


def _mean_wins(with_user: Float[np.ndarray, "draws"], without: Float[np.ndarray, "draws"]) -> float:
    """Sum, over draws with the user, the share of draws without it that are smaller; ties count half."""
    without = np.sort(without)
    below = np.searchsorted(without, with_user, "left")
    up_to = np.searchsorted(without, with_user, "right")
    return float((below + up_to).sum()) / (2 * len(without))
