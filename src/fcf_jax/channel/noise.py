r"""Release of sums with Gaussian noise on a grid: what is released is an integer with integer noise.

    k = round(s / g) + Z,   Z discrete Gaussian with standard deviation S = 2^19,   released: g k

Sums s of two cohorts that differ by one client are at most C apart, and the d rounded numbers s / g at most
C / g + \sqrt d. The step g is chosen such that S is sigma times that: g S = sigma (C + g \sqrt d).

Rounding a real Gaussian y to the integer n with a probability proportional to exp(-(n - y)^2 / 8) gives a
discrete Gaussian, with 4 added to the variance, up to a factor within 1 +- 1e-33 of each probability
(Peikert, CRYPTO 2010). Hence k is post-processing of real Gaussian noise, whose multiplier is sigma up to
1e-11, and what an accountant says of that noise holds for k. What follows is post-processing too: the product
g k in floating point, and its rounding to a power of two between 2^-11 and 2^-10 standard deviations.
"""

import math

from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.channel.discrete_gaussian import discrete_gaussian
from fcf_jax.core.records import Key, Scalar

STD = 1024 * math.sqrt(1 + 512**2)  # S, 524,289: of the noise in steps g
_MOST_SLACK = 0.5  # largest share of the noise that may be due to rounding
_COARSE = 2.0**-10  # largest step of what is released, in standard deviations of the noise
_STEP_BITS, _LOW_BITS = 8, 16  # of g, and of the lower word of s / g: 24 bits are exact in float32
_LARGEST_HIGH = 2.0**30


def grid_step(
    noise_multiplier: Scalar, unit: Scalar | Float[Array, "..."], num_numbers: Scalar
) -> Float[Array, "..."]:
    r"""Compute g, at least sigma C / (S - sigma \sqrt d): the next larger number with 8 bits.

    Args:
        noise_multiplier: sigma, at least 0.
        unit: C, the sensitivity that sigma refers to.
        num_numbers: d, the numbers that are released together.

    Returns:
        g; 0 without noise, and nan for sigma above `largest_noise_multiplier`.
    """
    noise_multiplier, unit = (jnp.asarray(one, float) for one in (noise_multiplier, unit))
    slack = noise_multiplier * jnp.sqrt(jnp.asarray(num_numbers, float)) / STD
    least = noise_multiplier * unit / (STD * (1.0 - slack))
    mantissa, exponent = jnp.frexp((1.0 + 1e-6) * least)
    rounded = jnp.ldexp(jnp.ceil(mantissa * 2.0**_STEP_BITS), exponent - _STEP_BITS)
    return jnp.where(slack <= _MOST_SLACK, rounded, jnp.nan)


def largest_noise_multiplier(num_numbers: int) -> float:
    """Return the largest sigma at which so many numbers can be released together."""
    return _MOST_SLACK * STD / math.sqrt(num_numbers)


def release(key: Key, sums: Float[Array, "*shape"], step: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Round sums to the grid and add noise of standard deviation S g.

    The rounding is exact up to 2^32 g, 8192 standard deviations. Beyond, it is that of floating point, as in
    the sum itself.

    Args:
        key: key of the noise.
        sums: s.
        step: g, from `grid_step`, broadcast to the sums; where it is 0, sums are released as they are.

    Returns:
        g k, still to be rounded by `coarsened`.
    """
    step = jnp.asarray(step, sums.dtype)
    safe = jnp.where(step > 0, step, 1.0)
    high = jnp.clip(jnp.floor(sums / (safe * 2.0**_LOW_BITS)), -_LARGEST_HIGH, _LARGEST_HIGH)
    rest = (sums - high * (safe * 2.0**_LOW_BITS)) / safe  # both are exact but for the division
    low = jnp.round(jnp.clip(rest, 0.0, 2.0**_LOW_BITS)).astype(jnp.int32)
    low += discrete_gaussian(key, sums.shape, std=STD)
    high = high.astype(jnp.int32) + (low >> _LOW_BITS)
    low &= 2**_LOW_BITS - 1
    released = high.astype(sums.dtype) * 2.0**_LOW_BITS + low.astype(sums.dtype)
    return jnp.where(step == 0, sums, step * released)  # a step of nan gives nan


def coarse_step(step: Scalar | Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the step of what is released: a power of two, at most 2^-10 standard deviations S g."""
    _, exponent = jnp.frexp(STD * _COARSE * jnp.asarray(step, float))
    return jnp.ldexp(jnp.ones(exponent.shape), exponent - 1)


def coarsened(released: Float[Array, "*shape"], step: Scalar | Float[Array, "..."]) -> Float[Array, "*shape"]:
    """Round what is released to multiples of `coarse_step`, so that it shows no low bits."""
    coarse = coarse_step(step).astype(released.dtype)
    return jnp.where(step == 0, released, coarse * jnp.round(released / coarse))
