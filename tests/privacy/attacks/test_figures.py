"""Figures of attacks, and their intervals."""

import numpy as np

from fcf_jax.privacy.attacks import figures


def test_popularity_is_at_chance_across_users(seen):
    is_held = seen[2]
    scores = np.broadcast_to(is_held.sum(axis=0), is_held.shape)
    assert figures.auc_across_users(scores, is_held) == (0.5, 0.5, 0.5)


def test_rule_of_three_where_all_resamples_agree():
    assert figures.ratio(np.ones(300), np.ones(300)) == (1.0, 0.99, 1.0)
