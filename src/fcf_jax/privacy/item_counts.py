r"""Item counts with noise, released once before the first round, and the weights of items made of them.

    n_i = \sum_u a_u [i in I_u] + N(0, (sigma C)^2),    a_u = min(1, C / \sqrt |I_u|)

A client that sends its history scaled to norm C moves the vector n by C at most. Rounds can then
leave the tail of the catalogue out, or share their noise among items by how often they are met.
"""

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from fcf_jax.core.records import Key
from fcf_jax.data.interactions import Interactions


def noisy_item_counts(
    key: Key, histories: Interactions, *, clip_norm: float, noise_multiplier: float
) -> Float[np.ndarray, "items"]:
    """Release how often each item occurs, long histories scaled down; Gaussian, for one user's data.

    Args:
        key: of the noise.
        histories: of everybody.
        clip_norm: C, above 0: histories of more than C^2 items count for less.
        noise_multiplier: sigma, in clip norms, at least 0.
    """
    longest = np.maximum(histories.history_lengths, 1)
    factors = np.minimum(1.0, clip_norm / np.sqrt(longest))
    counts = np.bincount(histories.item_ids, factors[histories.user_ids], histories.num_items)
    noise = np.asarray(jax.random.normal(key, (histories.num_items,)), np.float64)
    return counts + noise_multiplier * clip_norm * noise


def item_weights(
    counts: npt.NDArray[np.floating], *, head_share: float = 1.0, power: float = 0.0
) -> Float[np.ndarray, "items"]:
    """Weigh items inside the clip norm: n_i^(-power / 2) for the most frequent ones, 0 for the tail.

    An item of weight 0 is not sent at all. A larger weight means less noise on an item, at the cost of
    all others. Weights have a mean square of 1 over the items that are sent, so that the clip norm
    keeps its meaning.

    Args:
        counts: n_i, which may be noisy.
        head_share: of the items that are sent, in (0, 1].
        power: 0 treats the items of the head alike; above 0, rare ones get less noise.

    References:
        Chien et al., "Private Alternating Least Squares", ICML 2021 (items of the head alone); Krichene et
        al., "Multi-Task Differential Privacy Under Distribution Skew", ICML 2023 (weights by counts).
    """
    if not 0 < head_share <= 1:
        raise ValueError(f"expected head_share in (0, 1], got {head_share}")
    num_sent = max(1, round(head_share * len(counts)))
    sent = np.argsort(-counts, kind="stable")[:num_sent]
    weights = np.maximum(counts[sent], 1.0) ** (-power / 2)
    spread = np.zeros(len(counts), np.float32)
    spread[sent] = weights / np.sqrt(np.mean(weights**2))
    return spread
