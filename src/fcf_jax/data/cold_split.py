"""Items held out whole, as new items are: none of their interactions is trained on."""

import dataclasses

import numpy as np
import numpy.typing as npt

from fcf_jax.data.interactions import Interactions
from fcf_jax.data.selection import of_items
from fcf_jax.data.split import Split, split_per_user, timestamps_of
from fcf_jax.messages import count_of


def split_cold_items(
    interactions: Interactions,
    *,
    cold_fraction: float = 0.1,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    seed: int,
) -> Split:
    """Hold out the items that appear last, whole; split the interactions with the others per user.

    Items are ordered by their first interaction, then by id. Of n items with interactions, the last
    round(n * cold_fraction) are cold, at least one. The catalogue of the other parts has no cold items.

    Args:
        interactions: The whole data set, with timestamps.
        cold_fraction: Share of the items in (0, 1).
        test_fraction: Of the interactions with other items, in [0, 1).
        validation_fraction: Likewise, in [0, 1 - test_fraction); 0 means no validation set.
        seed: >= 0, of the split per user; which items are cold does not depend on it.

    Returns:
        The split, whose part `cold` has the interactions with cold items, over a catalogue of their own.

    Raises:
        ValueError: For fractions out of range, without timestamps, or if no other item is left.
    """
    if not 0 < cold_fraction < 1:
        raise ValueError(f"expected a share of cold items in (0, 1), got {cold_fraction}; 0.1 is usual")
    in_order = _by_first_appearance(interactions)
    num_cold = max(round(in_order.size * cold_fraction), 1)
    if num_cold >= in_order.size:
        raise ValueError(
            f"expected items to train on beside {count_of(num_cold, 'cold item')}, got "
            f"{count_of(in_order.size, 'item')} in all; lower the share of cold items"
        )
    is_cold = np.zeros(interactions.num_items, bool)
    is_cold[in_order[-num_cold:]] = True
    if interactions.item_labels is None:  # else nobody knows which items these were
        interactions = dataclasses.replace(interactions, item_labels=np.arange(interactions.num_items))
    split = split_per_user(
        of_items(interactions, ~is_cold),
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    return dataclasses.replace(split, cold=of_items(interactions, is_cold))


def _by_first_appearance(interactions: Interactions) -> npt.NDArray[np.intp]:
    """Return the items that have interactions, those that appear first at the front."""
    first = np.full(interactions.num_items, np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.item_ids, timestamps_of(interactions))
    in_order = np.argsort(first, kind="stable")
    return in_order[interactions.item_counts[in_order] > 0]
