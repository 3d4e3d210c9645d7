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


def chacha20_block(
    key: UInt32[Array, "8 *#lanes"], counter: UInt32[Array, "*lanes"], nonce: UInt32[Array, "3 *#lanes"]
) -> UInt32[Array, "16 *lanes"]:
    """Compute the sixteen words of each block.

    The rounds are a loop rather than unrolled: unrolled, XLA computes shared words again and again.

    Args:
        key: 256 bits as words.
        counter: the number of the block in its stream.
        nonce: 96 bits as words; a key and a nonce must not meet twice.

    References:
        RFC 8439, section 2.3.
    """

    def everywhere(word: Array | int) -> Array:
        return jnp.broadcast_to(jnp.asarray(word, jnp.uint32), counter.shape)

    words = [*_CONSTANTS, *key, counter, *nonce]
    start = tuple(everywhere(word) for word in words)
    end = jax.lax.fori_loop(0, _DOUBLE_ROUNDS, lambda _, state: _double_round(state), start)
    return jnp.stack([stirred + first for stirred, first in zip(end, start, strict=True)])


def keystream(
    key: UInt32[Array, "8"], nonce: UInt32[Array, "3"], *, num_blocks: int, first_block: int = 0
) -> UInt32[Array, "words"]:
    """Compute a stream of 16 `num_blocks` words in the order of the RFC."""
    counter = first_block + jnp.arange(num_blocks, dtype=jnp.uint32)
    return chacha20_block(key, counter, nonce).T.reshape(-1)


def words_of(data: bytes) -> np.ndarray:
    """Read bytes, four to a word, little-endian."""
    return np.frombuffer(data, "<u4").astype(np.uint32)


def _double_round(state: tuple[Lanes, ...]) -> tuple[Lanes, ...]:
    words = list(state)
    for places in (*_COLUMNS, *_DIAGONALS):
        a, b, c, d = places
        words[a], words[b], words[c], words[d] = quarter_round(words[a], words[b], words[c], words[d])
    return tuple(words)
