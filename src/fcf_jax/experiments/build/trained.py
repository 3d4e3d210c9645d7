"""The model of a run, as it is written: item factors, and what features give users and items without any."""

from pathlib import Path

import numpy as np
from jax import numpy as jnp
from jaxtyping import Int

from fcf_jax.core.features import fit_map
from fcf_jax.core.objective import for_items
from fcf_jax.experiments.build.new_items import factors_of
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.build.side_features import item_labels_of
from fcf_jax.experiments.store.run_directory import write_item_factors
from fcf_jax.experiments.store.trained_features import TrainedFeatures, write_features


def write_model(
    problem: Problem,
    item_counts: Int[np.ndarray, "items"],
    item_factors: np.ndarray,
    user_map: np.ndarray | None,
    folder: Path,
) -> None:
    """Write the item factors of a run, and what it has learned from features, if it has any.

    Args:
        problem: of the run.
        item_counts: clients with each item of the training set.
        item_factors: Y.
        user_map: A; None: users have no features.
        folder: run directory.

    Raises:
        OSError: when it cannot be written.
    """
    labels = item_labels_of(problem.train)
    write_item_factors(folder, item_factors, labels, mean_rating=problem.dataset.mean_rating)
    users, items, _ = problem.dataset.features
    if users is None and items is None:
        return
    item_map, new_ids = None, labels[:0]
    new_factors = np.zeros((0, item_factors.shape[1]), np.float32)
    if items is not None:
        of_items = for_items(problem.model, jnp.asarray(item_counts), problem.train.num_users)
        item_map = np.asarray(fit_map(of_items, item_factors, items.of(labels)))
        new_ids = items.others(labels)
        new_factors = np.asarray(factors_of(of_items, items.of(new_ids), item_map))
    write_features(
        folder,
        TrainedFeatures(
            None if users is None else users.codes,
            None if items is None else items.codes,
            user_map,
            item_map,
            new_ids,
            new_factors,
        ),
    )
