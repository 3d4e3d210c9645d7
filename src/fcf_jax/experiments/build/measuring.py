"""What is measured of item factors, in the same way for the federation and for centralised ALS."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.records import CohortSum, Model, PackedClients
from fcf_jax.evaluation import evaluate_data, evaluation_data
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.devices import chunks_of_a_block
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
    model: Model,
    mesh: Mesh | None,
) -> Measures:
    """Prepare both; without any test item, every metric is nan."""
    block_chunks = chunks_of_a_block(clients, config.parallel.block_megabytes)

    @jax.jit
    def collect(received: tuple[Model, Array], clients: PackedClients) -> tuple[CohortSum, Array]:
        return cohort_sum(*received, clients, mesh=mesh)

    def profiled_loss(on_host: ItemFactors) -> float:
        item_factors = jnp.asarray(on_host) if mesh is None else replicate(jnp.asarray(on_host), mesh)
        if config.parallel.stream:
            sums, _ = collect_streamed(
                collect, (model, item_factors), clients, block_chunks=block_chunks, mesh=mesh
            )
        else:
            sums, _ = collect((model, item_factors), clients)
        return float(sums.loss) + config.model.regularization * float(np.sum(on_host**2))

    return Measures(loss=profiled_loss, metrics=_metrics(config, dataset, model))


def _metrics(
    config: ExperimentConfig, dataset: Dataset, model: Model
) -> Callable[[ItemFactors], dict[str, float]]:
    train, test, k = dataset.split.train, dataset.split.test, config.evaluation.k
    if test.num_interactions == 0:
        return lambda item_factors: dict.fromkeys(metric_names(k), float("nan"))
    data = evaluation_data(train, test, max_users=config.evaluation.max_users, seed=config.data.seed)
    return lambda item_factors: evaluate_data(model, jnp.asarray(item_factors), data, k=k)
