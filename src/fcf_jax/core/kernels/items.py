r"""The item sums as kernels, without atomics: item by item over its users, in a fixed order.

    \sum_u w_ui x'_u,   w = t - e x'.z,   and   \sum_u e_ui

Popular items are cut into pieces, one program a piece, whose sums are added up in their order.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from fcf_jax.core.kernels import launch as launches
from fcf_jax.core.kernels.launch import Launch, Weighted


class Pieces(NamedTuple):
    """Items' users as parts of a long array, item by item.

    Attributes:
        order: pieces, the longest first.
        starts: place of each piece's first interaction, and the number of all.
        items: item of each piece, ascending.
        first: first piece of each item, and the number of all.
    """

    order: Int[Array, "pieces"]
    starts: Int[Array, "pieces_and_1"]
    items: Int[Array, "pieces"]
    first: Int[Array, "items_and_1"]


def sum_over_users(
    users: Float[Array, "users factors"],
    table: Float[Array, "items factors"],
    pieces: Pieces,
    interactions: Weighted,
    launch: Launch,
) -> tuple[Float[Array, "items factors"], Float[Array, "items"]]:
    """Sum w x' and e over the users of each item.

    Args:
        users: x' of each user.
        table: whitened item factors.
        pieces: where each item's users are.
        interactions: the users of each item, item by item.
        launch: how to compile.
    """
    num_pieces, (num_items, num_factors) = pieces.order.shape[0], table.shape
    inputs = pieces.order, pieces.starts, pieces.items, *interactions, users, table
    kernel = partial(_sum_piece, tile=launch.tile)
    parts = launches.run(kernel, launch, num_pieces, inputs, ((num_pieces, num_factors), (num_pieces,)))
    shapes = (num_items, num_factors), (num_items,)
    return launches.run(_add_pieces, launch._replace(num_warps=1), num_items, (pieces.first, *parts), shapes)


def _sum_piece(order, starts, items, ids, extra, target, users, table, upload, confidence, *, tile):
    piece = order[pl.program_id(0)]
    item, num_factors = table[items[piece], :], users.shape[1]

    def add(carry, users, extra, target):
        upload, confidence = carry
        seen = target - extra * jnp.sum(users * item[None, :], axis=1)
        return upload + users * seen[:, None], confidence + extra

    start = jnp.zeros((tile, num_factors), jnp.float32), jnp.zeros((tile,), jnp.float32)
    wide, extras = launches.fold_tiles(
        add,
        start,
        begin=starts[piece],
        end=starts[piece + 1],
        interactions=(ids, extra, target),
        factors=users,
        tile=tile,
    )
    upload[piece, :] = jnp.sum(wide, axis=0)
    confidence[piece] = jnp.sum(extras)


def _add_pieces(first, uploads, confidences, upload, confidence):
    item = pl.program_id(0)

    def add(piece, carry):
        return carry[0] + uploads[piece, :], carry[1] + confidences[piece]

    start = jnp.zeros((uploads.shape[1],), jnp.float32), jnp.float32(0)
    upload[item, :], confidence[item] = jax.lax.fori_loop(first[item], first[item + 1], add, start)
