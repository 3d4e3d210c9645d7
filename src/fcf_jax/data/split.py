"""Split interactions into training, validation and test sets; users, items and labels stay the same in all of
them.

Metrics are means over users with at least one test item. `Split` counts the users who have none, and those
whose test items come without any training interaction (they can only be ranked for by the zero vector).
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from fcf_jax.data.interactions import Interactions


@dataclasses.dataclass(frozen=True)
class Split:
    """Disjoint parts of one data set.

    Attributes:
        train: What the model sees.
        validation: For choosing hyperparameters, or None.
        test: For the final number.
    """

    train: Interactions
    validation: Interactions | None
    test: Interactions

    @property
    def num_users_without_test(self) -> int:
        """Users who do not count in test metrics."""
        return int((self.test.history_lengths == 0).sum())

    @property
    def num_users_without_train(self) -> int:
        """Users with test items but no training interaction (only `split_temporal` makes any)."""
        return int(((self.train.history_lengths == 0) & (self.test.history_lengths > 0)).sum())


def split_per_user(
    interactions: Interactions, *, test_fraction: float = 0.2, validation_fraction: float = 0.0, seed: int
) -> Split:
    """Move a random share of each user's history to the test set.

    Of n interactions round(n * test_fraction) go to the test set and round(n * validation_fraction) to the
    validation set (halves up), but at least one stays for training: users with one interaction, and with 0.2
    those with two, have no test item.

    Args:
        interactions: The whole data set.
        test_fraction: In [0, 1).
        validation_fraction: In [0, 1); 0 means no validation set. Together with test_fraction below 1.
        seed: >= 0; the same seed gives the identical split.

    Raises:
        ValueError: For fractions out of range.
    """
    _check_fractions(test_fraction, validation_fraction)
    rng = np.random.default_rng(seed)
    # user + [0, 1): one sort shuffles within every user; stable, so that equal numbers fall alike everywhere.
    order = np.argsort(interactions.user_ids + rng.random(interactions.num_interactions), kind="stable")
    lengths = interactions.history_lengths
    num_test = np.clip(_rounded(lengths * test_fraction), 0, np.maximum(lengths - 1, 0))
    num_validation = np.clip(
        _rounded(lengths * validation_fraction), 0, np.maximum(lengths - 1 - num_test, 0)
    )
    return _by_rank(interactions, order, num_test, num_validation, has_validation=validation_fraction > 0)


def split_leave_one_out(interactions: Interactions, *, validation: bool = False) -> Split:
    """Move each user's latest interaction to the test set (of equal timestamps the one with the largest item
    id).

    Users with one interaction have no test item.

    Args:
        interactions: The whole data set, with timestamps.
        validation: Whether the latest but one goes to a validation set, for users with three or more.

    Raises:
        ValueError: When there are no timestamps.
    """
    timestamps = _timestamps(interactions)
    latest_first = np.lexsort((-interactions.item_ids, -timestamps, interactions.user_ids))
    lengths = interactions.history_lengths
    num_test = (lengths >= 2).astype(np.int64)
    num_validation = ((lengths >= 3) & validation).astype(np.int64)
    return _by_rank(interactions, latest_first, num_test, num_validation, has_validation=validation)


def split_temporal(
    interactions: Interactions, *, test_fraction: float = 0.2, validation_fraction: float = 0.0
) -> Split:
    """Cut at a point in time: the latest interactions of all users are the test set, those before it the
    validation set.

    Interactions of one timestamp stay together, on the later side of the cut; the test set may therefore be a
    little larger than asked for. Users may have test items without any training interaction: see
    `Split.num_users_without_train`.

    Args:
        interactions: The whole data set, with timestamps.
        test_fraction: In [0, 1).
        validation_fraction: In [0, 1); 0 means no validation set. Together with test_fraction below 1.

    Raises:
        ValueError: For fractions out of range, when there are no timestamps, or when nothing would be left
            for training.
    """
    _check_fractions(test_fraction, validation_fraction)
    timestamps = _timestamps(interactions)
    test = timestamps >= _cut(timestamps, test_fraction)
    later = timestamps >= _cut(timestamps, test_fraction + validation_fraction)
    if later.all() and len(later):
        raise ValueError(
            "expected earlier interactions for training, got none before the cut; lower the fractions"
        )
    validation = interactions.select(later & ~test) if validation_fraction > 0 else None
    return Split(interactions.select(~(later | test)), validation, interactions.select(test))


def _check_fractions(test_fraction: float, validation_fraction: float) -> None:
    if not (min(test_fraction, validation_fraction) >= 0 and test_fraction + validation_fraction < 1):
        raise ValueError(
            f"expected fractions >= 0 with a sum < 1, got test {test_fraction} "
            f"and validation {validation_fraction}; leave some for training"
        )


def _timestamps(interactions: Interactions) -> npt.NDArray[np.int64]:
    if interactions.timestamps is None:
        raise ValueError("expected timestamps, got none; set data.timestamp_column or split per user")
    return interactions.timestamps


def _rounded(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    return np.floor(numbers + 0.5).astype(np.int64)


def _cut(timestamps: npt.NDArray[np.int64], fraction: float) -> float:
    """The earliest timestamp of the latest `fraction` of all; beyond all of them when that is none."""
    num_later = int(_rounded(np.array(len(timestamps) * fraction)))
    return np.inf if num_later == 0 else np.sort(timestamps)[-num_later]


def _by_rank(
    interactions: Interactions,
    order: npt.NDArray[np.int64],
    num_test: npt.NDArray[np.int64],
    num_validation: npt.NDArray[np.int64],
    *,
    has_validation: bool,
) -> Split:
    """Give each user's first interactions in `order` (user by user) to test, the next to validation."""
    users = interactions.user_ids
    rank = np.empty(len(users), np.int64)
    rank[order] = np.arange(len(users)) - interactions.indptr[users]
    test = rank < num_test[users]
    held_out = rank < (num_test + num_validation)[users]
    validation = interactions.select(held_out & ~test) if has_validation else None
    return Split(interactions.select(~held_out), validation, interactions.select(test))
