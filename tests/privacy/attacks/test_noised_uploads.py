"""Attacks on uploads with noise stay below the ceilings of their AUC."""

import numpy as np

from fcf_jax.privacy.attacks import figures, noised_uploads
from fcf_jax.privacy.limits import item_auc_ceiling


def test_auc_under_noise_stays_below_its_ceiling(seen):
    public, uploads, is_held, _ = seen
    dense = np.asarray(uploads.dense)
    norms = np.linalg.norm(dense, axis=(1, 2))
    clip_norm = float(np.median(norms))
    clipped = dense * np.minimum(1.0, clip_norm / norms)[:, None, None]
    mean, expected = noised_uploads.expected_factors(public, is_held.mean(axis=0))
    rng, found = np.random.default_rng(0), []
    for noise_multiplier in (0.02, 0.5, 2.0):
        noised = clipped + noise_multiplier * clip_norm * rng.normal(size=dense.shape)
        for scores in (
            noised_uploads.scores_by_expectation(noised, expected),
            noised_uploads.scores_by_own_direction(noised, mean),
        ):
            # 60 users with some 12 items each: within its own interval of 95 %
            auc = figures.auc_across_users(scores, is_held)
            assert auc.low <= item_auc_ceiling(noise_multiplier)
            found.append(auc.value)
    assert min(found[:2]) > 0.7  # little noise protects little
