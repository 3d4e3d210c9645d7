"""Rounds summed in fixed point, as secure sums are: the formats of their pieces.

Masks are not simulated in training. They cancel exactly, so the server steps on the same integers with or
without them (`fcf_jax.privacy.secure_sum`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fcf_jax.channel import Link, Pieces, fixed_point
from fcf_jax.channel.fixed_point import Formats
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.config.privacy_modes import is_in_fixed_point, mode_of
from fcf_jax.experiments.config.privacy_numbers import fixed_point_formats, largest_cohort
from fcf_jax.experiments.config.problems import Facts
from fcf_jax.experiments.config.schema import ExperimentConfig

_ROUNDED_UP = 1 + 1e-6  # keeps what clients compute in float32 within the bound
_LEAST_BOUND = 1e-6


def fixed_point_link(config: ExperimentConfig, *datasets: Dataset) -> Link | None:
    """Build the link that sums the rounds of these data sets in integers; None in floating point."""
    if not is_in_fixed_point(config):
        return None
    max_clients = largest_cohort(config, num_users=datasets[0].split.train.num_users)
    return fixed_point(formats_of(config, *datasets), max_clients=max_clients)


def formats_of(config: ExperimentConfig, *datasets: Dataset) -> Formats:
    """Return the fixed-point format of each piece: with the configured bits, or as many as sums allow."""
    num_users = datasets[0].split.train.num_users
    return fixed_point_formats(config, _largest_bounds(config, datasets), num_users=num_users)


def facts_of(config: ExperimentConfig, *datasets: Dataset, num_builds: int = 1) -> Facts:
    """Collect what checks need to know about the data.

    Args:
        config: as resolved.
        datasets: splits of the same data that share the formats of sums.
        num_builds: seeds that training starts from.
    """
    train = datasets[0].split.train
    return Facts(
        num_users=train.num_users,
        num_items=train.num_items,
        num_interactions=train.num_interactions,
        bounds=_largest_bounds(config, datasets) if is_in_fixed_point(config) else None,
        num_builds=num_builds,
    )


def described(config: ExperimentConfig, dataset: Dataset, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe the formats of a run and how many numbers were clipped; empty for a run in floating point."""
    if not is_in_fixed_point(config):
        return {}
    formats = formats_of(config, dataset)._asdict()
    clipped = sum(one.get("num_clipped_entries", 0) for one in records if one["kind"] == "round")
    fixed_point = {
        "formats": {name: number._asdict() for name, number in formats.items()},
        "num_clipped_entries": clipped,
    }
    is_secure = mode_of(config).sums_securely
    secure_sum = {"secure_sum": {"min_cohort": config.privacy.min_cohort}} if is_secure else {}
    return {"fixed_point": fixed_point, **secure_sum}


def _largest_bounds(config: ExperimentConfig, datasets: Sequence[Dataset]) -> Pieces[float]:
    """Return the bound of each piece that holds for all data sets."""
    return Pieces(*np.max([_bounds(config, dataset) for dataset in datasets], axis=0).tolist())


def _bounds(config: ExperimentConfig, dataset: Dataset) -> Pieces[float]:
    """Return the configured bounds; where they are unset, the largest values of the training data."""
    privacy, (confidence, loss) = config.privacy, _largest(config, dataset)
    return Pieces(
        upload=privacy.upload_bound,
        user_gram=privacy.gram_bound,
        confidence_sum=confidence if privacy.confidence_bound is None else privacy.confidence_bound,
        loss=loss if privacy.loss_bound is None else privacy.loss_bound,
    )


def _largest(config: ExperimentConfig, dataset: Dataset) -> tuple[float, float]:
    """Compute the largest |c - w0|, and the largest loss at x = 0, which the solved x can only lower."""
    model, train = config.model, dataset.split.train
    confidence, preference = _weighed(config, train, dataset.mean_rating)
    extra = np.abs(confidence - model.unobserved_weight).max()
    loss = np.bincount(train.user_ids, confidence * preference**2).max()
    return tuple(max(float(one) * _ROUNDED_UP, _LEAST_BOUND) for one in (extra, loss))  # type: ignore[return-value]


def _weighed(
    config: ExperimentConfig, train: Interactions, mean_rating: float
) -> tuple[np.ndarray, np.ndarray]:
    strengths = np.asarray(train.strengths, np.float64)
    if config.data.feedback == "explicit":
        return np.ones_like(strengths), strengths - mean_rating
    return 1 + config.model.alpha * strengths, np.ones_like(strengths)
