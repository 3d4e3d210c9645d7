r"""Masks: ChaCha20 (RFC 8439) streams in plain jnp, added to the words of one client after the other.

A block of ChaCha20 stirs sixteen 32-bit words in twenty rounds and adds the initial words. All of it is
elementwise over lanes (one lane, one block), so XLA compiles one loop that runs wherever JAX runs. Words
are uint32; the bytes of keys are little-endian, as in the RFC.

A mask takes the words of its stream in the order in which they are computed, word 0 of all blocks first,
instead of the RFC's order: both sides do, and nothing is transposed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, UInt32

_BLOCK_WORDS = 16
_CONSTANTS = tuple(np.frombuffer(b"expand 32-byte k", "<u4").tolist())
_DOUBLE_ROUNDS = 10
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_NONCE = 0  # a seed belongs to one pair in one round, so it serves one stream only

_Lanes = UInt32[Array, "*lanes"]


def quarter_round(a: _Lanes, b: _Lanes, c: _Lanes, d: _Lanes) -> tuple[_Lanes, _Lanes, _Lanes, _Lanes]:
    """Stir four words; RFC 8439, section 2.1."""
    a, d = _add_rotate(a, b, d, 16)
    c, b = _add_rotate(c, d, b, 12)
    a, d = _add_rotate(a, b, d, 8)
    c, b = _add_rotate(c, d, b, 7)
    return a, b, c, d


def _add_rotate(total: _Lanes, term: _Lanes, rotated: _Lanes, by: int) -> tuple[_Lanes, _Lanes]:
    total = total + term
    mixed = rotated ^ total
    return total, (mixed << by) | (mixed >> (32 - by))


def chacha20_block(
    key: UInt32[Array, "8 *#lanes"], counter: UInt32[Array, "*lanes"], nonce: UInt32[Array, "3 *#lanes"]
) -> UInt32[Array, "16 *lanes"]:
    """Compute the sixteen words of each block.

    The rounds are a loop: unrolled, XLA would compute shared words again and again.

    Args:
        key: 256 bits as words.
        counter: index of the block in its stream.
        nonce: 96 bits as words; a key must not meet the same nonce twice.

    References:
        RFC 8439, section 2.3.
    """

    def broadcast(word: Array | int) -> Array:
        return jnp.broadcast_to(jnp.asarray(word, jnp.uint32), counter.shape)

    start = tuple(broadcast(word) for word in [*_CONSTANTS, *key, counter, *nonce])
    end = jax.lax.fori_loop(0, _DOUBLE_ROUNDS, lambda _, state: _double_round(state), start)
    return jnp.stack([stirred + first for stirred, first in zip(end, start, strict=True)])


def _double_round(state: tuple[_Lanes, ...]) -> tuple[_Lanes, ...]:
    words = list(state)
    for a, b, c, d in (*_COLUMNS, *_DIAGONALS):
        words[a], words[b], words[c], words[d] = quarter_round(words[a], words[b], words[c], words[d])
    return tuple(words)


def words_from_bytes(data: bytes) -> UInt32[np.ndarray, "words"]:
    """Read bytes as little-endian words of four."""
    return np.frombuffer(data, "<u4").astype(np.uint32)


def mask(seed: UInt32[Array, "8"], *, num_words: int) -> UInt32[Array, "words"]:
    """Compute the mask of a seed."""
    num_blocks = -(-num_words // _BLOCK_WORDS)
    nonce = jnp.full(3, _NONCE, jnp.uint32)
    return chacha20_block(seed, jnp.arange(num_blocks, dtype=jnp.uint32), nonce).reshape(-1)[:num_words]


def _add_masks(
    words: UInt32[Array, "words"], seeds: UInt32[Array, "streams 8"], signs: UInt32[Array, "streams"]
) -> UInt32[Array, "words"]:
    """Add masks to words mod 2^32; a sign is 1 to add, 2^32 - 1 to subtract, 0 to leave the mask out."""

    def add_one(total: Array, stream: tuple[Array, Array]) -> tuple[Array, None]:
        seed, sign = stream
        return total + sign * mask(seed, num_words=words.shape[0]), None

    return jax.lax.scan(add_one, words, (seeds, signs))[0]


@partial(jax.jit, static_argnums=(0, 4))
def masked_words(
    words_of: Callable[[Any], tuple[UInt32[Array, "words"], Any]],
    uploads: Any,
    seeds: UInt32[Array, "clients streams 8"],
    signs: UInt32[Array, "clients streams"],
    mesh: Mesh | None = None,
) -> tuple[UInt32[Array, "clients words"], Any]:
    """Compute what each client sends, its words and all its masks, one client at a time.

    Args:
        words_of: from one client's part of `uploads` to its words and information about them. The words of
            only one client per device exist at a time.
        uploads: a pytree of arrays with a leading axis of clients.
        seeds: of each client's masks.
        signs: 1 to add a mask, 2^32 - 1 to subtract it, 0 to leave it out.
        mesh: devices that share the clients; its axis "clients" must divide their number.

    Returns:
        The masked words, and the information, stacked.
    """

    def share(uploads: Any, seeds: Array, signs: Array) -> tuple[Array, Any]:
        def send(client: tuple) -> tuple[Array, Any]:
            upload, own_seeds, own_signs = client
            words, info = words_of(upload)
            return _add_masks(words, own_seeds, own_signs), info

        return jax.lax.map(send, (uploads, seeds, signs))

    return _split(share, mesh, PartitionSpec("clients"))(uploads, seeds, signs)


@partial(jax.jit, static_argnums=(2, 3))
def sum_of_masks(
    seeds: UInt32[Array, "streams 8"],
    signs: UInt32[Array, "streams"],
    num_words: int,
    mesh: Mesh | None = None,
) -> UInt32[Array, "words"]:
    """Sum the masks that the server can compute.

    Args:
        seeds: of the masks.
        signs: 1 to add a mask, 2^32 - 1 to subtract it, 0 to leave it out.
        num_words: length of the masks.
        mesh: devices that share the masks; its axis "clients" must divide their number.
    """

    def share(seeds: Array, signs: Array) -> Array:
        total = _add_masks(jnp.zeros(num_words, jnp.uint32), seeds, signs)
        return total if mesh is None else jax.lax.psum(total, "clients")

    return _split(share, mesh, PartitionSpec())(seeds, signs)


def _split(share: Callable, mesh: Mesh | None, out_spec: PartitionSpec) -> Callable:
    if mesh is None:
        return share
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=PartitionSpec("clients"),
        out_specs=out_spec,
        axis_names={"clients"},
        check_vma=False,  # every device starts from the same zeros
    )
