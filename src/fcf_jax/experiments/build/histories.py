"""Histories under differential privacy, before the first round: capped, and their noisy item counts."""

import jax
import numpy as np
from jaxtyping import Float

from fcf_jax.core.histories import Histories
from fcf_jax.core.records import Key
from fcf_jax.data import Interactions, with_negatives, with_pairs
from fcf_jax.data.split import cap_histories
from fcf_jax.experiments.config.protection import Protection
from fcf_jax.experiments.config.schema import ModelConfig, PrivacyConfig
from fcf_jax.privacy.item_counts import item_weights, noisy_item_counts
from fcf_jax.privacy.second_moments import Releases, second_moment_factors

_COUNTS, _MOMENTS = 2**32 - 1, 2**32 - 2  # folded into the key in place of a round index


def trained_histories(privacy: PrivacyConfig, train: Interactions, *, seed: int) -> Interactions:
    """Return the histories that clients train on, capped under noise if configured."""
    most = privacy.max_user_items
    if most is None or not privacy.has_noise:
        return train
    return cap_histories(train, max_user_items=most, seed=seed)


def compared_histories(model: ModelConfig, histories: Interactions, *, seed: int) -> Histories:
    """Add the sampled negatives that the objective compares with; none for squared errors."""
    if not model.has_sampled_negatives:
        return histories
    sample = with_pairs if model.objective == "bpr" else with_negatives
    return sample(histories, num_negatives=model.num_negatives, seed=seed)


def sent_histories(protection: Protection | None, train: Interactions, *, seed: int) -> Interactions:
    """Return the histories that an audit attacks: capped, with learned items only.

    Item counts have the configured noise, from a fixed key: an audit releases nothing.
    """
    if protection is None:
        return train
    histories = trained_histories(protection.privacy, train, seed=seed)
    if not protection.privacy.needs_item_counts:
        return histories
    counts = release_item_counts(protection, train, jax.random.key(0), seed=seed)
    weights = weights_of_counts(protection.privacy, counts)
    return Interactions.from_scipy(histories.to_scipy()[:, weights > 0])


def release_item_counts(
    protection: Protection, train: Interactions, key: Key, *, seed: int
) -> Float[np.ndarray, "items"]:
    """Count how many clients hold each item, with the noise that the protection pays for.

    Args:
        protection: of the run.
        train: histories, not capped.
        key: for the noise.
        seed: of the cap.

    Raises:
        ValueError: for counts that no budget pays for.
    """
    return noisy_item_counts(
        jax.random.fold_in(key, _COUNTS),
        trained_histories(protection.privacy, train, seed=seed),
        clip_norm=protection.privacy.count_clip_norm,
        noise_multiplier=protection.release_noise(protection.privacy.count_share),
    )


def release_second_moments(
    protection: Protection,
    train: Interactions,
    counts: Float[np.ndarray, "items"],
    key: Key,
    *,
    num_factors: int,
    seed: int,
) -> Float[np.ndarray, "items factors"]:
    """Compute the first item factors from second moments; other arguments as for `release_item_counts`.

    Args:
        counts: item counts as released.
        num_factors: K.
    """
    privacy = protection.privacy
    rest = 1 - privacy.count_share - privacy.moment_share
    num_items = privacy.num_learned_items(train.num_items)
    return second_moment_factors(
        jax.random.fold_in(key, _MOMENTS),
        trained_histories(privacy, train, seed=seed),
        counts,
        num_factors=num_factors,
        releases=Releases(
            num_moment_items=min(privacy.moment_items, num_items),
            num_items=num_items,
            moment_noise_multiplier=protection.release_noise(privacy.moment_share),
            projection_noise_multiplier=protection.release_noise(rest),
            clip_norm=privacy.moment_clip_norm,
        ),
    )


def weights_of_counts(
    privacy: PrivacyConfig, counts: Float[np.ndarray, "items"]
) -> Float[np.ndarray, "items"]:
    """Compute item weights from released counts, which costs no privacy."""
    return item_weights(counts, head_share=privacy.head_items, power=privacy.item_weight_power)
