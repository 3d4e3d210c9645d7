r"""ChaCha20 (RFC 8439) in plain jnp: the stream of pseudo-random words that every mask is made of.

Sixteen 32-bit words are stirred in twenty rounds and added to what they were. Everything here is
elementwise over lanes (one lane, one block), so that XLA makes one loop of it and runs wherever JAX
runs. Words are uint32; bytes of keys and streams are little-endian, as the RFC has them.
"""

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, UInt32

BLOCK_WORDS = 16
_CONSTANTS = tuple(np.frombuffer(b"expand 32-byte k", "<u4").tolist())
_DOUBLE_ROUNDS = 10
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))

Lanes = UInt32[Array, "*lanes"]


def quarter_round(a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Stir four words; RFC 8439, section 2.1."""
    a, d = _add_turn(a, b, d, 16)
    c, b = _add_turn(c, d, b, 12)
    a, d = _add_turn(a, b, d, 8)
    c, b = _add_turn(c, d, b, 7)
    return a, b, c, d


def _add_turn(total: Lanes, term: Lanes, turned: Lanes, by: int) -> tuple[Lanes, Lanes]:
    total = total + term
    mixed = turned ^ total
    return total, (mixed << by) | (mixed >> (32 - by))
