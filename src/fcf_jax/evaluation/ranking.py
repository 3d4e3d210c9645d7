"""Full-catalogue ranking for every user with test items, in chunks of users on the device.

A user's factor is folded in from its training history, as a client does, so users that took no part in the
training are evaluated like all others. Training items are never recommended. Of items with equal scores, the
lower id comes first: that is the whole order for a user with an empty training history, whose x is 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.equations import owned_by
from fcf_jax.core.features import prior_factors
from fcf_jax.core.histories import Histories
from fcf_jax.core.objective import gram, observe
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import ClientData, Model, as_pytree
from fcf_jax.core.solve import shared_part, solve_rows
from fcf_jax.data.interactions import Interactions
from fcf_jax.evaluation.metrics import (
    SampledMetrics,
    UserMetrics,
    best_ranking_metrics,
    lengths_of,
    ranking_metrics,
    sampled_metrics,
)
from fcf_jax.evaluation.packed import EvaluationData, evaluation_data
from fcf_jax.evaluation.summary import summarize
from fcf_jax.messages import count_of
from fcf_jax.parallel.mesh import fetch

_CHUNK_SCORES = 2**20  # comparisons in memory at a time
Lengths = int | Sequence[int]  # of the ranked lists


class _Chunk(NamedTuple):
    """One chunk of `EvaluationData`: the rows of its users and their owners, as in `PackedClients`."""

    client_ids: Int[Array, "clients"]
    train: ClientData
    train_owners: Int[Array, "train_rows"]
    test: ClientData
    test_owners: Int[Array, "test_rows"]
    masked: ClientData | None
    masked_owners: Int[Array, "masked_rows"] | None
    negatives: Int[Array, "clients negatives"] | None


@in_one_precision
def user_metrics(
    model: Model,
    item_factors: Float[Array, "items factors"],
    data: EvaluationData,
    *,
    k: Lengths = 10,
    user_map: Float[Array | np.ndarray, "features factors"] | None = None,
) -> UserMetrics:
    """Evaluate every user of `data`, in the order of `data.user_ids`.

    Compiled once for each shape and `k`; another model does not recompile.

    Args:
        model: model to fold users in with. Its weighting also gives the preferences p of the test items, for
            the squared error: 1 for implicit feedback, r - mean for ratings.
        item_factors: Y, trained on any users.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1, or several: one pass ranks for all of them; may exceed the
            number of items.
        user_map: A, for users with features; None: they have none.
    """
    return _user_metrics(as_pytree(model), item_factors, data, user_map, lengths=lengths_of(k))


@in_one_precision
def user_metrics_of_scores(
    model: Model, item_scores: Float[Array, "items"], data: EvaluationData, *, k: Lengths = 10
) -> UserMetrics:
    """Evaluate the same scores of all items for every user, such as `popularity`.

    Args:
        model: its weighting gives the preferences p of the test items, for the squared error; users are not
            folded in.
        item_scores: score of each item, whoever the user is.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1, or several.
    """
    return _metrics_of_scores(as_pytree(model), item_scores, data, lengths=lengths_of(k))


@in_one_precision
def user_metrics_of_factors(
    model: Model,
    user_factors: Float[Array, "all_users factors"],
    item_factors: Float[Array, "items factors"],
    data: EvaluationData,
    *,
    k: Lengths = 10,
) -> UserMetrics:
    """Evaluate given user factors, such as those folded in from a history with other items.

    Args:
        model: its weighting gives the preferences p of the test items, for the squared error; users are not
            folded in.
        user_factors: X of all users, by user id.
        item_factors: Y of the items of `data`.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1, or several.
    """
    return _metrics_of_factors(as_pytree(model), user_factors, item_factors, data, lengths=lengths_of(k))


@functools.partial(jax.jit, static_argnames="lengths")
def _user_metrics(
    model: Model,
    item_factors: Array,
    data: EvaluationData,
    user_map: Array | None,
    *,
    lengths: tuple[int, ...],
) -> UserMetrics:
    shared = shared_part(model, item_factors, gram(item_factors))
    num_clients = data.train.client_ids.shape[1]

    def scores_of(chunk: _Chunk) -> Float[Array, "clients items"]:
        row_sums = owned_by(chunk.train_owners, num_clients=num_clients)
        prior = None
        if user_map is not None and data.train.features is not None:
            prior = prior_factors(_of_clients(data.train.features, chunk), user_map)
        solution = solve_rows(model, shared, observe(model, chunk.train), row_sums, prior)
        return jnp.matmul(solution.user_factors, item_factors.T, precision="highest")

    return _by_user(lambda chunk: _chunk_metrics(model, scores_of(chunk), chunk, lengths=lengths), data)


@functools.partial(jax.jit, static_argnames="lengths")
def _metrics_of_scores(
    model: Model, item_scores: Array, data: EvaluationData, *, lengths: tuple[int, ...]
) -> UserMetrics:
    scores = jnp.broadcast_to(item_scores, (data.train.client_ids.shape[1], *item_scores.shape))
    return _by_user(lambda chunk: _chunk_metrics(model, scores, chunk, lengths=lengths), data)


@functools.partial(jax.jit, static_argnames="lengths")
def _metrics_of_factors(
    model: Model, user_factors: Array, item_factors: Array, data: EvaluationData, *, lengths: tuple[int, ...]
) -> UserMetrics:
    def scores_of(chunk: _Chunk) -> Float[Array, "clients items"]:
        return jnp.matmul(_of_clients(user_factors, chunk), item_factors.T, precision="highest")

    return _by_user(lambda chunk: _chunk_metrics(model, scores_of(chunk), chunk, lengths=lengths), data)


def _of_clients(of_users: Float[Array, "all_users _n"], chunk: _Chunk) -> Float[Array, "clients _n"]:
    """Return the rows of a chunk's clients, 0 for padding."""
    return jnp.asarray(of_users).at[chunk.client_ids].get(mode="fill", fill_value=0.0)


