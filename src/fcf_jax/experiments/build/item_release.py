"""What a noised run does to its data before the first round: cap histories, release item counts."""

import jax
import numpy as np
from jaxtyping import Float

from fcf_jax.core.records import Key
from fcf_jax.data import Interactions
from fcf_jax.data.split import cap_histories
from fcf_jax.experiments.config.privacy_modes import has_noise, needs_item_counts
from fcf_jax.experiments.config.privacy_numbers import participation_of
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.item_counts import item_weights, noisy_item_counts

_NO_ROUND = 2**32 - 1  # rounds derive their keys from their numbers


def trained_histories(config: ExperimentConfig, train: Interactions) -> Interactions:
    """Return what the clients train on: their histories, capped where noise asks for it."""
    most = config.privacy.max_user_items
    if most is None or not has_noise(config):
        return train
    return cap_histories(train, max_user_items=most, seed=config.data.seed)


def sent_histories(config: ExperimentConfig, train: Interactions) -> Interactions:
    """Return what an audit attacks: capped histories, of the items that are learned alone.

    The counts have the configured noise, from a fixed key: an audit releases nothing.
    """
    histories = trained_histories(config, train)
    if not needs_item_counts(config):
        return histories
    weights = weights_of_counts(config, release_item_counts(config, train, jax.random.key(0)))
    return Interactions.from_scipy(histories.to_scipy()[:, weights > 0])


def release_item_counts(
    config: ExperimentConfig, train: Interactions, key: Key
) -> Float[np.ndarray, "items"]:
    """Count items with the noise that the configuration calls for."""
    noise = participation_of(config, num_users=train.num_users).count_noise_multiplier
    options = {"clip_norm": config.privacy.count_clip_norm, "noise_multiplier": noise or 0.0}
    return noisy_item_counts(jax.random.fold_in(key, _NO_ROUND), trained_histories(config, train), **options)


def weights_of_counts(
    config: ExperimentConfig, counts: Float[np.ndarray, "items"]
) -> Float[np.ndarray, "items"]:
    """Make item weights of released counts, which costs nothing more."""
    privacy = config.privacy
    return item_weights(counts, head_share=privacy.head_items, power=privacy.item_weight_power)
