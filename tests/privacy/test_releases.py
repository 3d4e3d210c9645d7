"""Releases on the host: noise of the stated size in every direction, on a grid."""

import jax
import numpy as np
import pytest

from fcf_jax.privacy.releases import released, released_symmetric

KEY = jax.random.key(0)


def test_noise_has_the_stated_size_and_hides_low_bits():
    sums = np.linspace(-5, 5, 4000)
    noised = released(KEY, sums, clip_norm=2.0, noise_multiplier=1.5)
    assert (noised - sums).std() == pytest.approx(3.0, rel=0.04)  # 3.6 standard errors
    assert np.all(noised % 2.0**-9 == 0)  # the power of two below 3 / 1024


def test_symmetric_noise_is_equal_in_every_symmetric_direction():
    matrix = np.arange(144.0).reshape(12, 12) + np.arange(144.0).reshape(12, 12).T
    draws = np.stack(
        [
            released_symmetric(key, matrix, clip_norm=1.0, noise_multiplier=2.0)
            for key in jax.random.split(KEY, 300)
        ]
    )
    direction = np.random.default_rng(1).standard_normal((12, 12))
    direction = direction + direction.T
    along = np.einsum("nij,ij->n", draws - matrix, direction / np.linalg.norm(direction))
    assert np.all(draws == np.swapaxes(draws, 1, 2))
    assert along.std() == pytest.approx(2, rel=0.15)  # 3.6 standard errors
    assert (draws - matrix)[:, 0, 0].std() == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("noise_multiplier", [0.0, np.inf, 1e6])
def test_sums_without_noise_or_with_more_than_can_be_drawn_are_refused(noise_multiplier):
    with pytest.raises(ValueError, match="noise_multiplier above 0"):
        released(KEY, np.zeros(4), clip_norm=1.0, noise_multiplier=noise_multiplier)
