"""What is measured of item factors, in the same way for the federation and for centralised ALS."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.aggregate import solve_clients
from fcf_jax.core.types import PackedClients, Weighting
from fcf_jax.evaluation import RankingMetrics, evaluate_data, evaluation_data
from fcf_jax.experiments.config import ExperimentConfig
from fcf_jax.experiments.dataset import Dataset

ItemFactors = Float[Array, "items factors"]


class Measures(NamedTuple):
    """Two views of item factors: how well they fit the training set, and what they find in the test set."""

    loss: Callable[[ItemFactors], float]  # min_X J(X, Y)
    metrics: Callable[[ItemFactors], dict[str, float]]


def measures_of(
    config: ExperimentConfig, dataset: Dataset, clients: PackedClients, weighting: Weighting
) -> Measures:
    """Prepare both; without any test item, every metric is nan."""
    weights = {
        "regularization": config.model.regularization,
        "unobserved_weight": config.model.unobserved_weight,
    }

    @jax.jit
    def profiled_loss(item_factors: ItemFactors, clients: PackedClients) -> Float[Array, ""]:
        _, loss = solve_clients(item_factors, clients, weighting, **weights)
        return loss + config.model.regularization * jnp.sum(item_factors**2)

    return Measures(
        loss=lambda item_factors: float(profiled_loss(item_factors, clients)),
        metrics=_metrics(config, dataset, weighting, weights),
    )


def metric_names(k: int) -> list[str]:
    """Name what evaluation returns."""
    plain = [*(f"{name}_at_{k}" for name in RankingMetrics._fields), "rmse", "auc"]
    return plain + [f"normalized_{name}" for name in plain]


def _metrics(
    config: ExperimentConfig, dataset: Dataset, weighting: Weighting, weights: dict[str, float]
) -> Callable[[ItemFactors], dict[str, float]]:
    train, test, k = dataset.split.train, dataset.split.test, config.evaluation.k
    if test.num_interactions == 0:
        return lambda item_factors: dict.fromkeys(metric_names(k), float("nan"))
    data = evaluation_data(train, test, max_users=config.evaluation.max_users, seed=config.data.seed)
    return partial(evaluate_data, data=data, weighting=weighting, k=k, **weights)
