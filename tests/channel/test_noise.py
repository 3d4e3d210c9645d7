"""Release with noise: its size, its grid, its tails, and that low bits tell nothing."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

from fcf_jax.channel.discrete_gaussian import parts_of, thresholds
from fcf_jax.channel.noise import (
    STD,
    coarse_step,
    coarsened,
    grid_step,
    largest_noise_multiplier,
    release,
)

KEY = jax.random.key(0)
SIGMA, CLIP_NORM, NUM_NUMBERS = 1.41, 2.5, 47_424  # the shipped configuration of MovieLens 1M at epsilon 10
DELTA, NUM_ROUNDS = 1.66e-5, 8
LARGEST_NORMAL = 5.42  # of jax.random.normal in float32


def noised(key, sums, sigma=SIGMA, unit=CLIP_NORM):
    step = grid_step(sigma, unit, NUM_NUMBERS)
    return np.asarray(coarsened(release(key, sums, step), step), np.float64)


@pytest.mark.parametrize("center", [0.0, -3.7, 2e4])
def test_noise_has_its_size_around_the_sum(center):
    draws = noised(KEY, jnp.full(50_000, center)) - float(np.float32(center))
    assert stats.kstest(draws / (SIGMA * CLIP_NORM), "norm").pvalue > 1e-3  # at most 0.4 % + 0.1 % larger


@pytest.mark.parametrize("sigma", [0.05, 1.41, 60.0])
@pytest.mark.parametrize("num_numbers", [1, 47_424, 10**6])
def test_noise_covers_what_rounding_adds_to_the_sensitivity(sigma, num_numbers):
    step = float(grid_step(sigma, CLIP_NORM, num_numbers))
    covered = sigma * (CLIP_NORM + step * num_numbers**0.5)
    assert covered <= step * STD <= 1.01 * covered


def test_rounded_sums_are_within_half_a_step_of_the_sums():
    """The two words of s / g give it back, whatever its size."""
    step = grid_step(SIGMA, CLIP_NORM, NUM_NUMBERS)
    sums = np.random.default_rng(0).normal(size=2000) * np.logspace(-3, 4, 2000)
    with_noise = np.asarray(release(KEY, jnp.asarray(sums, jnp.float32), step), np.float64)
    noise_alone = np.asarray(release(KEY, jnp.zeros(2000), step), np.float64)
    rounded = with_noise - noise_alone
    ulps = sum(np.spacing(np.abs(one).astype(np.float32)) for one in (with_noise, noise_alone))
    assert np.all(np.abs(rounded - np.float32(sums)) <= 0.51 * float(step) + 1.5 * ulps)


def test_limit_of_no_noise_leaves_sums_as_they_are():
    sums = jnp.asarray([0.1, -2.0, 1e9])
    np.testing.assert_array_equal(noised(KEY, sums, sigma=0.0), sums)


def test_noise_too_large_for_the_grid_gives_nan():
    largest = largest_noise_multiplier(NUM_NUMBERS)
    assert np.isfinite(grid_step(0.999 * largest, 1.0, NUM_NUMBERS))
    assert np.isnan(grid_step(1.001 * largest, 1.0, NUM_NUMBERS))


def test_released_numbers_are_multiples_of_a_power_of_two():
    step = grid_step(SIGMA, CLIP_NORM, NUM_NUMBERS)
    coarse, size = float(coarse_step(step)), STD * float(step)
    assert np.frexp(coarse)[0] == 0.5 and size / 2048 < coarse <= size / 1024
    released = noised(KEY, jnp.linspace(-500.0, 500.0, 5000))
    np.testing.assert_array_equal(released / coarse, np.round(released / coarse))


def probability_outside(largest):
    """Compute the probability that any number of a run is where the noise of the other world cannot reach.

    A client moves some of the d numbers by all of its clip norm: as many as make the probability largest.
    """
    counts = np.unique(np.round(np.logspace(0, np.log10(NUM_NUMBERS), 200)))
    moved = 1 / (SIGMA * np.sqrt(counts))  # each of them, in standard deviations
    outside = counts * (stats.norm.sf(largest - moved) - stats.norm.sf(largest))
    return NUM_ROUNDS * float(outside.max())


def test_tails_beyond_the_other_world_are_less_than_a_thousandth_of_delta():
    _, part = parts_of(STD)
    first, found = thresholds(part)
    last = first + next(n for n, entry in enumerate(found) if entry >= (1 << 96) - 1)  # of one part
    assert probability_outside(last * 513 / STD) < 1e-3 * DELTA  # 1 + k: of both parts
    assert probability_outside(LARGEST_NORMAL) > DELTA  # so that this test can fail


@pytest.fixture(scope="module")
def all_normals():
    """Every value that jax.random.normal takes in float32, sorted."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniforms = jnp.arange(2**23, dtype=jnp.float32) * 2.0**-23 * (1 - low) + low
    return np.unique(np.asarray(np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniforms)))


def count_explained(released, sums, normals):
    """Count the numbers that are the sum plus a value of the noise, in float32 as the server computes."""
    scale = np.float32(SIGMA * CLIP_NORM)
    place = np.searchsorted(normals, (released - sums) / scale)
    near = np.clip(place[:, None] + np.arange(-3, 4), 0, len(normals) - 1)
    return np.count_nonzero(np.any(sums[:, None] + scale * normals[near] == released[:, None], axis=1))


def count_told_apart(normals, make):
    """Guess 20 times which of two worlds was released; all but one client are known. Ties are tossed."""
    rng, right = np.random.default_rng(0), 0
    for trial in range(20):
        worlds = rng.normal(size=(2, 300)).astype(np.float32)
        truth = int(rng.integers(2))
        released = np.asarray(make(jax.random.key(trial), jnp.asarray(worlds[truth])), np.float32)
        scores = [count_explained(released, world, normals) for world in worlds]
        guess = int(rng.integers(2)) if scores[0] == scores[1] else int(np.argmax(scores))
        right += guess == truth
    return right


def test_lattice_of_the_noise_does_not_tell_two_worlds_apart(all_normals):
    def naive(key, sums):
        return sums + SIGMA * CLIP_NORM * jax.random.normal(key, sums.shape)

    assert count_told_apart(all_normals, naive) == 20  # so that this test can fail
    assert 4 <= count_told_apart(all_normals, noised) <= 16  # 10 +- 2.2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_released_has_the_dtype_of_the_sums(dtype):
    step = grid_step(1.0, 1.0, 6)
    released = coarsened(release(KEY, jnp.ones((3, 2), dtype), step), step)
    assert released.shape == (3, 2) and released.dtype == dtype and np.isfinite(released).all()
