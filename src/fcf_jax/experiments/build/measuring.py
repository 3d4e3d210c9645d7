"""Loss and metrics of the federation, of centralised ALS and of popularity; and rating offsets."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from fcf_jax.core.cohort_sum import cohort_sum, solve_clients
from fcf_jax.core.features import item_prior, map_penalty
from fcf_jax.core.histories import Histories
from fcf_jax.core.objective import for_items, total_loss
from fcf_jax.core.records import ClientData, CohortSum, Model, PackedClients
from fcf_jax.data import Interactions
from fcf_jax.data.selection import of_users
from fcf_jax.evaluation import (
    EvaluationData,
    UserMetrics,
    evaluate_data,
    evaluation_data,
    popularity,
    solve_new_users,
    summarize,
    user_metrics,
    user_metrics_of_scores,
)
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.new_items import NewItems
from fcf_jax.experiments.config.schema import EvaluationConfig
from fcf_jax.parallel.mesh import replicate
from fcf_jax.parallel.stream import collect_streamed

_INTERACTIONS_AT_A_TIME = 2**22
_OFFSET_REGULARIZATION = 5.0  # added to the number of ratings behind an offset

ItemFactors = np.ndarray  # [items, factors], on the host
UserMap = np.ndarray | None  # A [features, factors], on the host; None: users have no features


class Measures(NamedTuple):
    """Functions of item factors, and of popularity, which has none.

    Attributes:
        loss: (item factors, user map) -> min_X J(X, Y) on the training set.
        metrics: (item factors, user map) -> metrics on the test set, by name.
        popularity: () -> metrics on the test set and loss of the ranking by popularity.
        feature_popularity: () -> metrics of cold items by the popularity that their features predict.
    """

    loss: Callable[[ItemFactors, UserMap], float]
    metrics: Callable[[ItemFactors, UserMap], dict[str, float]]
    popularity: Callable[[], dict[str, float]]
    feature_popularity: Callable[[], dict[str, float]] = dict


def measures_of(
    model: Model,
    dataset: Dataset,
    clients: PackedClients,
    mesh: Mesh | None,
    *,
    evaluation: EvaluationConfig,
    compare: Callable[[Interactions], Histories],
    seed: int,
    block_chunks: int | None,
    new_items: NewItems | None = None,
) -> Measures:
    """Prepare loss and metrics; all metrics are nan without any test item.

    Args:
        model: weighting, lambda and w0.
        dataset: training and test set.
        clients: training histories, packed.
        mesh: devices that share a round; None: one device.
        evaluation: section of the configuration.
        compare: adds to histories what the objective compares with.
        seed: of the sample of users, if not all are evaluated.
        block_chunks: chunks on the devices at a time, if clients are in host memory; None: all chunks.
        new_items: items that are measured apart; None: none.
    """

    @jax.jit
    def collect(
        received: tuple[Model, Array, Array | None], clients: PackedClients
    ) -> tuple[CohortSum, Array]:
        model, item_factors, user_map = received
        return cohort_sum(model, item_factors, clients, mesh=mesh, user_map=user_map)

    def placed(on_host: np.ndarray | None) -> Array | None:
        if on_host is None or mesh is None:
            return None if on_host is None else jnp.asarray(on_host)
        return replicate(jnp.asarray(on_host), mesh)

    def profiled_loss(item_factors: ItemFactors, user_map: UserMap) -> float:
        received = model, placed(item_factors), placed(user_map)
        if block_chunks is None:
            sums, _ = collect(received, clients)
        else:
            sums, _ = collect_streamed(collect, received, clients, block_chunks=block_chunks, mesh=mesh)
        return float(whole_loss(of_items, jnp.asarray(item_factors), sums.loss, item_features, user_map))

    train, k = dataset.split.train, evaluation.lengths
    item_features = dataset.features.of_items(train)
    of_items = for_items(model, clients.item_counts, train.num_users)
    data = scored_data(dataset, evaluation, compare=compare, seed=seed)

    def metrics(item_factors: ItemFactors, user_map: UserMap) -> dict[str, float]:
        if data is None:
            return dict.fromkeys(metric_names(k), float("nan"))
        found = evaluate_data(model, jnp.asarray(item_factors), data, k=k, user_map=user_map)
        return found | (new_metrics(item_factors, user_map) if new_items is not None else {})

    def new_metrics(item_factors: ItemFactors, user_map: UserMap) -> dict[str, float]:
        assert new_items is not None
        histories = of_users(train, new_items.user_ids)
        features = dataset.features.of_users(histories)
        solved = solve_new_users(
            model, jnp.asarray(item_factors), compare(histories), features=features, user_map=user_map
        )
        return new_items.metrics(of_items, solved, item_factors)

    def measure_popularity() -> dict[str, float]:
        shares = popularity(train)
        found = dict.fromkeys(metric_names(k), float("nan"))
        if data is not None:
            found = summarize(user_metrics_of_scores(model, shares, data, k=k))
        of_new = {} if new_items is None else new_items.popularity(model)
        return {**found, **of_new, "loss": loss_of_scores(model, train, shares)}

    def measure_feature_popularity() -> dict[str, float]:
        return {} if new_items is None else new_items.feature_popularity(model)

    return Measures(profiled_loss, metrics, measure_popularity, measure_feature_popularity)


def assess(
    model: Model,
    item_factors: Array,
    user_map: Array | None,
    clients: PackedClients,
    data: EvaluationData | None,
    *,
    k: Sequence[int],
    item_features: npt.NDArray[np.float32] | Array | None,
) -> tuple[Array, Array, UserMetrics | None]:
    """Compute user factors, loss and metrics of a model; everything but `k` may be traced.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y.
        user_map: A; None: users have no features.
        clients: training histories.
        data: of the users that are evaluated; None: nobody is.
        k: lengths of the ranked lists.
        item_features: g of each item; None: no features.
    """
    user_factors, loss = solve_clients(model, item_factors, clients, user_map=user_map)
    of_items = for_items(model, clients.item_counts, clients.row_counts.shape[0])
    loss = whole_loss(of_items, item_factors, loss, item_features, user_map)
    metrics = None if data is None else user_metrics(model, item_factors, data, k=k, user_map=user_map)
    return user_factors, loss, metrics


def whole_loss(
    of_items: Model,
    item_factors: Array,
    sum_of_clients: Array,
    item_features: npt.NDArray[np.float32] | Array | None,
    user_map: Array | np.ndarray | None,
) -> Array:
    """Add what the server knows to the clients' sum of J: the item factors' share, and those of the maps.

    Args:
        of_items: the model as `core.objective.for_items` gives it.
        item_factors: Y.
        sum_of_clients: of their shares of J.
        item_features: g of each item; None: no features.
        user_map: A; None: users have no features.
    """
    penalty = 0.0 if user_map is None else map_penalty(of_items, jnp.asarray(user_map))
    if item_features is not None:
        prior = item_prior(of_items, item_factors, jnp.asarray(item_features))
        item_factors, penalty = item_factors - prior.means, penalty + map_penalty(of_items, prior.item_map)
    return total_loss(of_items, item_factors, sum_of_clients) + penalty


def scored_data(
    dataset: Dataset, evaluation: EvaluationConfig, *, compare: Callable[[Interactions], Histories], seed: int
) -> EvaluationData | None:
    """Pack the histories and test items of the users that are evaluated; None without any test item.

    Args:
        dataset: its split, and the features of its users.
        evaluation: section of the configuration.
        compare: adds to histories what the objective compares with.
        seed: of the sample of users, if not all are evaluated.
    """
    split = dataset.split
    if split.test.num_interactions == 0:
        return None
    return evaluation_data(
        compare(split.histories),
        split.test,
        masked=split.validation if evaluation.masked == "train_and_validation" else None,
        negatives=split.negatives,
        features=dataset.features.of_users(split.histories),
        max_users=evaluation.max_users,
        seed=seed,
    )


def loss_of_scores(model: Model, train: Interactions, item_scores: npt.ArrayLike) -> float:
    r"""Compute \sum_u \sum_i c_ui (p_ui - s_i)^2 for scores s that are the same for every user.

    Scores have no factors, so that no lambda counts. With scores of 0 it is the loss of a model that has
    learned nothing.
    Other objectives have other losses, and nan.
    """
    if model.objective is not None:
        return float("nan")
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
