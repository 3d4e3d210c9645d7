"""Attacks on uploads with noise stay below the ceilings of their AUC."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax.channel import Pieces, clip_and_noise
from fcf_jax.core.records import CohortSum
from fcf_jax.privacy.attacks import figures, noised_uploads
from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling

MONTE_CARLO = 0.003  # three standard errors: 400 users, 1000 draws each with and without


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


def test_membership_known_answer():
    auc, rate = noised_uploads.membership(np.ones(400), noise_multiplier=1.0)
    assert auc.value == pytest.approx(in_out_auc_ceiling(1.0), abs=MONTE_CARLO)
    assert rate.value == pytest.approx(0.0183, abs=2e-3)  # Phi(1 - 3.0902)
    assert noised_uploads.membership(np.ones(3), noise_multiplier=0.0)[0].value == 1.0


def test_noise_along_a_signal_is_that_of_the_channel():
    channel = clip_and_noise(
        clip_norms=Pieces(2.0, 3.0, None, None), noise_multiplier=0.7, expected_cohort_size=1.0
    )
    rng, size = np.random.default_rng(0), (5, 3)
    f, x = rng.normal(size=size), rng.normal(size=3)
    gram = np.outer(x, x)
    norm = np.sqrt((f**2).sum() / 4 + (gram**2).sum() / 9)
    nothing = CohortSum(*(jnp.zeros(shape) for shape in (size, (3, 3), (5,), (), (), ())))

    def project(key):
        sums, _ = channel.server(key, channel.init(), nothing)
        return ((sums.upload * f).sum() / 4 + (sums.user_gram * gram).sum() / 9) / norm

    projected = jax.vmap(project)(jax.random.split(jax.random.key(0), 4000))
    assert float(projected.std()) == pytest.approx(0.7, rel=0.04)  # 3.6 standard errors
