"""Histories in the two forms that packing turns into each other: CSR on the host, and item by item."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int


@runtime_checkable
class Histories(Protocol):
    """Protocol of interactions in CSR form, one row per user; `fcf_jax.Interactions` satisfies it."""

    @property
    def num_users(self) -> int:
        """Number of rows."""
        ...

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        ...

    @property
    def indptr(self) -> np.ndarray:
        """Row pointers, [users + 1]: user u has the interactions indptr[u] to indptr[u + 1]."""
        ...

    @property
    def item_ids(self) -> np.ndarray:
        """Item of each interaction, ascending within each user."""
        ...

    @property
    def strengths(self) -> np.ndarray:
        """Strength r of each interaction."""
        ...

    def transpose(self) -> "Histories":
        """Return the same interactions with items as rows."""
        ...


class ItemMajor(NamedTuple):
    """The histories of all packed clients item by item, and what GPU kernels need to divide their work.

    The users of an item are consecutive and ascending. A popular item is cut into pieces.

    Attributes:
        user_ids: user of each interaction.
        strengths: strength r of each interaction.
        piece_starts: first interaction of each piece, and the number of interactions.
        piece_items: item of each piece, ascending.
        piece_order: pieces, the longest first.
        first_piece: first piece of each item, and the number of pieces.
        user_order: users, the longest history first.
        history_lengths: number of interactions of each user.
    """

    user_ids: Int[Array, "interactions"]
    strengths: Float[Array, "interactions"]
    piece_starts: Int[Array, "pieces_and_1"]
    piece_items: Int[Array, "pieces"]
    piece_order: Int[Array, "pieces"]
    first_piece: Int[Array, "items_and_1"]
    user_order: Int[Array, "users"]
    history_lengths: Int[Array, "users"]
