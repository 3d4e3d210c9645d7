r"""Noisy item counts, released once before the first round, and item weights computed from them.

    n_i = \sum_u a_u [i in I_u] + N(0, (sigma C)^2),    a_u = min(1, C / \sqrt |I_u|)

A client changes the vector n by at most C. The noise is that of `fcf_jax.channel.noise`.
Rounds can then leave the tail of the catalogue out, or divide the noise among items by their counts.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from fcf_jax.core.records import Key
from fcf_jax.data.interactions import Interactions
from fcf_jax.privacy.releases import released


def noisy_item_counts(
    key: Key, histories: Interactions, *, clip_norm: float, noise_multiplier: float
) -> Float[np.ndarray, "items"]:
    """Count how often each item occurs, with clipped histories and Gaussian noise, private for each user.

    Args:
        key: key of the noise.
        histories: histories of all users.
        clip_norm: C, above 0; histories of more than C^2 items are scaled down.
        noise_multiplier: sigma, above 0.

    Raises:
        ValueError: for counts without noise, or noise that is too large to be drawn.
    """
    counts = clipped_item_counts(histories, clip_norm=clip_norm)
    return released(key, counts, clip_norm=clip_norm, noise_multiplier=noise_multiplier)


def clipped_item_counts(histories: Interactions, *, clip_norm: float) -> Float[np.ndarray, "items"]:
    """Count how often each item occurs, without noise; histories are scaled to the clip norm at most."""
    factors = np.minimum(1.0, clip_norm / np.sqrt(np.maximum(histories.history_lengths, 1)))
    return np.bincount(histories.item_ids, factors[histories.user_ids], histories.num_items)


def item_weights(
    counts: npt.NDArray[np.floating], *, head_share: float = 1.0, power: float = 0.0
) -> Float[np.ndarray, "items"]:
    """Compute the weights of items in a client's norm: n_i^(-power / 2) for the head, 0 for the tail.

    An item of weight 0 is not sent. An item with a larger weight gets less noise, at the cost of the others.
    The mean square of the weights of the head is 1, so that clip norms keep their meaning.

    Args:
        counts: n_i, which may be noisy.
        head_share: share of the items that form the head, the most frequent ones, in (0, 1].
        power: 0 for equal weights in the head; above 0, rarer items get less noise.

    Raises:
        ValueError: for a `head_share` outside (0, 1].

    References:
        Chien et al., "Private Alternating Least Squares", ICML 2021 (sending the head only); Krichene et al.,
        "Multi-Task Differential Privacy Under Distribution Skew", ICML 2023 (weights by counts).
    """
    if not 0 < head_share <= 1:
        raise ValueError(f"expected head_share in (0, 1], got {head_share}")
    num_sent = max(1, round(head_share * len(counts)))
    sent = np.argsort(-counts, kind="stable")[:num_sent]
    weights = np.maximum(counts[sent], 1.0) ** (-power / 2)
    of_all = np.zeros(len(counts), np.float32)
    of_all[sent] = weights / np.sqrt(np.mean(weights**2))
    return of_all
