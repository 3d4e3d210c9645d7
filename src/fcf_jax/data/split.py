"""Training, validation and test sets, over the same users, items and labels as the whole.

`split_users` alone holds out users: its parts have users of their own, over the same items. Metrics are means
over the users with at least one test item. `Split` counts the users without one, and those with test items
but no history, whose user factor is zero.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

from fcf_jax.data.interactions import Interactions
from fcf_jax.data.selection import of_items, of_users


@dataclasses.dataclass(frozen=True)
class Split:
    """Disjoint parts of one data set.

    Attributes:
        train: For training.
        validation: For choosing hyperparameters; None if there is none.
        test: For the final metrics.
        fold_in: Histories of the users of `test`, when these are not the users of `train`; None: those of
            `train`.
        validation_fold_in: Likewise, of the users of `validation`.
        negatives: Items among which the test items are ranked as well, for each user, padded with -1; None
            without.
        cold: Interactions of the users of `train` with items that were held out whole, over a catalogue of
            their own; None: no item was.
    """

    train: Interactions
    validation: Interactions | None
    test: Interactions
    fold_in: Interactions | None = None
    validation_fold_in: Interactions | None = None
    negatives: Int[np.ndarray, "users negatives"] | None = None
    cold: Interactions | None = None

    @property
    def histories(self) -> Interactions:
        """What the users of the test set are folded in from."""
        return self.train if self.fold_in is None else self.fold_in

    @property
    def parts(self) -> list[Interactions]:
        """All parts that there are."""
        return [part for part in vars(self).values() if isinstance(part, Interactions)]

    def map(self, change: Callable[[Interactions], Interactions]) -> "Split":
        """Return the split with each part changed."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Interactions)}
        return dataclasses.replace(self, **{name: change(part) for name, part in parts.items()})

    @property
    def num_users_without_test(self) -> int:
        """Number of users without test items, left out of the metrics."""
        return int((self.test.history_lengths == 0).sum())

    @property
    def num_users_without_train(self) -> int:
        """Number of users with test items but no training interaction, only after `split_temporal`."""
        return int(((self.histories.history_lengths == 0) & (self.test.history_lengths > 0)).sum())


def split_per_user(
    interactions: Interactions, *, test_fraction: float = 0.2, validation_fraction: float = 0.0, seed: int
) -> Split:
    """Move a random share of each user's history to the test set.

    Of n interactions, round(n * test_fraction) go to the test set and round(n * validation_fraction) to the
    validation set (halves are rounded up), but at least one stays for training. Users with one interaction
    have no test item; at a fraction of 0.2, those with two have none either.

    Args:
        interactions: The whole data set.
        test_fraction: In [0, 1).
        validation_fraction: In [0, 1 - test_fraction); 0 means no validation set.
        seed: >= 0; the same seed gives the identical split.

    Raises:
        ValueError: For fractions out of range.
    """
    _check_fractions(test_fraction, validation_fraction)
    rng = np.random.default_rng(seed)
    # One sort of user + [0, 1) shuffles within each user; stable, so that ties are broken alike everywhere.
    order = np.argsort(interactions.user_ids + rng.random(interactions.num_interactions), kind="stable")
    lengths = interactions.history_lengths
    num_test = np.clip(_rounded(lengths * test_fraction), 0, np.maximum(lengths - 1, 0))
    num_validation = np.clip(
        _rounded(lengths * validation_fraction), 0, np.maximum(lengths - 1 - num_test, 0)
    )
    return _split_by_rank(
        interactions, order, num_test, num_validation, has_validation=validation_fraction > 0
    )


def split_leave_one_out(interactions: Interactions, *, validation: bool = False) -> Split:
    """Move each user's latest interaction to the test set, the largest item id among equal timestamps.

    Users with one interaction have no test item.

    Args:
        interactions: The whole data set, with timestamps.
        validation: Whether the second latest goes to a validation set, for users with three or more.

    Raises:
        ValueError: Without timestamps.
    """
    timestamps = timestamps_of(interactions)
    latest_first = np.lexsort((-interactions.item_ids, -timestamps, interactions.user_ids))
    lengths = interactions.history_lengths
    num_test = (lengths >= 2).astype(np.int64)
    num_validation = ((lengths >= 3) & validation).astype(np.int64)
    return _split_by_rank(interactions, latest_first, num_test, num_validation, has_validation=validation)


