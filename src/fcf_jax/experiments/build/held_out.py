"""Held-out data for tuning: a training and a validation set. The test set is dropped here."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from fcf_jax.data import Interactions, Split, split_per_user
from fcf_jax.experiments.build.dataset import Dataset, load_dataset
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.config.schema import DataConfig, ExperimentConfig
from fcf_jax.experiments.errors import ConfigError


class HeldOut(NamedTuple):
    """Training set, and interactions held out of it to choose hyperparameters.

    Attributes:
        train: training set.
        validation: interactions that were held out.
        mean_rating: subtracted from explicit ratings; 0 for implicit feedback.
        notes: what was taken for what and what was left out, a line each.
        fold_in: histories of the users of the validation set, if these were held out whole; None: those of
            the training set.
        negatives: sampled negatives of each user, as of `Split`: the held-out items are ranked among them, as
            the test items are; None: no negatives.
    """

    train: Interactions
    validation: Interactions
    mean_rating: float
    notes: tuple[str, ...] = ()
    fold_in: Interactions | None = None
    negatives: Int[np.ndarray, "users negatives"] | None = None

    @property
    def dataset(self) -> Dataset:
        """Both as a data set whose test set is the validation set."""
        split = Split(self.train, None, self.validation, fold_in=self.fold_in)
        return Dataset(split, self.mean_rating, {})


def load_held_out(config: ExperimentConfig) -> HeldOut:
    """Load the data, hold out a validation set and drop the test set.

    Raises:
        ValueError: in one line, for bad data or for strengths that are too large for the highest alpha.
        OSError: if the data cannot be read.
    """
    tuning, data = config.tuning, config.data
    fraction = data.validation_fraction or tuning.validation_fraction
    extremes = {
        "data.validation_fraction": fraction,
        "model.alpha": max(*tuning.alpha, config.model.alpha),
        "model.num_factors": max(*tuning.num_factors, config.model.num_factors),
    }
    return hold_out(load_dataset(with_values(config, extremes)), data, fraction=fraction)


def hold_out(dataset: Dataset, data: DataConfig, *, fraction: float) -> HeldOut:
    """Return training and validation set; a split without a validation set draws it from the training set.

    Args:
        dataset: of any split; its test set is not used.
        data: section of the configuration, for the seed and the kind of feedback.
        fraction: share of each history to hold out, in (0, 1).

    Raises:
        ConfigError: if nothing was held out.
    """
    train, validation, mean_rating = dataset.split.train, dataset.split.validation, dataset.mean_rating
    if validation is None:  # a published split
        again = split_per_user(train, test_fraction=fraction, seed=data.seed)
        train, validation = again.train, again.test
        if data.feedback == "explicit":
            mean_rating = float(train.strengths.mean(dtype=np.float64))
    if validation.num_interactions == 0:
        raise ConfigError(
            f"tuning.validation_fraction: {fraction} of the histories leaves nothing to validate on; raise it"
        )
    split = dataset.split
    return HeldOut(train, validation, mean_rating, dataset.notes, split.validation_fold_in, split.negatives)
