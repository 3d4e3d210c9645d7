"""Limits set by noise: the highest AUC of any attacker, and the ratio of noise to the server's signal."""

import math


def in_out_auc_ceiling(noise_multiplier: float, num_rounds: int = 1) -> float:
    r"""Bound the AUC of any attack that decides whether one client took part in the run.

    Phi(mu / \sqrt 2), mu = \sqrt T / sigma: over all rounds the client moves the noised sums by at most
    \sqrt T clip norms, so no attack does better than one that distinguishes N(0, sigma^2) from
    N(\sqrt T, sigma^2). The bound is for a client that takes part in every round and an attacker who knows
    all other uploads; sampling lowers it.

    Args:
        noise_multiplier: sigma, in clip norms, at least 0.
        num_rounds: T, at least 0.

    References:
        Dong, Roth & Su, JRSS B 2022, theorem 2.7 and corollary 3.3 (Gaussian DP composes to \sqrt T / sigma).
    """
    return _auc(1.0, noise_multiplier, num_rounds)


def item_auc_ceiling(noise_multiplier: float, num_rounds: int = 1) -> float:
    r"""Bound the AUC of any attack that decides whether a client's history contains a given item.

    Phi(\sqrt 2 mu), mu = \sqrt T / sigma: uploads of two histories, each clipped to C, differ by at most 2 C.
    The AUC is of one item across users; across items, popularity alone can exceed it.

    Args:
        noise_multiplier: sigma, in clip norms, at least 0.
        num_rounds: T, at least 0.

    References:
        Dong, Roth & Su, JRSS B 2022, as for `in_out_auc_ceiling`, with twice the distance.
    """
    return _auc(2.0, noise_multiplier, num_rounds)


def noise_to_signal(
    *, noise_multiplier: float, num_items: int, num_factors: int, cohort_size: float, num_rounds: int = 1
) -> float:
    r"""Compute the expected norm of the noise on a round's sum over the largest possible norm of the sum.

    \sigma \sqrt{M K} / (\Theta \sqrt T): noise of norm sigma C \sqrt{M K} on \Theta uploads of norm at most C
    that all point in one direction. Real sums are shorter: the ratio compares choices, and does not predict
    quality.

    Args:
        noise_multiplier: sigma, in clip norms.
        num_items: M, the items that are trained.
        num_factors: K.
        cohort_size: \Theta, expected.
        num_rounds: T, the rounds averaged over.
    """
    return noise_multiplier * math.sqrt(num_items * num_factors / num_rounds) / cohort_size


def _auc(distance: float, noise_multiplier: float, num_rounds: int) -> float:
    """Return the AUC between two Gaussians: Phi(distance in standard deviations / sqrt 2)."""
    if not noise_multiplier >= 0 or num_rounds < 0:
        raise ValueError(
            f"expected noise_multiplier and num_rounds of at least 0, got {noise_multiplier} and {num_rounds}"
        )
    if noise_multiplier == 0:
        return 1.0 if num_rounds else 0.5
    return 0.5 * math.erfc(-0.5 * distance * math.sqrt(num_rounds) / noise_multiplier)
