"""Privacy: accounting, ceilings, item counts, secure sums, and the attacks that test them.

Clipping and noise themselves are links of the channel (`fcf_jax.channel.clip_and_noise`). Accounting needs
the package dp-accounting (extra `dp`), secure sums need cryptography (extra `secure`).
"""

from fcf_jax.privacy import attacks, secure_sum
from fcf_jax.privacy.accounting import (
    Participation,
    accountant_used,
    calibrated_noise_multiplier,
    epsilon,
    epsilon_by_round,
    participation_of,
    single_noise_multiplier,
)
from fcf_jax.privacy.federated_metrics import FederatedMeans, federated_means
from fcf_jax.privacy.item_counts import item_weights, noisy_item_counts
from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling, noise_to_signal

__all__ = [
    "FederatedMeans",
    "Participation",
    "accountant_used",
    "attacks",
    "calibrated_noise_multiplier",
    "epsilon",
    "epsilon_by_round",
    "federated_means",
    "in_out_auc_ceiling",
    "item_auc_ceiling",
    "item_weights",
    "noise_to_signal",
    "noisy_item_counts",
    "participation_of",
    "secure_sum",
    "single_noise_multiplier",
]