def _by_user(of_chunk: Callable[[_Chunk], UserMetrics], data: EvaluationData) -> UserMetrics:
    masked = (None, None) if data.masked is None else (data.masked.rows, data.masked.owners)
    chunks = _Chunk(
        data.train.client_ids,
        data.train.rows,
        data.train.owners,
        data.test.rows,
        data.test.owners,
        *masked,
        data.negatives,
    )
    by_chunk = jax.lax.map(of_chunk, chunks)  # [chunks, clients]
    num_users = data.user_ids.shape[0]
    return jax.tree.map(lambda leaf: leaf.T.reshape(-1)[:num_users], by_chunk)  # inverts _deal


def evaluate(
    model: Model,
    item_factors: Float[Array, "items factors"],
    train: Histories,
    test: Interactions,
    k: Lengths = 10,
) -> dict[str, float]:
    """Rank the catalogue for every user with test items, and average the metrics.

    Args:
        model: model to fold users in with, as for `user_metrics`.
        item_factors: Y, trained on any users.
        train: training histories, from which users are folded in, and which are never recommended.
        test: items to find, disjoint from `train`.
        k: length of the ranked list, at least 1, or several such as [20, 50, 100]: one pass ranks for all.

    Returns:
        The means by name, as defined by `summarize`; nan if a score is nan or infinite.

    Raises:
        ValueError: as for `evaluation_data` and `evaluate_data`.
    """
    return evaluate_data(model, item_factors, evaluation_data(train, test), k=k)


def evaluate_data(
    model: Model,
    item_factors: Float[Array, "items factors"],
    data: EvaluationData,
    *,
    k: Lengths = 10,
    user_map: Float[Array | np.ndarray, "features factors"] | None = None,
) -> dict[str, float]:
    """Evaluate as `evaluate` does, on data that is packed already, such as repeatedly during training.

    Args:
        model: model to fold users in with, as for `user_metrics`.
        item_factors: Y, trained on any users. Rows of zeros at the end, by which a mesh pads them, are cut.
        data: result of `evaluation_data`.
        k: length of the ranked list, at least 1, or several.
        user_map: A, for users with features; None: they have none.

    Raises:
        ValueError: for k below 1, or item factors of another number of items.
    """
    lengths = lengths_of(k)
    num_padded = item_factors.shape[0] - data.num_items
    if num_padded > 0 and not jnp.any(item_factors[data.num_items :]):
        item_factors = jnp.asarray(fetch(item_factors)[: data.num_items])
    elif num_padded:
        raise ValueError(
            f"expected item factors of {count_of(data.num_items, 'item')}, got {item_factors.shape[0]}; "
            "evaluate on the data set that they were trained on"
        )
    return summarize(user_metrics(model, item_factors, data, k=lengths, user_map=user_map))


