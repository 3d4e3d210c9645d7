"""The pieces of which everything that a client sends consists, in the order of their words."""

import math
from collections.abc import Mapping

from jax import numpy as jnp
from jaxtyping import Array, Float, UInt32

from fcf_jax.core.records import SentNorms
from fcf_jax.privacy.secure_sum.fixed_point import decode


def piece_shapes(num_items: int, num_factors: int) -> dict[str, tuple[int, ...]]:
    """Name the pieces with their shapes; of one client and of a sum the same."""
    return {
        "upload": (num_items, num_factors),
        "user_gram": (num_factors, num_factors),
        "confidence_sum": (num_items,),
        "loss": (),
    }


def count_words(formats: SentNorms, *, num_items: int, num_factors: int) -> int:
    """Count the words of all pieces that are sent: those with a format."""
    shapes = piece_shapes(num_items, num_factors)
    return sum(math.prod(shape) for name, shape in shapes.items() if getattr(formats, name) is not None)


def read_pieces(
    words: Mapping[str, UInt32[Array, "..."]],
    formats: SentNorms,
    *,
    item_factors: Float[Array, "items factors"],
) -> dict[str, Float[Array, "..."]]:
    """Read the words of each piece of a sum as numbers, nan where a piece was not sent."""
    pieces = {}
    for name, shape in piece_shapes(*item_factors.shape).items():
        number, dtype = getattr(formats, name), item_factors.dtype
        sent = number is not None
        pieces[name] = decode(words[name], number, dtype) if sent else jnp.full(shape, jnp.nan, dtype)
    gram = pieces["user_gram"]
    pieces["user_gram"] = 0.5 * (gram + gram.T)  # symmetric, as what noise was added to, and was rounded
    return pieces
