"""Gaussian noise of sums: its moments, and tails beyond those of one float32 normal."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

from fcf_jax.channel.noise import gaussian

SIZE = 200_000
LARGEST_NORMAL = 5.43  # of jax.random.normal in float32


def test_gaussian_is_standard_normal():
    draws = np.asarray(gaussian(jax.random.key(0), (SIZE,)), np.float64)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert draws.var() == pytest.approx(1.0, abs=5 * np.sqrt(2 / SIZE))  # five standard errors


def test_gaussian_reaches_beyond_one_float32_normal(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda _, shape, dtype: jnp.full(shape, LARGEST_NORMAL, dtype))
    assert gaussian(jax.random.key(0)) == pytest.approx(2 * LARGEST_NORMAL)


def test_gaussian_takes_more_values_than_one_float32_normal():
    """One float32 normal comes of 2^23 uniforms, so among 200,000 draws some 2,400 pairs coincide."""
    one = np.unique(np.asarray(jax.random.normal(jax.random.key(1), (SIZE,)))).size
    four = np.unique(np.asarray(gaussian(jax.random.key(1), (SIZE,)))).size
    assert SIZE - one > 3 * (SIZE - four)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gaussian_has_shape_and_dtype(dtype):
    draws = gaussian(jax.random.key(0), (3, 2), dtype)
    assert draws.shape == (3, 2) and draws.dtype == dtype
