"""Bounds of the numbers that clients send, for rounds summed in fixed point as secure sums are.

Masks are not simulated in training. They cancel exactly, so the server steps on the same integers with or
without them (`fcf_jax.privacy.secure_sum`).
"""

from collections.abc import Sequence

import numpy as np

from fcf_jax.channel import Pieces
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.config.schema import ExperimentConfig

_ROUNDED_UP = 1 + 1e-6  # keeps the float32 numbers of clients within the bound
_LEAST_BOUND = 1e-6


def facts_of(config: ExperimentConfig, *datasets: Dataset, num_replicates: int = 1) -> Facts:
    """Collect the facts about the data that checks need.

    Args:
        config: as resolved.
        *datasets: splits of the same data, which share the formats of sums.
        num_replicates: replicates that are trained, with consecutive seeds.
    """
    train = datasets[0].split.train
    return Facts(
        num_users=train.num_users,
        num_items=train.num_items,
        num_interactions=train.num_interactions,
        bounds=largest_bounds(config, datasets) if config.is_in_fixed_point else None,
        num_replicates=num_replicates,
    )


def largest_bounds(config: ExperimentConfig, datasets: Sequence[Dataset]) -> Pieces[float]:
    """Return a bound for each piece that holds for all data sets.

    Bounds are those of the configuration; where unset, the largest values in the training data.
    """
    privacy = config.privacy
    alpha = config.model.alpha if config.data.feedback == "implicit" else None
    w0 = config.model.unobserved_weight
    largest = [_largest(data.split.train, data.mean_rating, alpha, w0) for data in datasets]
    confidence, loss = (max(column) for column in zip(*largest, strict=True))
    return Pieces(
        upload=privacy.upload_bound,
        user_gram=privacy.gram_bound,
        confidence_sum=confidence if privacy.confidence_bound is None else privacy.confidence_bound,
        loss=loss if privacy.loss_bound is None else privacy.loss_bound,
    )


def _largest(
    train: Interactions, mean_rating: float, alpha: float | None, unobserved: float
) -> tuple[float, float]:
    """Compute the largest |c - w0| and the largest loss at x = 0; the solved x can only lower the loss."""
    strengths = np.asarray(train.strengths, np.float64)
    confidence = np.ones_like(strengths) if alpha is None else 1 + alpha * strengths
    preference = strengths - mean_rating if alpha is None else np.ones_like(strengths)
    extra = float(np.abs(confidence - unobserved).max())
    loss = float(np.bincount(train.user_ids, confidence * preference**2).max())
    return max(extra * _ROUNDED_UP, _LEAST_BOUND), max(loss * _ROUNDED_UP, _LEAST_BOUND)