def split_given(
    interactions: Interactions,
    user_ids: npt.NDArray[np.integer],
    item_ids: npt.NDArray[np.integer],
    *,
    validation: bool = False,
) -> Split:
    """Move given pairs to the test set.

    Args:
        interactions: The whole data set, with timestamps if there is to be a validation set.
        user_ids: User of each pair.
        item_ids: Item of each pair.
        validation: Whether each user's latest remaining interaction goes to a validation set.

    Raises:
        ValueError: For a pair that is no interaction, or without timestamps for a validation set.
    """
    keys = interactions.user_ids.astype(np.int64) * interactions.num_items + interactions.item_ids
    wanted = user_ids.astype(np.int64) * interactions.num_items + item_ids
    if (missing := np.flatnonzero(~np.isin(wanted, keys))).size:
        pair = [
            ids[missing[0]] if labels is None else labels[ids[missing[0]]]
            for ids, labels in (
                (user_ids, interactions.user_labels),
                (item_ids, interactions.item_labels),
            )
        ]
        raise ValueError(
            f"expected test items among the interactions, got user {pair[0]} and item {pair[1]} "
            f"({missing.size} of {wanted.size} are not); check which data set the test items are of"
        )
    is_test = np.isin(keys, wanted)
    test, rest = interactions.select(is_test), interactions.select(~is_test)
    if not validation:
        return Split(rest, None, test)
    latest = split_leave_one_out(rest)
    return Split(latest.train, latest.test, test)


def split_temporal(
    interactions: Interactions, *, test_fraction: float = 0.2, validation_fraction: float = 0.0
) -> Split:
    """Move the latest interactions of all users to the test set, those before it to the validation set.

    Interactions with equal timestamps stay together, in the later part, so the test set may be slightly
    larger than its fraction. Users may have test items but no training interaction: see
    `Split.num_users_without_train`.

    Args:
        interactions: The whole data set, with timestamps.
        test_fraction: In [0, 1).
        validation_fraction: In [0, 1 - test_fraction); 0 means no validation set.

    Raises:
        ValueError: For fractions out of range, without timestamps, or if nothing is left for training.
    """
    _check_fractions(test_fraction, validation_fraction)
    timestamps = timestamps_of(interactions)
    test = timestamps >= _first_held_out(timestamps, test_fraction)
    held_out = timestamps >= _first_held_out(timestamps, test_fraction + validation_fraction)
    if held_out.all() and len(held_out):
        raise ValueError(
            "expected earlier interactions for training, got none before the cut; lower the fractions"
        )
    return _split_by_masks(interactions, test, held_out, has_validation=validation_fraction > 0)


def split_users(
    interactions: Interactions,
    *,
    num_test_users: int,
    num_validation_users: int = 0,
    test_fraction: float = 0.2,
    seed: int,
) -> Split:
    """Hold out whole users: train on the others, fold in from a part of each history, test on the rest.

    Of n interactions of a held-out user, floor(n * test_fraction), drawn at random, are test items. The
    catalogue consists of the items of the training set; other items are left out of all parts.

    Args:
        interactions: The whole data set.
        num_test_users: Users held out for testing, at least 1.
        num_validation_users: Users held out for choosing hyperparameters; 0 means no validation set.
        test_fraction: In (0, 1).
        seed: >= 0; the same seed gives the identical split.

    Raises:
        ValueError: If no user is left for training, or for numbers out of range.

    References:
        Liang, Krishnan, Hoffman & Jebara, WWW 2018, section 4.1: strong generalization.
    """
    _check_fractions(test_fraction, 0.0)
    num_held_out = num_test_users + num_validation_users
    if min(num_test_users - 1, num_validation_users) < 0 or num_held_out >= interactions.num_users:
        raise ValueError(
            f"expected users to train on beside those held out, got {interactions.num_users} users, "
            f"{num_test_users} to test and {num_validation_users} to validate on; hold out fewer"
        )
    if interactions.user_labels is None:  # else nobody knows which users were held out
        interactions = dataclasses.replace(interactions, user_labels=np.arange(interactions.num_users))
    rng = np.random.default_rng(seed)
    users = rng.permutation(interactions.num_users)
    groups = np.split(users, [num_test_users, num_held_out])
    test, validation, train = (of_users(interactions, np.sort(group)) for group in groups)
    is_known = train.item_counts > 0
    fold_in, wanted = _divided(of_items(test, is_known), test_fraction, rng)
    train = of_items(train, is_known)
    if not num_validation_users:
        return Split(train, None, wanted, fold_in=fold_in)
    validation_fold_in, validated = _divided(of_items(validation, is_known), test_fraction, rng)
    return Split(train, validated, wanted, fold_in=fold_in, validation_fold_in=validation_fold_in)


