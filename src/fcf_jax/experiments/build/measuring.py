"""Loss and metrics of the federation, of centralised ALS and of popularity; and rating offsets."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from fcf_jax.core.cohort_sum import cohort_sum
from fcf_jax.core.objective import for_items, total_loss
from fcf_jax.core.records import ClientData, CohortSum, Model, PackedClients
from fcf_jax.data import Interactions, Split
from fcf_jax.evaluation import (
    EvaluationData,
    evaluate_data,
    evaluation_data,
    popularity,
    summarize,
    user_metrics_of_scores,
)
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.config.schema import EvaluationConfig
from fcf_jax.parallel.mesh import replicate
from fcf_jax.parallel.stream import collect_streamed

_INTERACTIONS_AT_A_TIME = 2**22
_OFFSET_REGULARIZATION = 5.0  # added to the number of ratings behind an offset

ItemFactors = np.ndarray  # [items, factors], on the host


class Measures(NamedTuple):
    """Functions of item factors, and of popularity, which has none.

    Attributes:
        loss: item factors -> min_X J(X, Y) on the training set.
        metrics: item factors -> metrics on the test set, by name.
        popularity: () -> metrics on the test set and loss of the ranking by popularity.
    """

    loss: Callable[[ItemFactors], float]
    metrics: Callable[[ItemFactors], dict[str, float]]
    popularity: Callable[[], dict[str, float]]


def measures_of(
    model: Model,
    dataset: Dataset,
    clients: PackedClients,
    mesh: Mesh | None,
    *,
    evaluation: EvaluationConfig,
    seed: int,
    block_chunks: int | None,
) -> Measures:
    """Prepare loss and metrics; all metrics are nan without any test item.

    Args:
        model: weighting, lambda and w0.
        dataset: training and test set.
        clients: training histories, packed.
        mesh: devices that share a round; None: one device.
        evaluation: section of the configuration.
        seed: of the sample of users, if not all are evaluated.
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
        return float(total_loss(of_items, jnp.asarray(on_host), sums.loss))

    train, k = dataset.split.train, evaluation.lengths
    of_items = for_items(model, clients.item_counts, train.num_users)
    data = scored_data(dataset.split, evaluation, seed=seed)

    def metrics(on_host: ItemFactors) -> dict[str, float]:
        if data is None:
            return dict.fromkeys(metric_names(k), float("nan"))
        return evaluate_data(model, jnp.asarray(on_host), data, k=k)

    def measure_popularity() -> dict[str, float]:
        shares = popularity(train)
        found = dict.fromkeys(metric_names(k), float("nan"))
        if data is not None:
            found = summarize(user_metrics_of_scores(model, shares, data, k=k))
        return {**found, "loss": loss_of_scores(model, train, shares)}

    return Measures(profiled_loss, metrics, measure_popularity)


def scored_data(split: Split, evaluation: EvaluationConfig, *, seed: int) -> EvaluationData | None:
    """Pack the histories and test items of the users that are evaluated; None without any test item.

    Args:
        split: of the data.
        evaluation: section of the configuration.
        seed: of the sample of users, if not all are evaluated.
    """
    if split.test.num_interactions == 0:
        return None
    return evaluation_data(
        split.histories,
        split.test,
        masked=split.validation if evaluation.masked == "train_and_validation" else None,
        negatives=split.negatives,
        max_users=evaluation.max_users,
        seed=seed,
    )


def loss_of_scores(model: Model, train: Interactions, item_scores: npt.ArrayLike) -> float:
    r"""Compute \sum_u \sum_i c_ui (p_ui - s_i)^2 for scores s that are the same for every user.

    Scores have no factors, so that no lambda counts. With scores of 0 it is the loss of a model that has
    learned nothing.
    """
    scores = np.broadcast_to(np.asarray(item_scores, np.float64), train.num_items)
    loss = model.unobserved_weight * train.num_users * np.sum(scores**2)
    for start in range(0, train.num_interactions, _INTERACTIONS_AT_A_TIME):
        part = slice(start, start + _INTERACTIONS_AT_A_TIME)
        ids, strengths = train.item_ids[part], train.strengths[part]
        observed = model.weighting(ClientData(*map(jnp.asarray, (ids, strengths, np.ones(len(ids), bool)))))
        confidence, preference = (
            np.asarray(leaf, np.float64) for leaf in (observed.confidence, observed.preference)
        )
        errors = confidence * (preference - scores[ids]) ** 2
        loss += np.sum(errors - model.unobserved_weight * scores[ids] ** 2)
    return float(loss)


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
