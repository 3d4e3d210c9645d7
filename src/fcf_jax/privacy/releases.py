"""Releases of sums that are computed on the host, once, before the first round: with noise and on a grid."""

import math

import numpy as np
from jaxtyping import Float

from fcf_jax.channel.discrete_gaussian import discrete_gaussian
from fcf_jax.channel.noise import STD, coarse_step, grid_step
from fcf_jax.core.records import Key


def released(
    key: Key, sums: Float[np.ndarray, "*shape"], *, clip_norm: float, noise_multiplier: float
) -> Float[np.ndarray, "*shape"]:
    """Round sums to a grid, add discrete Gaussian noise, and round them to what is published.

    The noise is that of `fcf_jax.channel.noise`, with sums in float64.

    Args:
        key: key of the noise.
        sums: sums that one client changes by at most `clip_norm`, in the Euclidean norm of all numbers.
        clip_norm: C, above 0.
        noise_multiplier: sigma, above 0.

    Raises:
        ValueError: for sums without noise, or noise that is too large to be drawn.
    """
    step = float(grid_step(noise_multiplier, clip_norm, sums.size))
    if not 0 < noise_multiplier < math.inf or math.isnan(step):
        raise ValueError(
            f"expected a release with a noise_multiplier above 0 and small enough to draw, got "
            f"{noise_multiplier}; without noise the sums would be released as they are"
        )
    noise = np.asarray(discrete_gaussian(key, sums.shape, std=STD), np.float64)
    coarse = float(coarse_step(step))
    return coarse * np.rint(step * (np.rint(sums / step) + noise) / coarse)


def released_symmetric(
    key: Key, matrix: Float[np.ndarray, "size size"], *, clip_norm: float, noise_multiplier: float
) -> Float[np.ndarray, "size size"]:
    r"""Release a symmetric matrix that one client changes by at most `clip_norm` in the norm of Frobenius.

    Its numbers are those of a triangle, \sqrt 2 times what is off the diagonal: a vector of the same norm.
    Other arguments as for `released`.
    """
    rows, columns = np.triu_indices(len(matrix))
    weights = np.where(rows == columns, 1.0, math.sqrt(2.0))
    vector = released(
        key, weights * matrix[rows, columns], clip_norm=clip_norm, noise_multiplier=noise_multiplier
    )
    result = np.empty_like(matrix)
    result[rows, columns] = result[columns, rows] = vector / weights
    return result
