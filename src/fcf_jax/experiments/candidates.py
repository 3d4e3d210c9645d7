"""Items that a finished run can recommend: the trained ones, and those known by their features alone."""

from typing import NamedTuple

import numpy as np

from fcf_jax.experiments.store.run_directory import TrainedModel


class Candidates(NamedTuple):
    """Items that can be recommended: those of the training set, then those known by their features alone.

    Attributes:
        item_ids: original ids.
        item_factors: [items, factors].
    """

    item_ids: np.ndarray
    item_factors: np.ndarray


def candidates_of(model: TrainedModel) -> Candidates:
    """Return the items that can be recommended."""
    features = model.features
    if features is None or not len(features.new_item_ids):
        return Candidates(model.item_ids, model.item_factors)
    ids = [model.item_ids, features.new_item_ids]
    if len({one.dtype.kind for one in ids}) > 1:  # 7 and "7" are one
        ids = [one.astype(str) for one in ids]
    return Candidates(np.concatenate(ids), np.concatenate([model.item_factors, features.new_item_factors]))


def without_new_items(model: TrainedModel) -> TrainedModel:
    """Return the model without the items that are known by their features alone."""
    features = model.features
    if features is None:
        return model
    none = features._replace(
        new_item_ids=features.new_item_ids[:0], new_item_factors=features.new_item_factors[:0]
    )
    return model._replace(features=none)
