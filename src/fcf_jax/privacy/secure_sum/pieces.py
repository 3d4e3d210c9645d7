"""The pieces of which everything that a client sends consists, in the order of their words."""

import math

from fcf_jax.core.types import SentNorms


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
