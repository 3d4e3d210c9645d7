"""Exposure of targets against a dense reference."""

import numpy as np
import pytest
from jax import numpy as jnp
from references import REGULARIZATION, solve_users
from small_data import MODEL

from fcf_jax.evaluation import exposure

TARGETS = np.array([1, 9, 16])


@pytest.mark.parametrize("users", [None, np.arange(13) > 4])
def test_exposure_matches_dense_reference(small, users):
    y = np.asarray(small.item_factors, np.float32)
    y[16] = y[9]  # equal scores: the lower id comes first
    x = solve_users(y, small.c, small.p, regularization=REGULARIZATION)
    who = np.ones(13, bool) if users is None else users
    found = exposure(MODEL, jnp.asarray(y), small.interactions, TARGETS, users=users, k=(2, 5))
    unseen = (small.strengths == 0)[who]
    scores = np.where(unseen, (x @ y.T.astype(np.float64))[who], -np.inf)
    order = np.argsort(-np.round(scores, 5), axis=1, kind="stable")
    for k in (2, 5):
        listed = np.array([[target in row[:k] for target in TARGETS] for row in order]) & unseen[:, TARGETS]
        expected = np.mean(listed.sum(axis=0) / unseen[:, TARGETS].sum(axis=0))
        assert found[f"er_at_{k}"] == pytest.approx(expected, abs=1e-6) and expected > 0


def test_targets_outside_the_catalogue_are_refused(small):
    with pytest.raises(ValueError, match=r"targets in \[0, 17\), got \[17\]"):
        exposure(MODEL, jnp.zeros((17, 5)), small.interactions, np.array([17]))
