"""Full-catalogue ranking for every user with test items, in chunks of users on the device.

A user's factor is folded in from its training history, as a client does, so users that took no part in the
training are evaluated like all others. Training items are never recommended. Of items with equal scores, the
lower id comes first: that is the whole order for a user with an empty training history, whose x is 0.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.checks import require
from fcf_jax.core.equations import owned_by
from fcf_jax.core.objective import gram, observe
from fcf_jax.core.packing import choose_row_width, pack
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import ClientData, Model, PackedClients, as_pytree
from fcf_jax.core.solve import shared_part, solve_rows
from fcf_jax.data.interactions import Interactions
from fcf_jax.evaluation.metrics import RankingMetrics, UserMetrics, best_ranking_metrics, ranking_metrics
from fcf_jax.messages import count_of
from fcf_jax.parallel.mesh import fetch

_CHUNK_SCORES = 2**20  # scores in memory at a time: 4 MiB, and a few times that for masks
_CHUNK_CLIENTS = 256


class EvaluationData(NamedTuple):
    """Packed histories of the users with test items, for repeated evaluation.

    Attributes:
        train: the training histories.
        test: the test items, in the same chunks.
        user_ids: ids of the users, ascending, in the order of all results.
        num_items: M.
    """

    train: PackedClients
    test: PackedClients
    user_ids: Int[Array, "users"]
    num_items: int


class _Chunk(NamedTuple):
    """One chunk of `EvaluationData`: the rows of its users and their owners, as in `PackedClients`."""

    train: ClientData
    train_owners: Int[Array, "train_rows"]
    test: ClientData
    test_owners: Int[Array, "test_rows"]


def evaluation_data(
    train: Interactions,
    test: Interactions,
    *,
    max_users: int | None = None,
    seed: int = 0,
    chunk_scores: int = _CHUNK_SCORES,
) -> EvaluationData:
    """Pack the users with at least one test item.

    Args:
        train: training histories, from which users are folded in, and which are never recommended.
        test: items to find, disjoint from `train`: an item in both counts as not found.
        max_users: size of the random sample of users to evaluate if there are more, at least 1; None: all.
        seed: seed of the sample, at least 0.
        chunk_scores: approximate number of scores computed at a time; a GPU wants more.

    Raises:
        ValueError: if shapes differ, if no user has a test item, or for `max_users` below 1.
    """
    _check_pair(train, test)
    if max_users is not None and max_users < 1:
        raise ValueError(f"expected max_users >= 1, got {max_users}; None evaluates all users")
    user_ids = np.flatnonzero(test.history_lengths)
    if user_ids.size == 0:
        raise ValueError("expected a user with a test item, got none; raise the test fraction of the split")
    if max_users is not None and max_users < user_ids.size:
        user_ids = np.sort(np.random.default_rng(seed).choice(user_ids, max_users, replace=False))
    chunks = _deal(user_ids, chunk_scores // max(train.num_items, 1), padding=train.num_users)
    return EvaluationData(
        train=pack(train, chunks, row_width=choose_row_width(train)),
        test=pack(test, chunks, row_width=choose_row_width(test)),
        user_ids=jax.device_put(user_ids.astype(np.int32)),
        num_items=train.num_items,
    )


@in_one_precision
def user_metrics(
    model: Model, item_factors: Float[Array, "items factors"], data: EvaluationData, *, k: int = 10
) -> UserMetrics:
    """Evaluate every user of `data`, in the order of `data.user_ids`.

    Compiled once for each shape and `k`; another model does not recompile.

    Args:
        model: model to fold users in with. Its weighting also gives the preferences p of the test items, for
            the squared error: 1 for implicit feedback, r - mean for ratings.
        item_factors: Y, trained on any users.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1; may exceed the number of items.
    """
    return _user_metrics(as_pytree(model), item_factors, data, k=k)


@in_one_precision
def user_metrics_of_scores(
    model: Model, item_scores: Float[Array, "items"], data: EvaluationData, *, k: int = 10
) -> UserMetrics:
    """Evaluate the same scores of all items for every user, such as `popularity`.

    Args:
        model: its weighting gives the preferences p of the test items, for the squared error; users are not
            folded in.
        item_scores: score of each item, whoever the user is.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1.
    """
    return _metrics_of_scores(as_pytree(model), item_scores, data, k=k)


@functools.partial(jax.jit, static_argnames="k")
def _user_metrics(model: Model, item_factors: Array, data: EvaluationData, *, k: int) -> UserMetrics:
    shared = shared_part(model, item_factors, gram(item_factors))
    num_clients = data.train.client_ids.shape[1]

    def scores_of(chunk: _Chunk) -> Float[Array, "clients items"]:
        row_sums = owned_by(chunk.train_owners, num_clients=num_clients)
        solution = solve_rows(model, item_factors, shared, observe(model, chunk.train), row_sums)
        return jnp.matmul(solution.user_factors, item_factors.T, precision="highest")

    return _by_user(lambda chunk: _chunk_metrics(model, scores_of(chunk), chunk, k=k), data)


@functools.partial(jax.jit, static_argnames="k")
def _metrics_of_scores(model: Model, item_scores: Array, data: EvaluationData, *, k: int) -> UserMetrics:
    scores = jnp.broadcast_to(item_scores, (data.train.client_ids.shape[1], *item_scores.shape))
    return _by_user(lambda chunk: _chunk_metrics(model, scores, chunk, k=k), data)


def _by_user(of_chunk: Callable[[_Chunk], UserMetrics], data: EvaluationData) -> UserMetrics:
    chunks = _Chunk(data.train.rows, data.train.owners, data.test.rows, data.test.owners)
    by_chunk = jax.lax.map(of_chunk, chunks)  # [chunks, clients]
    num_users = data.user_ids.shape[0]
    return jax.tree.map(lambda leaf: leaf.T.reshape(-1)[:num_users], by_chunk)  # inverts _deal


def evaluate(
    model: Model,
    item_factors: Float[Array, "items factors"],
    train: Interactions,
    test: Interactions,
    k: int = 10,
) -> dict[str, float]:
    """Rank the catalogue for every user with test items, and average the metrics.

    Args:
        model: model to fold users in with, as for `user_metrics`.
        item_factors: Y, trained on any users.
        train: training histories, from which users are folded in, and which are never recommended.
        test: items to find, disjoint from `train`.
        k: length of the ranked list, at least 1.

    Returns:
        The means by name, as defined by `summarize`; nan if a score is nan or infinite.

    Raises:
        ValueError: as for `evaluation_data` and `evaluate_data`.
    """
    return evaluate_data(model, item_factors, evaluation_data(train, test), k=k)


def evaluate_data(
    model: Model, item_factors: Float[Array, "items factors"], data: EvaluationData, *, k: int = 10
) -> dict[str, float]:
    """Evaluate as `evaluate` does, on data that is packed already, such as repeatedly during training.

    Args:
        model: model to fold users in with, as for `user_metrics`.
        item_factors: Y, trained on any users. Rows of zeros at the end, by which a mesh pads them, are cut.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1.

    Raises:
        ValueError: for k below 1, or item factors of another number of items.
    """
    require(k=k)
    num_padded = item_factors.shape[0] - data.num_items
    if num_padded > 0 and not jnp.any(item_factors[data.num_items :]):
        item_factors = jnp.asarray(fetch(item_factors)[: data.num_items])
    elif num_padded:
        raise ValueError(
            f"expected item factors of {count_of(data.num_items, 'item')}, got {item_factors.shape[0]}; "
            "evaluate on the data set that they were trained on"
        )
    return summarize(user_metrics(model, item_factors, data, k=k), k=k)


def summarize(metrics: UserMetrics, *, k: int) -> dict[str, float]:
    """Average the metrics over users, in float64.

    Args:
        metrics: result of `user_metrics`.
        k: length of the ranked lists, which becomes part of the names.

    Returns:
        Means over the users of `precision_at_k`, `recall_at_k`, `f1_at_k`, `map_at_k`, `ndcg_at_k`,
        `hit_rate_at_k` and `auc`: the probability that a test item scores above an item of neither set, where
        ties count 1/2, and 1/2 for a user without such items. `rmse` is the root of the mean of (p - x.y)^2
        over all test interactions. With the prefix `normalized_`, each value is divided by the user's best
        possible value before averaging; `normalized_rmse` is divided by the root mean square of p, which is
        the error of predicting 0 (nan if every p is 0).

    References:
        arXiv:1901.09888, for the choice of metrics.
    """
    values = {name: float(np.mean(of_users)) for name, of_users in per_user(metrics, k=k).items()}
    error, preference, count = (
        float(np.sum(np.asarray(leaf, np.float64)))
        for leaf in (metrics.squared_error_sum, metrics.squared_preference_sum, metrics.num_relevant)
    )
    values["rmse"] = (error / count) ** 0.5
    values["normalized_rmse"] = (error / preference) ** 0.5 if preference > 0 else float("nan")
    return values


def per_user(metrics: UserMetrics, *, k: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the metrics of each user, arrays of [users], by the names of `summarize`.

    The `rmse` of a user is the root of the mean squared error of that user, and `normalized_rmse` is divided
    by the root mean square of that user's preferences, nan if they are all 0.
    """
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), metrics)
    values = {f"{name}_at_{k}": getattr(host.at_k, name) for name in RankingMetrics._fields}
    best = {f"{name}_at_{k}": getattr(host.best_at_k, name) for name in RankingMetrics._fields}
    values["rmse"] = np.sqrt(host.squared_error_sum / host.num_relevant)
    best["rmse"] = np.sqrt(host.squared_preference_sum / host.num_relevant)
    values["auc"], best["auc"] = host.auc, np.ones_like(host.auc)
    normalized = {f"normalized_{name}": _quotient(value, best[name]) for name, value in values.items()}
    return values | normalized


