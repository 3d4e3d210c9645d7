"""What is measured of item factors, in the same way for the federation and for centralised ALS."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.records import CohortSum, PackedClients, Weighting
from fcf_jax.evaluation import evaluate_data, evaluation_data
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.devices import chunks_of_a_block
from fcf_jax.experiments.build.models import weights_of
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.parallel.mesh import replicate
from fcf_jax.parallel.stream import collect_streamed

ItemFactors = np.ndarray  # [items, factors], on the host


class Measures(NamedTuple):
    """Two views of item factors: how well they fit the training set, and what they find in the test set."""

    loss: Callable[[ItemFactors], float]  # min_X J(X, Y)
    metrics: Callable[[ItemFactors], dict[str, float]]


def measures_of(
    config: ExperimentConfig,
    dataset: Dataset,
    clients: PackedClients,
    weighting: Weighting,
    mesh: Mesh | None,
) -> Measures:
    """Prepare both; without any test item, every metric is nan."""
    weights = weights_of(config)
    block_chunks = chunks_of_a_block(clients, config.parallel.block_megabytes)

    @jax.jit
    def collect(item_factors: Array, clients: PackedClients) -> tuple[CohortSum, Array]:
        return cohort_sum(item_factors, clients, weighting, mesh=mesh, **weights)

    def profiled_loss(on_host: ItemFactors) -> float:
        item_factors = jnp.asarray(on_host) if mesh is None else replicate(jnp.asarray(on_host), mesh)
        if config.parallel.stream:
            sums, _ = collect_streamed(collect, item_factors, clients, block_chunks=block_chunks, mesh=mesh)
        else:
            sums, _ = collect(item_factors, clients)
        return float(sums.loss) + config.model.regularization * float(np.sum(on_host**2))

    return Measures(loss=profiled_loss, metrics=_metrics(config, dataset, weighting, weights))


def _metrics(
    config: ExperimentConfig, dataset: Dataset, weighting: Weighting, weights: dict[str, float]
) -> Callable[[ItemFactors], dict[str, float]]:
    train, test, k = dataset.split.train, dataset.split.test, config.evaluation.k
    if test.num_interactions == 0:
        return lambda item_factors: dict.fromkeys(metric_names(k), float("nan"))
    data = evaluation_data(train, test, max_users=config.evaluation.max_users, seed=config.data.seed)
    evaluated = partial(evaluate_data, data=data, weighting=weighting, k=k, **weights)
    return lambda item_factors: evaluated(jnp.asarray(item_factors))
