r"""Numbers as words of the ring of integers mod 2^32: sums there are exact, and in any order the same.

    q = round(clip(x, -C, C) 2^f)   as int32, its bits taken as uint32

A sum of n clients comes back as it would be in unlimited integers as long as it fits 32 bits with
sign, for which the rule below is checked before anything is sent. f may be negative.
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from fcf_jax.core.records import SentNorms

_LIMIT = 2.0**31
_NOISE_TAIL = 10.0  # standard deviations of the summed noise that must fit; beyond: below 1e-22
_MOST_BITS = 30


class FixedPoint(NamedTuple):
    """How the numbers of one piece are written as integers."""

    bound: float  # C: entries beyond are clipped
    fraction_bits: int  # f


def headroom(number: FixedPoint, *, max_clients: int, noise_std: float = 0.0) -> float:
    """Compute the largest sum to reckon with, n (C 2^f + 1) + 10 sigma 2^f, as a share of 2^31.

    Args:
        max_clients: n, the most clients of a sum.
        noise_std: sigma, of all clients' noise together, in units of the numbers.
    """
    scale = 2.0**number.fraction_bits
    return (max_clients * (number.bound * scale + 1) + _NOISE_TAIL * noise_std * scale) / _LIMIT


def check_formats(formats: SentNorms, *, max_clients: int, noise_stds: SentNorms | None = None) -> None:
    """Refuse formats in which a sum could wrap around.

    Args:
        formats: a `FixedPoint` for each piece, None for what is not sent.
        noise_stds: of all clients' noise together, in each piece.

    Raises:
        ValueError: for a piece whose sum may reach 2^31.
    """
    for name, number in formats._asdict().items():
        if number is None:
            continue
        used = headroom(number, max_clients=max_clients, noise_std=_std(noise_stds, name))
        if not used < 1:
            raise ValueError(
                f"expected sums of {name} below 2^31, got up to {used:.3g} x 2^31 with {max_clients} clients,"
                f" bound {number.bound} and {number.fraction_bits} fraction bits; take fewer bits"
            )


def choose_formats(bounds: SentNorms, *, max_clients: int, noise_stds: SentNorms | None = None) -> SentNorms:
    """Give each piece as many fraction bits as the rule against overflow allows, 30 at most.

    Args:
        bounds: C of each piece, above 0; a clip norm is one, for no entry exceeds the norm. None for
            what is not sent.
        max_clients: n, the most clients of a sum.
        noise_stds: of all clients' noise together, in each piece.

    Returns:
        A `FixedPoint` for each piece, or None.

    Raises:
        ValueError: for a bound that is not above 0.
    """

    def choose(name: str, bound: float | None) -> FixedPoint | None:
        if bound is None:
            return None
        if not 0 < bound < math.inf:
            raise ValueError(f"expected a finite bound above 0 for {name}, got {bound}; give a clip norm")
        largest = max_clients * bound + _NOISE_TAIL * _std(noise_stds, name)
        bits = math.ceil(math.log2((_LIMIT - max_clients) / largest)) - 1  # strictly below
        return FixedPoint(float(bound), min(bits, _MOST_BITS))

    formats = SentNorms(**{name: choose(name, bound) for name, bound in bounds._asdict().items()})
    check_formats(formats, max_clients=max_clients, noise_stds=noise_stds)
    return formats


def encode(
    values: Float[Array, "*shape"], number: FixedPoint, noise: Float[Array, "*shape"] | float = 0.0
) -> tuple[UInt32[Array, "*shape"], Int[Array, ""]]:
    """Write values, after clipping and then adding noise, as words of the ring.

    Returns:
        The words, and how many values were clipped, which no server gets to know.
    """
    clipped = jnp.clip(values, -number.bound, number.bound)
    scaled = jnp.round((clipped + noise) * 2.0**number.fraction_bits).astype(jnp.int32)
    # the bits themselves: a cast of a negative float to uint32 would give 0
    return jax.lax.bitcast_convert_type(scaled, jnp.uint32), jnp.sum(clipped != values, dtype=jnp.int32)


def decode(words: UInt32[Array, "*shape"], number: FixedPoint, dtype: DTypeLike) -> Float[Array, "*shape"]:
    """Read a sum of words as numbers."""
    whole = jax.lax.bitcast_convert_type(words, jnp.int32)
    return whole.astype(dtype) * 2.0**-number.fraction_bits


def _std(noise_stds: SentNorms | None, name: str) -> float:
    return float((noise_stds and getattr(noise_stds, name)) or 0.0)