def _quotient(value: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(value, best, out=np.full_like(value, np.nan), where=best > 0)


def _check_pair(train: Interactions, test: Interactions) -> None:
    shapes = [(part.num_users, part.num_items) for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected train and test of the same (num_users, num_items), got {shapes[0]} and {shapes[1]}; "
            "build both with num_users=... and num_items=..., or split one data set"
        )


def _deal(user_ids: npt.NDArray[np.integer], max_clients: int, *, padding: int) -> npt.NDArray[np.integer]:
    """Deal users to chunks in turn, [chunks, clients], since neighboring users are often similarly active.

    Read column by column, the users are in their original order, followed by padding clients.
    """
    num_clients = min(max(max_clients, 1), _CHUNK_CLIENTS, user_ids.size)
    num_chunks = -(-user_ids.size // num_clients)
    num_clients = -(-user_ids.size // num_chunks)
    places = np.full(num_chunks * num_clients, padding)
    places[: user_ids.size] = user_ids
    return np.ascontiguousarray(places.reshape(num_clients, num_chunks).T)


def _chunk_metrics(
    model: Model, scores: Float[Array, "clients items"], chunk: _Chunk, *, k: int
) -> UserMetrics:
    num_clients, num_items = scores.shape
    is_train = _membership(chunk.train, chunk.train_owners, num_clients, num_items)
    is_test = _membership(chunk.test, chunk.test_owners, num_clients, num_items)
    total = owned_by(chunk.test_owners, num_clients=num_clients).total
    mask = chunk.test.mask
    num_relevant = total(jnp.sum(mask, axis=1))

    hits = _hits(scores, is_train, is_test, k=k)
    test_scores = scores.at[chunk.test_owners[:, None], chunk.test.item_ids].get(mode="clip")
    preference = observe(model, chunk.test).preference
    shares = _outranked_shares(scores, ~(is_train | is_test), test_scores, chunk)
    is_finite = jnp.all(jnp.isfinite(scores), axis=1)

    def of_finite(values: Float[Array, "clients"]) -> Float[Array, "clients"]:
        return jnp.where(is_finite, values, jnp.nan)

    auc = total(jnp.sum(shares, axis=1)) / jnp.maximum(num_relevant, 1).astype(shares.dtype)
    return UserMetrics(
        at_k=jax.tree.map(of_finite, jax.vmap(ranking_metrics)(hits, num_relevant)),
        best_at_k=jax.vmap(functools.partial(best_ranking_metrics, k=k))(num_relevant),
        auc=of_finite(auc),
        squared_error_sum=total(jnp.sum(jnp.where(mask, (preference - test_scores) ** 2, 0.0), axis=1)),
        squared_preference_sum=total(jnp.sum(jnp.where(mask, preference**2, 0.0), axis=1)),
        num_relevant=num_relevant,
    )


def _membership(
    rows: ClientData, owners: Int[Array, "rows"], num_clients: int, num_items: int
) -> Bool[Array, "clients items"]:
    """Return whether each item is in the history of each client."""
    empty = jnp.zeros((num_clients, num_items), bool)
    return empty.at[owners[:, None], rows.item_ids].max(rows.mask, mode="drop")  # padding rows have no client


def _hits(
    scores: Float[Array, "clients items"],
    is_train: Bool[Array, "clients items"],
    is_test: Bool[Array, "clients items"],
    *,
    k: int,
) -> Bool[Array, "clients k"]:
    """Return for each of the k best items outside the training history whether it is a test item."""
    num_items = scores.shape[1]
    candidates = jnp.where(is_train, -jnp.inf, scores)
    best_scores, best_items = jax.lax.top_k(candidates, min(k, num_items))  # equal scores: lower id first
    hits = jnp.take_along_axis(is_test, best_items, axis=1)
    hits = hits & (best_scores > -jnp.inf)  # with fewer than k candidates, training items fill the list
    return jnp.pad(hits, ((0, 0), (0, max(k - num_items, 0))))


def _outranked_shares(
    scores: Float[Array, "clients items"],
    is_candidate: Bool[Array, "clients items"],
    test_scores: Float[Array, "rows slots"],
    chunk: _Chunk,
) -> Float[Array, "rows slots"]:
    """Compute for each test item the share of the client's candidates that score lower; ties count 1/2.

    The share is 1/2, as by chance, for a client without candidates.
    """
    num_items = scores.shape[1]
    others = jnp.where(is_candidate, scores, jnp.inf)  # a test item never scores above infinity, or ties
    num_others = jnp.sum(is_candidate, axis=1)

    def shares_of_row(row: tuple[Array, Array]) -> Float[Array, "slots"]:
        row_scores, owner = row
        rivals = others.at[owner].get(mode="clip")[None, :]
        won = (row_scores[:, None] > rivals).astype(jnp.int32) + (row_scores[:, None] >= rivals).astype(
            jnp.int32
        )
        possible = 2 * num_others.at[owner].get(mode="clip")
        return jnp.where(possible > 0, jnp.sum(won, axis=1) / jnp.maximum(possible, 1), 0.5)

    rows_at_a_time = max(_CHUNK_SCORES // max(num_items, 1), 1)
    shares = jax.lax.map(shares_of_row, (test_scores, chunk.test_owners), batch_size=rows_at_a_time)
    return jnp.where(chunk.test.mask, shares, 0.0)
