r"""Discrete Gaussian noise, drawn with integers alone: no floating point decides about a probability.

    P(Z = n) proportional to exp(-n^2 / (2 s^2)),  n an integer

A small s is drawn by comparing a random number of 96 bits with a table of the distribution function, which is
computed in integers of 256 bits. A large s is composed of two draws X, X' of a smaller one,

    Z = X + k X',  s^2 = s'^2 (1 + k^2)

whose probabilities are those above up to a factor within 1 +- 1e-33, since s'^2 >= 4 (1 + k^2): completing
the square leaves a sum over a discrete Gaussian of width 2, which hardly depends on its center (Micciancio &
Walter, CRYPTO 2017). A draw differs from Z by less than 1e-23 in total variation.
"""

import functools
import math
from decimal import Decimal, localcontext
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Int, UInt32

from fcf_jax.core.records import Key

_LARGEST_STD = 2.0**27  # whose draws fit into 32 bits
_LARGEST_TABLE = 1024.0  # standard deviation above which two draws are composed: a table of 24,590 entries
_SMALLEST_STD = 0.01
_NUM_WORDS, _WORD_BITS = 3, 32
_BITS = _NUM_WORDS * _WORD_BITS
_UNIT = 1 << 256  # 1 in the fixed point of the tables
_DIGITS = 100


class _Table(NamedTuple):
    """A distribution function.

    Attributes:
        first: the smallest value.
        words: P(X <= first + n) in units of 2^-96, high word first, filled up to 2^m - 1 entries.
    """

    first: int
    words: UInt32[np.ndarray, "entries 3"]


def discrete_gaussian(key: Key, shape: tuple[int, ...] = (), *, std: float) -> Int[Array, "..."]:
    """Draw integers from the discrete Gaussian distribution.

    Args:
        key: key of the draw.
        shape: of the result.
        std: s, in [0.01, 2^27]; static. The variance of the draw is s^2 for an s above 1, and less below.

    Returns:
        Integers in int32.

    Raises:
        ValueError: for an s out of range.

    References:
        Canonne, Kamath & Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020.
    """
    if not _SMALLEST_STD <= std <= _LARGEST_STD:
        raise ValueError(f"expected a standard deviation in [{_SMALLEST_STD}, 2^27], got {std}")
    if std <= _LARGEST_TABLE:
        return _draw(key, shape, std)
    factor, part = parts_of(std)
    one, other = (discrete_gaussian(of_part, shape, std=part) for of_part in jax.random.split(key))
    return one + factor * other


def parts_of(std: float) -> tuple[int, float]:
    """Return k and s', the standard deviation of both parts."""
    factor = math.isqrt(int(std / 2))
    return factor, std / math.sqrt(1 + factor**2)


def thresholds(std: float) -> tuple[int, list[int]]:
    """Compute the first value x and P(X <= x), P(X <= x + 1), ... in units of 2^-96, rounded down."""
    with localcontext() as context:
        context.prec = _DIGITS
        ratio = int((Decimal(-1) / (2 * Decimal(std) ** 2)).exp() * _UNIT)  # of the weights of 1 and 0
    weight, square, weights = _UNIT, ratio * ratio // _UNIT, []
    while weight > _UNIT >> (_BITS + 8):
        weights.append(weight)
        weight, ratio = weight * ratio // _UNIT, ratio * square // _UNIT
    weights = weights[:0:-1] + weights
    total, below, found = sum(weights), 0, []
    for weight in weights[:-1]:
        below += weight
        found.append((below << _BITS) // total)
    return -(len(weights) // 2), found


@functools.cache
def _table(std: float) -> _Table:
    first, found = thresholds(std)
    last = (1 << _BITS) - 1
    filled = found + [last] * ((1 << len(found).bit_length()) - 1 - len(found))
    mask = (1 << _WORD_BITS) - 1
    words = [[entry >> (_WORD_BITS * word) & mask for word in (2, 1, 0)] for entry in filled]
    return _Table(first, np.array(words, np.uint32))


@functools.partial(jax.jit, static_argnames=("shape", "std"))
def _draw(key: Key, shape: tuple[int, ...], std: float) -> Int[Array, "..."]:
    """Count the thresholds up to a random number of 96 bits, by bisection."""
    table = _table(std)
    words = jax.random.bits(key, (_NUM_WORDS, *shape), jnp.uint32)
    columns = [jnp.asarray(column) for column in table.words.T]
    num_steps = len(table.words).bit_length()

    def halve(step: Array, count: Array) -> Array:
        more = count + (jnp.int32(1 << (num_steps - 1)) >> step)
        is_reached = jnp.ones(shape, bool)
        for word, column in reversed(list(zip(words, columns, strict=True))):  # the low word first
            threshold = column[more - 1]
            is_reached = (threshold < word) | ((threshold == word) & is_reached)
        return jnp.where(is_reached, more, count)

    return jax.lax.fori_loop(0, num_steps, halve, jnp.zeros(shape, jnp.int32)) + table.first
