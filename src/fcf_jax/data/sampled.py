"""Sampled negatives of training: items that a user has not interacted with, beside those that it has.

Objectives that cannot sum over the whole catalogue, such as logistic ones, compare with a sample of it. It is
drawn once, on the user's device: a user's sample depends on the seed, on its label and on its own history.
"""

import dataclasses
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fcf_jax.data.interactions import Interactions


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of an observed and an unobserved item, in rows of users; `pack_clients` takes them as histories.

    Attributes:
        indptr: The pairs of user u are at positions indptr[u] to indptr[u + 1] - 1.
        item_ids: The observed item of each pair, ascending within a user.
        strengths: Strength of its interaction.
        negative_ids: The unobserved item of each pair.
        num_items: Size of the catalogue.
    """

    indptr: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int32]
    strengths: npt.NDArray[np.float32]
    negative_ids: npt.NDArray[np.int32]
    num_items: int

    @property
    def num_users(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    def transpose(self) -> "Pairs":
        """Refuse, because a pair has two items.

        Raises:
            TypeError: Always.
        """
        raise TypeError("expected interactions with one item each, got pairs; they have no form by item")


def with_negatives(interactions: Interactions, *, num_negatives: int, seed: int = 0) -> Interactions:
    """Add unobserved items as interactions of strength 0, drawn uniformly without replacement.

    Args:
        interactions: Histories with strengths above 0.
        num_negatives: Negatives for each interaction, at least 1; a user gets fewer if the catalogue has
            fewer.
        seed: Of the sample, at least 0.

    Raises:
        ValueError: For a strength of 0 or less, which would pass for a negative, or no negatives.

    References:
        Johnson 2014, section 3.2, subsamples the items without interactions likewise.
    """
    _require(num_negatives)
    if interactions.strengths.min(initial=np.inf) <= 0:
        raise ValueError(
            f"expected strengths above 0, got {interactions.strengths.min():g}; leave such interactions out"
        )
    num_items = interactions.num_items
    places, num_drawn = [np.zeros(0, np.int64)], np.zeros(interactions.num_users, np.int64)
    of_users = zip(interactions.history_lengths, _generators(interactions, seed), strict=True)
    for user, (length, generator) in enumerate(of_users):
        num_drawn[user] = min(num_negatives * length, num_items - length)
        places.append(generator.choice(num_items - length, num_drawn[user], replace=False, shuffle=False))
    users = np.repeat(np.arange(interactions.num_users), num_drawn)
    negatives = _unobserved(interactions, users, np.concatenate(places))
    return Interactions.from_arrays(
        np.concatenate([interactions.user_ids, users]),
        np.concatenate([interactions.item_ids, negatives]),
        np.concatenate([interactions.strengths, np.zeros(len(negatives), np.float32)]),
        num_users=interactions.num_users,
        num_items=num_items,
        user_labels=interactions.user_labels,
        item_labels=interactions.item_labels,
    )


def with_pairs(interactions: Interactions, *, num_negatives: int, seed: int = 0) -> Pairs:
    """Pair each interaction with unobserved items, drawn uniformly with replacement.

    Args:
        interactions: Histories.
        num_negatives: Pairs of each interaction, at least 1. A user with all items has none.
        seed: Of the sample, at least 0.

    Raises:
        ValueError: For no negatives.

    References:
        Rendle et al. 2009, section 4.2: D_S, of which pairs are drawn.
    """
    _require(num_negatives)
    unobserved = interactions.num_items - interactions.history_lengths
    has_pairs = np.repeat(unobserved > 0, interactions.history_lengths)
    users = np.repeat(interactions.user_ids[has_pairs], num_negatives)
    lengths = np.where(unobserved > 0, interactions.history_lengths, 0) * num_negatives
    of_users = zip(unobserved, lengths, _generators(interactions, seed), strict=True)
    places = [np.zeros(0, np.int64)]
    places += [generator.integers(0, max(most, 1), length) for most, length, generator in of_users]
    return Pairs(
        indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=np.repeat(interactions.item_ids[has_pairs], num_negatives),
        strengths=np.repeat(interactions.strengths[has_pairs], num_negatives),
        negative_ids=_unobserved(interactions, users, np.concatenate(places)),
        num_items=interactions.num_items,
    )


def _require(num_negatives: int) -> None:
    if num_negatives < 1:
        raise ValueError(f"expected num_negatives of at least 1, got {num_negatives}; 4 is usual")


def _generators(interactions: Interactions, seed: int) -> Iterator[np.random.Generator]:
    """Make a generator for each user, the same among whatever other users."""
    labels = interactions.user_labels
    for label in range(interactions.num_users) if labels is None else labels.tolist():
        yield np.random.default_rng([seed, zlib.crc32(str(label).encode())])


def _unobserved(
    interactions: Interactions, users: npt.NDArray[np.integer], places: npt.NDArray[np.integer]
) -> npt.NDArray[np.int32]:
    """Return the item at each place of the ascending list of a user's unobserved items."""
    indptr, num_items = interactions.indptr, interactions.num_items
    # unobserved items below the j-th observed one; ascending over all users once each has its own range
    below = interactions.item_ids - (np.arange(interactions.num_interactions) - indptr[interactions.user_ids])
    below = below + (num_items + 1) * interactions.user_ids
    passed = np.searchsorted(below, places + (num_items + 1) * users.astype(np.int64), side="right")
    return (places + passed - indptr[users]).astype(np.int32)
