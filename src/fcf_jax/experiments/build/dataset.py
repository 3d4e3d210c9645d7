"""Data set of an experiment: interactions that are read or simulated, transformed, split and checked."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from fcf_jax.data import (
    Columns,
    Interactions,
    Split,
    check_implicit,
    read_interactions,
    read_published_split,
    simulate_taste,
    simulate_uniform,
    split_leave_one_out,
    split_per_user,
    split_temporal,
)
from fcf_jax.data.feedback import transformed
from fcf_jax.data.known_sets import cache_folder, find_known, known_set
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.mistakes import Facts
from fcf_jax.experiments.config.schema import DataConfig, ExperimentConfig
from fcf_jax.experiments.errors import ConfigError


class Dataset(NamedTuple):
    """Data set that an experiment is trained and tested on.

    Attributes:
        split: training, validation and test set.
        mean_rating: subtracted from explicit ratings; 0 for implicit feedback.
        counts: interactions and lines that reading merged, dropped or skipped, by name.
    """

    split: Split
    mean_rating: float
    counts: dict[str, int]


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
    if data.split == "published":
        splits, counts = [_published(data)], {}
    else:
        interactions, counts = load_interactions(data)
        seeds = split_seeds if has_random_split(data) else split_seeds[:1]
        splits = [_split(interactions, data, seed=seed) for seed in seeds]
    for split in splits:
        if data.feedback == "implicit":
            _check_strengths(split, alpha=config.model.alpha)
        train = split.train
        check(config, facts=Facts(train.num_users, train.num_items, train.num_interactions))
    return [Dataset(split, _mean_rating(split.train, data.feedback), counts) for split in splits]


def has_random_split(data: DataConfig) -> bool:
    """Return whether the split depends on the seed."""
    return data.split == "ratio"


def load_interactions(data: DataConfig) -> tuple[Interactions, dict[str, int]]:
    """Read or simulate all interactions, and transform their strengths.

    Returns:
        The interactions, and how many reading merged, dropped or skipped, by name.
    """
    if data.source == "simulated":
        interactions, counts = _simulated(data), {}
    else:
        interactions, counts = _read(data)
    kept = interactions.filter_min_counts(
        min_user_interactions=data.min_user_interactions, min_item_interactions=data.min_item_interactions
    )
    counts["filtered_out"] = interactions.num_interactions - kept.num_interactions
    if kept.num_interactions == 0:
        raise ValueError(
            "expected interactions, got none after filtering; lower data.min_user_interactions "
            "or data.min_item_interactions"
        )
    return transform_strengths(kept, data), counts


def transform_strengths(interactions: Interactions, data: DataConfig) -> Interactions:
    """Transform strengths as `data.strengths` asks for."""
    return transformed(interactions, data.strengths)


def load_published(data: DataConfig) -> Interactions:
    """Read a published split and join its parts."""
    split = _published(data)
    both = split.train.to_scipy() + split.test.to_scipy()
    return dataclasses.replace(
        Interactions.from_scipy(both),
        user_labels=split.train.user_labels,
        item_labels=split.train.item_labels,
    )


def _mean_rating(train: Interactions, feedback: str) -> float:
    return float(train.strengths.mean(dtype="float64")) if feedback == "explicit" else 0.0


def _check_strengths(split: Split, *, alpha: float) -> None:
    for part in (split.train, split.validation, split.test):
        if part is not None:
            check_implicit(part, alpha=alpha)


def _simulated(data: DataConfig) -> Interactions:
    if data.generator == "uniform":
        return simulate_uniform(
            num_users=data.num_users, num_items=data.num_items, sparsity=data.sparsity, seed=data.seed
        )
    return simulate_taste(
        num_users=data.num_users, num_items=data.num_items, mean_history=data.mean_history, seed=data.seed
    )


def _read(data: DataConfig) -> tuple[Interactions, dict[str, int]]:
    interactions, report = read_interactions(
        _path_of(data),
        layout=data.layout,
        columns=Columns(data.user_column, data.item_column, data.strength_column, data.timestamp_column),
        separator=data.separator,
        duplicates=data.duplicates,
        on_bad_line=data.on_bad_line,
        implicit=data.feedback == "implicit",
    )
    counts = {
        "duplicates_merged": report.duplicates_merged,
        "zeros_dropped": report.zeros_dropped,
        "bad_lines_skipped": report.bad_lines_skipped,
    }
    return interactions, counts


def _published(data: DataConfig) -> Split:
    train, test = read_published_split(
        _path_of(data),
        duplicates=data.duplicates,
        on_bad_line=data.on_bad_line,
        implicit=data.feedback == "implicit",
    )
    return Split(transform_strengths(train, data), None, transform_strengths(test, data))


def _path_of(data: DataConfig) -> str:
    if data.path is not None:
        return data.path
    if data.name is None:
        raise ConfigError(
            "data.path: expected a data file or its folder; pass --set data.path=..., or --set data.name=... "
            "for one of `fcf data list`"
        )
    known = known_set(data.name)
    folder = find_known(known)
    if folder is None:
        raise ConfigError(
            f"data.path: expected {known.title} ({' and '.join(known.files)}), got none in {cache_folder()}; "
            f"run `fcf data fetch {known.name}`, or get it from {known.homepage} and pass --set data.path=..."
        )
    return str(folder)


def _split(interactions: Interactions, data: DataConfig, *, seed: int) -> Split:
    if data.split == "leave_one_out":
        return split_leave_one_out(interactions, validation=data.validation_fraction > 0)
    if data.split == "temporal":
        return split_temporal(
            interactions,
            test_fraction=data.test_fraction,
            validation_fraction=data.validation_fraction,
        )
    return split_per_user(
        interactions,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        seed=seed,
    )
