"""Membership of published item factors: losses of histories, and their likelihood ratios."""

import numpy as np
import pytest
from references import ALPHA, REGULARIZATION

from fcf_jax.privacy.attacks.knowledge import Public
from fcf_jax.privacy.attacks.published_model import draw_halves, losses_of, membership_of

HALVES = draw_halves(24, 300)
NOISE = np.random.default_rng(0).normal(size=HALVES.shape)


def test_losses_match_the_dense_objective(small):
    public = Public(small.item_factors, REGULARIZATION, 1.0, ALPHA)
    y, c, p = small.item_factors, small.c, small.p
    for user, loss in enumerate(losses_of(public, small.interactions)):
        normal = y.T @ (c[user, :, None] * y) + REGULARIZATION * np.eye(y.shape[1])
        x = np.linalg.solve(normal, y.T @ (c[user] * p[user]))
        expected = (c[user] * (p[user] - y @ x) ** 2).sum() + REGULARIZATION * x @ x
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_each_user_is_in_half_of_the_models():
    assert (HALVES.sum(axis=0) == 12).all() and HALVES.sum(axis=1).min() > 100


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.45, 0.55), (8.0, 0.99, 1.0)])
def test_members_are_told_as_far_as_their_losses_differ(shift, low, high):
    found = membership_of(NOISE - shift * HALVES, HALVES)
    assert low <= found.auc.value <= high and found.auc.low <= found.auc.value <= found.auc.high
    assert found.tpr.value > 0.5 if shift else found.tpr.value < 0.05


def test_losses_that_never_vary_tell_nothing():
    assert membership_of(np.ones(HALVES.shape), HALVES).auc.value == 0.5


def test_too_few_models_are_refused():
    with pytest.raises(ValueError, match="at least 6 shadow models, got 5"):
        membership_of(NOISE[:5], HALVES[:5])
