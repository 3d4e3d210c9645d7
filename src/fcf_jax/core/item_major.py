"""The histories item by item, cut into pieces of work for GPU kernels."""

import jax
import numpy as np

from fcf_jax.core.histories import Histories, ItemMajor

PIECE = 2048  # most interactions of a piece: the most popular item alone would keep the others waiting


def item_major(interactions: Histories, *, piece: int = PIECE) -> ItemMajor:
    """Transpose the histories on the host.

    Args:
        interactions: histories, one row per user.
        piece: most interactions of a piece.
    """
    by_item = interactions.transpose()
    lengths, starts = np.diff(by_item.indptr), by_item.indptr[:-1]
    num_pieces = -(-lengths // piece)
    first_piece = np.append(0, np.cumsum(num_pieces))
    piece_items = np.repeat(np.arange(lengths.size), num_pieces)
    within = np.arange(piece_items.size) - first_piece[piece_items]
    piece_starts = np.append(starts[piece_items] + piece * within, by_item.indptr[-1])
    history_lengths = np.diff(interactions.indptr)

    def put(values: np.ndarray, dtype: type = np.int32) -> jax.Array:
        return jax.device_put(np.asarray(values, dtype))

    return ItemMajor(
        user_ids=put(by_item.item_ids),
        strengths=put(by_item.strengths, np.float32),
        piece_starts=put(piece_starts),
        piece_items=put(piece_items),
        piece_order=put(np.argsort(-np.diff(piece_starts), kind="stable")),
        first_piece=put(first_piece),
        user_order=put(np.argsort(-history_lengths, kind="stable")),
        history_lengths=put(history_lengths),
    )
