"""Masks at scale: streams of ChaCha20 added to words, one client after the other, on all devices.

A mask takes the words of its stream block by block in the order in which they are computed, word 0
of all blocks first, rather than in that of the RFC: both sides do, and nothing is transposed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, UInt32

from fcf_jax.privacy.secure_sum.chacha20 import BLOCK_WORDS, chacha20_block

_NONCE = 0  # a seed belongs to one pair in one round, and so serves one stream only


def mask(seed: UInt32[Array, "8"], *, num_words: int) -> UInt32[Array, "words"]:
    """Compute the mask that a seed stands for."""
    num_blocks = -(-num_words // BLOCK_WORDS)
    nonce = jnp.full(3, _NONCE, jnp.uint32)
    return chacha20_block(seed, jnp.arange(num_blocks, dtype=jnp.uint32), nonce).reshape(-1)[:num_words]


def add_masks(
    words: UInt32[Array, "words"],
    seeds: UInt32[Array, "streams 8"],
    signs: UInt32[Array, "streams"],
) -> UInt32[Array, "words"]:
    """Add masks to words, mod 2^32.

    Args:
        signs: 1 to add, 2^32 - 1 to subtract, 0 to leave out.
    """

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
    """Compute what each client sends: its words and all its masks, one client at a time.

    Args:
        words_of: from one client's share of `uploads` to its words, only one client's of which exist at a
            time, and what there is to tell of them.
        uploads: a tree of arrays with a leading axis of clients.
        mesh: devices that share the clients, whose number its axis "clients" must divide.

    Returns:
        The masked words, and what there is to tell, stacked.
    """

    def share(uploads: Any, seeds: Array, signs: Array) -> tuple[Array, Any]:
        def send(client: tuple) -> tuple[Array, Any]:
            upload, own_seeds, own_signs = client
            words, told = words_of(upload)
            return add_masks(words, own_seeds, own_signs), told

        return jax.lax.map(send, (uploads, seeds, signs))

    return _split(share, mesh, PartitionSpec("clients"))(uploads, seeds, signs)


@partial(jax.jit, static_argnums=(2, 3))
def sum_of_masks(
    seeds: UInt32[Array, "streams 8"],
    signs: UInt32[Array, "streams"],
    num_words: int,
    mesh: Mesh | None = None,
) -> UInt32[Array, "words"]:
    """Sum masks that the server can compute; the mesh's axis "clients" must divide their number."""

    def share(seeds: Array, signs: Array) -> Array:
        total = add_masks(jnp.zeros(num_words, jnp.uint32), seeds, signs)
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
        check_vma=False,  # every share begins with the same zeros
    )