def _divided(
    histories: Interactions, fraction: float, rng: np.random.Generator
) -> tuple[Interactions, Interactions]:
    """Draw a share of each history; return (what is left, what was drawn)."""
    order = np.argsort(histories.user_ids + rng.random(histories.num_interactions), kind="stable")
    num_drawn = np.floor(histories.history_lengths * fraction).astype(np.int64)
    none = np.zeros_like(num_drawn)
    split = _split_by_rank(histories, order, num_drawn, none, has_validation=False)
    return split.train, split.test


def cap_histories(interactions: Interactions, *, max_user_items: int, seed: int) -> Interactions:
    """Keep at most `max_user_items` interactions of each user, drawn without replacement.

    What is kept of a user depends only on the user's number, its items and the seed. As long as users keep
    their numbers, no user influences what is kept of another.

    Args:
        interactions: The whole data set.
        max_user_items: >= 1.
        seed: In [0, 2**32).

    Raises:
        ValueError: For max_user_items below 1.
    """
    if max_user_items < 1:
        raise ValueError(f"expected max_user_items of at least 1, got {max_user_items}; raise it")
    users = _hash(interactions.user_ids.astype(np.uint64) + (np.uint64(seed) << np.uint64(32)))
    draws = _hash(users + interactions.item_ids.astype(np.uint64))
    order = np.lexsort((draws, interactions.user_ids))
    return interactions.select(_ranks(interactions, order) < max_user_items)


def _hash(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    from pandas.util import hash_array

    return hash_array(values)  # type: ignore[operator]


def _check_fractions(test_fraction: float, validation_fraction: float) -> None:
    if not (min(test_fraction, validation_fraction) >= 0 and test_fraction + validation_fraction < 1):
        raise ValueError(
            f"expected fractions >= 0 with a sum < 1, got test {test_fraction} "
            f"and validation {validation_fraction}; leave some for training"
        )


def timestamps_of(interactions: Interactions) -> npt.NDArray[np.int64]:
    """Return the timestamps; raise ValueError if there are none."""
    if interactions.timestamps is None:
        raise ValueError("expected timestamps, got none; set data.timestamp_column or split per user")
    return interactions.timestamps


def _rounded(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    return np.floor(numbers + 0.5).astype(np.int64)


def _first_held_out(timestamps: npt.NDArray[np.int64], fraction: float) -> float:
    """Return the earliest timestamp of the latest `fraction` of all; infinity if that is none."""
    num_later = int(_rounded(np.array(len(timestamps) * fraction)))
    return np.inf if num_later == 0 else np.sort(timestamps)[-num_later]


def _ranks(interactions: Interactions, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each interaction in its user's history, for an order that is sorted by user."""
    users = interactions.user_ids
    ranks = np.empty(len(users), np.int64)
    ranks[order] = np.arange(len(users)) - interactions.indptr[users]
    return ranks


def _split_by_rank(
    interactions: Interactions,
    order: npt.NDArray[np.int64],
    num_test: npt.NDArray[np.int64],
    num_validation: npt.NDArray[np.int64],
    *,
    has_validation: bool,
) -> Split:
    """Move each user's first interactions in `order` to the test set, the next ones to validation."""
    users, ranks = interactions.user_ids, _ranks(interactions, order)
    held_out = ranks < (num_test + num_validation)[users]
    return _split_by_masks(interactions, ranks < num_test[users], held_out, has_validation=has_validation)


def _split_by_masks(
    interactions: Interactions,
    test: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    *,
    has_validation: bool,
) -> Split:
    validation = interactions.select(held_out & ~test) if has_validation else None
    return Split(interactions.select(~held_out), validation, interactions.select(test))
