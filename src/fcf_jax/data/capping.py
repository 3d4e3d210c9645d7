"""A cap on what one user contributes: some of its interactions, drawn at random."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pandas.util import hash_array

from fcf_jax.data.interactions import Interactions

_mix: Callable[[npt.NDArray[np.uint64]], npt.NDArray[np.uint64]] = hash_array  # type: ignore[assignment]


def cap_histories(interactions: Interactions, *, max_user_items: int, seed: int) -> Interactions:
    """Keep `max_user_items` interactions of every user that has more, drawn without replacement.

    What a user keeps depends on its number, its items and the seed alone: as long as users keep their
    numbers, nobody's presence shows in what the others send.

    Args:
        interactions: of any users.
        max_user_items: at least 1.
        seed: of the draw.

    Raises:
        ValueError: for a cap below 1.
    """
    if max_user_items < 1:
        raise ValueError(f"expected max_user_items of at least 1, got {max_user_items}")
    users = _mix(interactions.user_ids.astype(np.uint64) + (np.uint64(seed) << np.uint64(32)))
    draws = _mix(users + interactions.item_ids.astype(np.uint64))
    order = np.lexsort((draws, interactions.user_ids))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - interactions.indptr[interactions.user_ids[order]]
    return interactions.select(rank < max_user_items)
