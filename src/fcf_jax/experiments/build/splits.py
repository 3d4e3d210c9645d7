"""Ways to split the data of an experiment: one table with a row for each value of `data.split`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcf_jax.data import (
    Interactions,
    Split,
    split_cold_items,
    split_leave_one_out,
    split_per_user,
    split_temporal,
    split_users,
)
from fcf_jax.data.negatives import Negatives, read_negatives
from fcf_jax.data.read import Appearance
from fcf_jax.data.selection import positions_of
from fcf_jax.data.split import split_given
from fcf_jax.experiments.config.schema import DataConfig
from fcf_jax.messages import count_of


class Loaded(NamedTuple):
    """Interactions as they are split.

    Attributes:
        interactions: all of them, with transformed strengths.
        counts: what reading merged, dropped or skipped, by name.
        notes: what was taken for what and what was left out, a line each.
        appearance: users and items in the order of the file; None for simulated data.
    """

    interactions: Interactions
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    appearance: Appearance | None = None


class Way(NamedTuple):
    """A way to split.

    Attributes:
        split: (interactions, section of the configuration, seed) -> the split; None: the data are published
            in parts.
        is_random: whether the split depends on the seed.
    """

    split: Callable[[Loaded, DataConfig, int], Split] | None
    is_random: bool = False


def _by_ratio(loaded: Loaded, data: DataConfig, seed: int) -> Split:
    return split_per_user(
        loaded.interactions,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        seed=seed,
    )


def _leave_one_out(loaded: Loaded, data: DataConfig, seed: int) -> Split:
    """Hold out each user's latest item, or the item that the file of negatives names."""
    interactions, has_validation = loaded.interactions, data.validation_fraction > 0
    if data.negatives_path is None:
        return split_leave_one_out(interactions, validation=has_validation)
    given = _negatives_of(data.negatives_path, loaded, data)
    split = _given(interactions, given, data, validation=has_validation)
    return dataclasses.replace(split, negatives=given.items)


def _given(
    interactions: Interactions, given: Negatives, data: DataConfig, *, validation: bool = False
) -> Split:
    try:
        return split_given(interactions, given.user_ids, given.item_ids, validation=validation)
    except ValueError as error:
        raise ValueError(f"{data.negatives_path}: {error}, or set data.negatives_ids") from error


def with_negatives(split: Split, data: DataConfig) -> Split:
    """Add the sampled negatives of a published split, if a file of them is named.

    Raises:
        ValueError: naming the file, for test items that are not those of the test set.
    """
    if data.negatives_path is None:
        return split
    given = _negatives_of(data.negatives_path, Loaded(split.train, {}), data)
    in_test = _given(split.test, given, data).test
    if in_test.num_interactions < split.test.num_interactions:
        raise ValueError(
            f"{data.negatives_path}: expected a line for each of {split.test.num_interactions} test items, "
            f"got {in_test.num_interactions}; check which test set the file is of"
        )
    return dataclasses.replace(split, negatives=given.items)


def _negatives_of(path: str, loaded: Loaded, data: DataConfig) -> Negatives:
    user_ids, item_ids = _numbers(loaded, data)
    return read_negatives(path, user_ids, item_ids, num_users=loaded.interactions.num_users)


def _numbers(loaded: Loaded, data: DataConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of users and items by what a file of negatives calls them."""
    interactions = loaded.interactions
    labels = [
        np.arange(count) if known is None else known
        for count, known in (
            (interactions.num_users, interactions.user_labels),
            (interactions.num_items, interactions.item_labels),
        )
    ]
    if data.negatives_ids == "labels" or loaded.appearance is None:
        users, items = ({str(label): index for index, label in enumerate(one)} for one in labels)
        return users, items
    places = [positions_of(first, one) for first, one in zip(loaded.appearance, labels, strict=True)]
    users, items = (
        {str(number): int(index) for number, index in enumerate(one) if index >= 0} for one in places
    )
    return users, items


def _temporal(loaded: Loaded, data: DataConfig, seed: int) -> Split:
    return split_temporal(
        loaded.interactions,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
    )


def _strong(loaded: Loaded, data: DataConfig, seed: int) -> Split:
    num_users = loaded.interactions.num_users
    try:
        return split_users(
            loaded.interactions,
            num_test_users=max(num_users // 10, 1) if data.test_users is None else data.test_users,
            num_validation_users=data.validation_users or 0,
            test_fraction=data.test_fraction,
            seed=seed,
        )
    except ValueError as error:
        raise ValueError(f"data.test_users: {error}") from error


def _cold_items(loaded: Loaded, data: DataConfig, seed: int) -> Split:
    try:
        return split_cold_items(
            loaded.interactions,
            cold_fraction=data.cold_fraction or 0.1,
            test_fraction=data.test_fraction,
            validation_fraction=data.validation_fraction,
            seed=seed,
        )
    except ValueError as error:
        raise ValueError(f"data.split: {error}") from error


SPLITS: Mapping[str, Way] = {
    "ratio": Way(_by_ratio, is_random=True),
    "leave_one_out": Way(_leave_one_out),
    "temporal": Way(_temporal),
    "published": Way(None),
    "strong": Way(_strong),  # replicates of a comparison share the users that are held out
    "cold_items": Way(_cold_items, is_random=True),
}


def notes_of(split: Split, data: DataConfig) -> tuple[str, ...]:
    """Return what is to be said about a split, a line each."""
    if split.cold is not None:
        return (_cold_note(split.cold),)
    if split.negatives is None:
        return ()
    counts = np.sum(split.negatives >= 0, axis=1)[split.test.history_lengths > 0]
    numbers = f"{counts.min()} to {counts.max()}" if np.ptp(counts) else f"{counts.min()}"
    return (
        f"{count_of(counts.size, 'test item')}, ranked in the catalogue and among {numbers} negatives: "
        f"{Path(data.negatives_path or '').name}",
    )


def _cold_note(cold: Interactions) -> str:
    num_users = int((cold.history_lengths > 0).sum())
    return (
        f"{count_of(cold.num_items, 'cold item')}, held out whole: "
        f"{count_of(cold.num_interactions, 'interaction')} of {count_of(num_users, 'user')}"
    )
