"""Data set of an experiment: interactions that are read or simulated, transformed, split and checked."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from fcf_jax.data import (
    Interactions,
    Split,
    check_explicit,
    check_implicit,
    simulate_taste,
    simulate_uniform,
)
from fcf_jax.data.feedback import transformed
from fcf_jax.experiments.build.reading import filtered, read_data, read_published
from fcf_jax.experiments.build.side_features import SideFeatures, features_of
from fcf_jax.experiments.build.splits import SPLITS, Loaded, notes_of, with_negatives
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.config.schema import DataConfig, ExperimentConfig


class Dataset(NamedTuple):
    """Data set that an experiment is trained and tested on.

    Attributes:
        split: training, validation and test set.
        mean_rating: subtracted from explicit ratings; 0 for implicit feedback.
        counts: interactions and lines that reading merged, dropped or skipped, by name.
        notes: what was taken for what and what was left out, a line each.
        features: side features of users and items.
    """

    split: Split
    mean_rating: float
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    features: SideFeatures = SideFeatures()


def load_dataset(config: ExperimentConfig) -> Dataset:
    """Load, transform, check and split the interactions.

    Raises:
        ValueError: in one line, for bad data or numbers that do not fit them.
        OSError: if the data cannot be read.
    """
    (dataset,) = load_datasets(config, split_seeds=[config.data.seed])
    return dataset


def load_datasets(config: ExperimentConfig, split_seeds: Sequence[int]) -> list[Dataset]:
    """Load the interactions once and split them with each seed, or once if the split is not random.

    Raises:
        ValueError: in one line, for bad data or numbers that do not fit them.
        OSError: if the data cannot be read.
    """
    data = config.data
    way = SPLITS[data.split]
    if way.split is None:
        split, counts, notes = _published(data)
        splits = [split]
    else:
        loaded = _load(data)
        counts, notes = loaded.counts, loaded.notes
        splits = [
            way.split(loaded, data, seed) for seed in (split_seeds if way.is_random else split_seeds[:1])
        ]
    features = features_of(data, *splits[0].parts)
    notes = (*notes, *notes_of(splits[0], data), *features.notes)
    for split in splits:
        _check_strengths(split, None if data.feedback == "explicit" else config.model.alpha)
        train = split.train
        check(config, facts=Facts(train.num_users, train.num_items, train.num_interactions))
    return [
        Dataset(split, _mean_rating(split.train, data.feedback), counts, notes, features) for split in splits
    ]


def has_random_split(data: DataConfig) -> bool:
    """Return whether the split depends on the seed."""
    return SPLITS[data.split].is_random


def load_interactions(data: DataConfig) -> tuple[Interactions, dict[str, int]]:
    """Read or simulate all interactions, and transform their strengths.

    Returns:
        The interactions, and how many reading merged, dropped or skipped, by name.
    """
    loaded = _load(data)
    return loaded.interactions, loaded.counts


def _load(data: DataConfig) -> Loaded:
    if data.source != "simulated":
        kept, counts, report, notes = read_data(data)
        return Loaded(transform_strengths(kept, data), counts, notes, report.appearance)
    simulated = _simulated(data)
    kept = filtered(simulated, data)
    counts = {"filtered_out": simulated.num_interactions - kept.num_interactions}
    return Loaded(transform_strengths(kept, data), counts)


def transform_strengths(interactions: Interactions, data: DataConfig) -> Interactions:
    """Transform strengths as `data.strengths` asks for."""
    return transformed(interactions, data.strengths)


def load_published(data: DataConfig) -> Interactions:
    """Read a published split and join its parts."""
    split, *_ = _published(data)
    both = sum(part.to_scipy() for part in split.parts)
    return dataclasses.replace(
        Interactions.from_scipy(both),
        user_labels=split.train.user_labels,
        item_labels=split.train.item_labels,
    )


def _mean_rating(train: Interactions, feedback: str) -> float:
    return float(train.strengths.mean(dtype="float64")) if feedback == "explicit" else 0.0


def _check_strengths(split: Split, alpha: float | None) -> None:
    """Refuse strengths beyond float32; `alpha` of None: explicit ratings."""
    for part in split.parts:
        if alpha is None:
            check_explicit(part)
        else:
            check_implicit(part, alpha=alpha)


def _simulated(data: DataConfig) -> Interactions:
    if data.generator == "uniform":
        return simulate_uniform(
            num_users=data.num_users, num_items=data.num_items, sparsity=data.sparsity, seed=data.seed
        )
    return simulate_taste(
        num_users=data.num_users, num_items=data.num_items, mean_history=data.mean_history, seed=data.seed
    )


def _published(data: DataConfig) -> tuple[Split, dict[str, int], tuple[str, ...]]:
    read = read_published(data)
    split = Split(read.train, read.validation, read.test)
    split = with_negatives(split, data)
    return split.map(lambda part: transform_strengths(part, data)), read.counts, read.notes