def _chunk_metrics(
    model: Model, scores: Float[Array, "clients items"], chunk: _Chunk, *, lengths: tuple[int, ...]
) -> UserMetrics:
    num_clients, num_items = scores.shape
    seen = _without_negatives(model, chunk.train)
    is_train = _membership(seen, chunk.train_owners, num_clients, num_items)
    if chunk.masked is not None and chunk.masked_owners is not None:
        is_train |= _membership(chunk.masked, chunk.masked_owners, num_clients, num_items)
    is_test = _membership(chunk.test, chunk.test_owners, num_clients, num_items)
    total = owned_by(chunk.test_owners, num_clients=num_clients).total
    mask = chunk.test.mask
    num_relevant = total(jnp.sum(mask, axis=1))

    hits = _hits(scores, is_train, is_test, k=lengths[-1])
    test_scores = scores.at[chunk.test_owners[:, None], chunk.test.item_ids].get(mode="clip")
    preference = observe(model, chunk.test).preference
    errors = (preference - test_scores) ** 2
    if model.objective is not None:  # the score is no prediction of p
        errors = jnp.full_like(errors, jnp.nan)
    shares = _outranked_shares(scores, ~(is_train | is_test), test_scores, chunk)
    is_finite = jnp.all(jnp.isfinite(scores), axis=1)

    def of_finite(values: Float[Array, "clients"]) -> Float[Array, "clients"]:
        return jnp.where(is_finite, values, jnp.nan)

    auc = total(jnp.sum(shares, axis=1)) / jnp.maximum(num_relevant, 1).astype(shares.dtype)
    return UserMetrics(
        at_k={
            k: jax.tree.map(of_finite, jax.vmap(ranking_metrics)(hits[:, :k], num_relevant)) for k in lengths
        },
        best_at_k={k: jax.vmap(functools.partial(best_ranking_metrics, k=k))(num_relevant) for k in lengths},
        auc=of_finite(auc),
        squared_error_sum=total(jnp.sum(jnp.where(mask, errors, 0.0), axis=1)),
        squared_preference_sum=total(jnp.sum(jnp.where(mask, preference**2, 0.0), axis=1)),
        num_relevant=num_relevant,
        sampled=jax.tree.map(of_finite, _sampled(scores, test_scores, chunk, lengths=lengths)),
    )


def _sampled(
    scores: Float[Array, "clients items"],
    test_scores: Float[Array, "rows slots"],
    chunk: _Chunk,
    *,
    lengths: tuple[int, ...],
) -> dict[int, SampledMetrics] | None:
    """Rank each test item among its user's sampled negatives; average over the user's test items."""
    if chunk.negatives is None:
        return None
    num_clients = scores.shape[0]
    total = owned_by(chunk.test_owners, num_clients=num_clients).total
    mask = chunk.test.mask
    padded = jnp.pad(scores, ((0, 0), (0, 1)), constant_values=-jnp.inf)  # padding never scores above
    of_negatives = jnp.take_along_axis(padded, chunk.negatives, axis=1)
    rivals = of_negatives.at[chunk.test_owners].get(mode="clip")[:, None, :]  # [rows, 1, negatives]
    num_above = jnp.sum(rivals > test_scores[:, :, None], axis=2)
    num_tied = jnp.sum(rivals == test_scores[:, :, None], axis=2)
    num_tests = jnp.maximum(total(jnp.sum(mask, axis=1)), 1)

    def mean(values: Float[Array, "rows slots"]) -> Float[Array, "clients"]:
        return total(jnp.sum(jnp.where(mask, values, 0.0), axis=1)) / num_tests

    def of_length(k: int) -> SampledMetrics:
        by_slot = jax.vmap(jax.vmap(functools.partial(sampled_metrics, k=k)))
        return jax.tree.map(mean, by_slot(num_above, num_tied))

    return {k: of_length(k) for k in lengths}


def _without_negatives(model: Model, rows: ClientData) -> ClientData:
    """Clear the slots of sampled negatives, which have strength 0 and may be recommended."""
    if model.objective is None or model.objective.is_pairwise:
        return rows
    return rows._replace(mask=rows.mask & (rows.strengths > 0))


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
