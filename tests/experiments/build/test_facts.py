"""Bounds of what clients send in fixed point."""

import numpy as np
import pytest

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config

SECURE = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "privacy.mode=secure_sum", "privacy.min_cohort=20", "data.strengths=keep",
]  # fmt: skip


def test_bounds_of_the_data_hold_for_every_client():
    config = load_config(None, SECURE)
    problem = resolve(config, load_dataset(config))
    train, formats = problem.train, problem.formats
    confidence = 1 + config.model.alpha * np.asarray(train.strengths)
    assert formats.confidence_sum.bound == pytest.approx(confidence.max() - 1)
    assert formats.loss.bound == pytest.approx(np.bincount(train.user_ids, confidence).max())
