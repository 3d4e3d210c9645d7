"""Loss and metrics of item factors, for the federation and for centralised ALS; and rating offsets."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.records import CohortSum, Model, PackedClients
from fcf_jax.data import Interactions
from fcf_jax.evaluation import evaluate_data, evaluation_data
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.parallel.mesh import replicate
from fcf_jax.parallel.stream import collect_streamed

_OFFSET_REGULARIZATION = 5.0  # added to the number of ratings behind an offset

ItemFactors = np.ndarray  # [items, factors], on the host


class Measures(NamedTuple):
    """Functions of item factors.

    Attributes:
        loss: item factors -> min_X J(X, Y) on the training set.
        metrics: item factors -> metrics on the test set, by name.
    """

    loss: Callable[[ItemFactors], float]
    metrics: Callable[[ItemFactors], dict[str, float]]


def measures_of(
    model: Model,
    dataset: Dataset,
    clients: PackedClients,
    mesh: Mesh | None,
    *,
    k: int,
    max_users: int | None,
    seed: int,
    block_chunks: int | None,
) -> Measures:
    """Prepare loss and metrics; all metrics are nan without any test item.

    Args:
        model: weighting, lambda and w0.
        dataset: training and test set.
        clients: training histories, packed.
        mesh: devices that share a round; None: one device.
        k: length of the recommendation lists.
        max_users: users to evaluate, at most; None: all.
        seed: of their sample.
        block_chunks: chunks on the devices at a time, if clients are in host memory; None: all chunks.
    """

    @jax.jit
    def collect(received: tuple[Model, Array], clients: PackedClients) -> tuple[CohortSum, Array]:
        return cohort_sum(*received, clients, mesh=mesh)

    def profiled_loss(on_host: ItemFactors) -> float:
        item_factors = jnp.asarray(on_host) if mesh is None else replicate(jnp.asarray(on_host), mesh)
        if block_chunks is None:
            sums, _ = collect((model, item_factors), clients)
        else:
            sums, _ = collect_streamed(
                collect, (model, item_factors), clients, block_chunks=block_chunks, mesh=mesh
            )
        return float(sums.loss) + float(model.regularization) * float(np.sum(on_host**2))

    train, test = dataset.split.train, dataset.split.test
    if test.num_interactions == 0:
        return Measures(profiled_loss, lambda item_factors: dict.fromkeys(metric_names(k), float("nan")))
    data = evaluation_data(train, test, max_users=max_users, seed=seed)
    return Measures(
        profiled_loss, lambda item_factors: evaluate_data(model, jnp.asarray(item_factors), data, k=k)
    )


def offsets_rmse(train: Interactions, test: Interactions, *, num_sweeps: int = 20) -> float:
    """Predict ratings by mean + user offset + item offset, and compute the RMSE over all test ratings.

    User and item offsets are regularised means of the residuals, computed alternately.

    References:
        Koren, Bell & Volinsky, Computer 2009, "Adding biases".
    """
    users, items = train.user_ids, train.item_ids
    mean = train.strengths.mean(dtype=np.float64)
    ratings = train.strengths - mean
    user_offsets, item_offsets = np.zeros(train.num_users), np.zeros(train.num_items)
    for _ in range(num_sweeps):
        residuals = np.bincount(items, ratings - user_offsets[users], train.num_items)
        item_offsets = residuals / (_OFFSET_REGULARIZATION + train.item_counts)
        residuals = np.bincount(users, ratings - item_offsets[items], train.num_users)
        user_offsets = residuals / (_OFFSET_REGULARIZATION + train.history_lengths)
    if test.num_interactions == 0:
        return float("nan")
    errors = test.strengths - mean - user_offsets[test.user_ids] - item_offsets[test.item_ids]
    return float(np.sqrt(np.mean(errors**2)))
