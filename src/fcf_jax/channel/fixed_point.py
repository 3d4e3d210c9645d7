r"""Fixed-point sums: numbers as words, the integers mod 2^32, whose sums are exact in any order.

    q = round(clip(x, -C, C) 2^f)   as int32, its bits read as uint32

A sum over n clients decodes to the exact integer if that fits a signed 32-bit integer, which is checked
before anything is sent. f may be negative.

The link `fixed_point` sums rounds without noise or masks in this way, in sparse + Gram form as in
`core.cohort_sum`:

    F = decode( scatter_{i in I_u} encode[ (e_ui + w0 s_ui) x_u ] ) - w0 Y decode( \sum_u encode[x_u x_u^T] )

The order of addition and the number of devices change no bit of the sum. User factors are still solved in
floating point, in batches: with another chunk size their last bits may differ, and with them a rounding,
since matrix products are blocked differently, and each chunk chooses its method of solution.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import Sent, pieces_of, uploads_of
from fcf_jax.core.accumulation import add_unobserved, num_clipped
from fcf_jax.core.records import Accumulation, CohortSum, Link, Model, Pieces

_LIMIT = 2.0**31
_NOISE_TAIL = 10.0  # standard deviations of the summed noise that must fit; exceeded with p < 1e-22
_MOST_BITS = 30


class FixedPoint(NamedTuple):
    """Fixed-point format of one piece.

    Attributes:
        bound: C; larger entries are clipped.
        fraction_bits: f, of any sign.
    """

    bound: float
    fraction_bits: int


Formats = Pieces[FixedPoint] | Pieces[FixedPoint | None]
Stds = Pieces[float | None]


def _used_range(number: FixedPoint, *, max_clients: int, noise_std: float) -> float:
    """Compute the largest possible sum, n (C 2^f + 1) + 10 sigma 2^f, as a share of 2^31."""
    scale = 2.0**number.fraction_bits
    return (max_clients * (number.bound * scale + 1) + _NOISE_TAIL * noise_std * scale) / _LIMIT


def check_formats(formats: Formats, *, max_clients: int, noise_stds: Stds | None = None) -> None:
    """Check that no sum in these formats can overflow.

    Args:
        formats: a `FixedPoint` for each piece; None for a piece that is not sent.
        max_clients: n, the most clients in a sum.
        noise_stds: standard deviation of all clients' noise together, for each piece; None: no noise.

    Raises:
        ValueError: for a piece whose sum may reach 2^31.
    """
    for name, number in formats._asdict().items():
        if number is None:
            continue
        used = _used_range(number, max_clients=max_clients, noise_std=_std(noise_stds, name))
        if not used < 1:
            raise ValueError(
                f"expected sums of {name} below 2^31, got up to {used:.3g} x 2^31 with {max_clients} clients,"
                f" bound {number.bound} and {number.fraction_bits} fraction bits; use fewer bits"
            )


def choose_formats(
    bounds: Pieces[float] | Pieces[float | None], *, max_clients: int, noise_stds: Stds | None = None
) -> Formats:
    """Choose the most fraction bits for each piece, up to 30, with which no sum can overflow.

    Args:
        bounds: C of each piece, above 0 and finite, such as a clip norm, since no entry exceeds the norm;
            None for a piece that is not sent.
        max_clients: n, the most clients in a sum.
        noise_stds: standard deviation of all clients' noise together, for each piece; None: no noise.

    Returns:
        A `FixedPoint` for each piece; None for a piece that is not sent.

    Raises:
        ValueError: for a bound that is not above 0 or not finite.
    """

    def choose(name: str, bound: float | None) -> FixedPoint | None:
        if bound is None:
            return None
        if not 0 < bound < math.inf:
            raise ValueError(f"expected a finite bound above 0 for {name}, got {bound}; use a clip norm")
        largest = max_clients * bound + _NOISE_TAIL * _std(noise_stds, name)
        bits = math.ceil(math.log2((_LIMIT - max_clients) / largest)) - 1  # strictly below the limit
        return FixedPoint(float(bound), min(bits, _MOST_BITS))

    formats = Pieces(**{name: choose(name, bound) for name, bound in bounds._asdict().items()})
    check_formats(formats, max_clients=max_clients, noise_stds=noise_stds)
    return formats


def encode(
    values: Float[Array, "*shape"], number: FixedPoint, noise: Int[Array, "*shape"] | int = 0
) -> tuple[UInt32[Array, "*shape"], Int[Array, ""]]:
    """Clip values, encode them as words, and add noise in units of 2^-f.

    Returns:
        The words, and the number of clipped values, which the server does not learn.
    """
    clipped = jnp.clip(values, -number.bound, number.bound)
    scaled = jnp.round(clipped * 2.0**number.fraction_bits).astype(jnp.int32) + noise
    # reinterpret the bits: a cast of negative numbers to uint32 would give 0
    return jax.lax.bitcast_convert_type(scaled, jnp.uint32), jnp.sum(clipped != values, dtype=jnp.int32)


def decode(words: UInt32[Array, "*shape"], number: FixedPoint, dtype: DTypeLike) -> Float[Array, "*shape"]:
    """Decode a sum of words."""
    whole = jax.lax.bitcast_convert_type(words, jnp.int32)
    return whole.astype(dtype) * 2.0**-number.fraction_bits


def _std(noise_stds: Stds | None, name: str) -> float:
    return float((noise_stds and getattr(noise_stds, name)) or 0.0)


def fixed_point(formats: Formats, *, max_clients: int) -> Link:
    """Build a link that sums uploads exactly, as integers, so that the order of clients does not matter.

    Args:
        formats: result of `choose_formats`; that of `upload` is for its sparse part only.
        max_clients: n, the most clients in a sum.

    Raises:
        ValueError: for a piece without a format, or sums that could overflow.
    """
    check_formats(formats, max_clients=max_clients)
    numbers = [number for number in formats if number is not None]
    if len(numbers) < len(formats):
        raise ValueError("expected a format for every piece, got None; choose a bound for each piece")
    return link(accumulation=_accumulation(Pieces(*numbers)))


@functools.cache
def _accumulation(formats: Pieces[FixedPoint]) -> Accumulation:
    """Return the same functions for the same formats: a link that is built again does not recompile."""

    def start(item_factors: Float[Array, "items factors"]) -> CohortSum:
        shapes, count = piece_shapes(*item_factors.shape), jnp.zeros((), jnp.int32)
        zeros: Any = {name: jnp.zeros(shape, jnp.uint32) for name, shape in shapes.items()}
        return CohortSum(**zeros, num_clients=count, num_clipped=count, num_clipped_entries=count)

    def read(model: Model, item_factors: Float[Array, "items factors"], total: CohortSum) -> CohortSum:
        pieces = read_pieces(total._asdict(), formats, item_factors=item_factors)
        return add_unobserved(model, item_factors, total._replace(**pieces))

    return Accumulation(start=start, add=lambda total, sent: _add(total, sent, formats), read=read)


def _add(total: CohortSum, sent: Sent, formats: Pieces[FixedPoint]) -> CohortSum:
    """Encode every number of every client separately, and add the words."""
    pieces, uploads = pieces_of(sent), uploads_of(sent)
    observations = uploads.observations
    encoded = [encode(piece, number) for piece, number in zip(pieces, formats, strict=True)]
    words, num_clipped_entries = Pieces(*(each[0] for each in encoded)), sum(each[1] for each in encoded)
    return CohortSum(
        upload=total.upload.at[observations.item_ids].add(words.upload),
        user_gram=total.user_gram + jnp.sum(words.user_gram, axis=0, dtype=jnp.uint32),
        confidence_sum=total.confidence_sum.at[observations.item_ids].add(words.confidence_sum),
        loss=total.loss + jnp.sum(words.loss, dtype=jnp.uint32),
        num_clients=total.num_clients + jnp.sum(uploads.is_client, dtype=jnp.int32),
        num_clipped=total.num_clipped + num_clipped(uploads),
        num_clipped_entries=total.num_clipped_entries + num_clipped_entries,
    )


def piece_shapes(num_items: int, num_factors: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each piece, of an upload and of a sum, in the order of the words."""
    return {
        "upload": (num_items, num_factors),
        "user_gram": (num_factors, num_factors),
        "confidence_sum": (num_items,),
        "loss": (),
    }


def read_pieces(
    words: Mapping[str, UInt32[Array, "..."]],
    formats: Formats,
    *,
    item_factors: Float[Array, "items factors"],
) -> dict[str, Float[Array, "..."]]:
    """Decode each piece of a sum; a piece that was not sent is nan."""
    pieces = {}
    for name, shape in piece_shapes(*item_factors.shape).items():
        number, dtype = getattr(formats, name), item_factors.dtype
        sent = number is not None
        pieces[name] = decode(words[name], number, dtype) if sent else jnp.full(shape, jnp.nan, dtype)
    gram = pieces["user_gram"]
    pieces["user_gram"] = 0.5 * (gram + gram.T)  # noise and rounding are not symmetric
    return pieces
