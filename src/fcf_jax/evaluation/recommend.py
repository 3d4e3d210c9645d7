"""Recommendations for one user or many: fold in, rank unseen items, explain a score."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.checks import require
from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.histories import Histories
from fcf_jax.core.objective import regularization_of
from fcf_jax.core.packing import fill_up, pack_clients
from fcf_jax.core.precision import cast, precision_of
from fcf_jax.core.records import Model, PackedClients, as_pytree
from fcf_jax.data.interactions import Interactions

_CHUNK_SCORES = 2**21  # scores in memory at a time: 8 MiB, and as much again for the masked scores
# sizes are rounded up to powers of two of at least these, so that few shapes are compiled
_FEWEST_PLACES = 256  # places for observed items
_FEWEST = 8  # users, and rows
_ROW_WIDTH = 32


class Recommendations(NamedTuple):
    """The best unseen items, best first, on the host.

    Attributes:
        item_ids: ids of the items.
        scores: x.y; under implicit feedback about 1 for a certain interaction.
    """

    item_ids: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating]


class Explanation(NamedTuple):
    """Contributions of the observed items to a score, which is their sum.

    Attributes:
        contributions: [slots], in the order of the history.
        factorization: Cholesky factorization of A_u, to explain other scores of the same user.
    """

    contributions: npt.NDArray[np.float64]
    factorization: Any


def solve_new_users(
    model: Model,
    item_factors: Float[Array, "items factors"],
    histories: Histories,
    *,
    features: Float[np.ndarray, "users features"] | None = None,
    user_map: Float[Array | np.ndarray, "features factors"] | None = None,
) -> npt.NDArray[np.floating]:
    """Solve the factor of each user from its history, [users, factors].

    With features, the factor of an empty history is A^T f, otherwise 0. Requests of similar size share a
    compiled program. `core.cohort_sum.solve_clients` does the same for packed clients.

    Args:
        model: model of the training.
        item_factors: Y.
        histories: one row for each user.
        features: f of each user; None: no features.
        user_map: A, where users have features.
    """
    num_missing = _power_of_two(histories.num_users, least=_FEWEST) - histories.num_users
    indptr = np.pad(histories.indptr, (0, num_missing), mode="edge")
    unlabeled = {"user_labels": None} if isinstance(histories, Interactions) else {}
    given: Any = histories
    filled = dataclasses.replace(given, indptr=indptr, **unlabeled)
    clients = pack_clients(filled, row_width=_ROW_WIDTH, by_item=False)  # else of many shapes
    clients = fill_up(clients, num_rows=_power_of_two(clients.owners.shape[1], least=_FEWEST))
    if features is not None and user_map is not None:
        padded = np.pad(np.asarray(features, np.float32), ((0, num_missing), (0, 0)))
        clients = clients._replace(features=jnp.asarray(padded))
    solved = _solve(as_pytree(model), item_factors, clients, user_map)
    return np.asarray(solved)[: histories.num_users]


@jax.jit
def _solve(model: Model, item_factors: Array, clients: PackedClients, user_map: Array | None) -> Array:
    solved, _ = solve_clients(model, item_factors, clients, user_map=user_map)
    return solved


def _power_of_two(number: int, *, least: int = 1) -> int:
    """Round up to a power of two, at least to `least`, which is a power of two."""
    return 1 << (max(number, least) - 1).bit_length()


def recommend(
    item_factors: Float[Array, "items factors"],
    user_factor: Float[Array, "factors"],
    observed_item_ids: npt.ArrayLike,
    *,
    k: int = 10,
) -> Recommendations:
    """Return the k unseen items with the highest scores x.y; of equal scores, the lower id comes first.

    Args:
        item_factors: Y.
        user_factor: x of the user.
        observed_item_ids: items to leave out, in [0, num_items), in any order; may be empty.
        k: number of items, at least 1; fewer are returned if fewer are unseen.

    Raises:
        ValueError: for k below 1, or an observed item that is out of range.
    """
    num_items = item_factors.shape[0]
    observed = np.asarray(observed_item_ids)
    require(k=k)
    if observed.size and (observed.min() < 0 or observed.max() >= num_items):
        wrong = observed.min() if observed.min() < 0 else observed.max()
        raise ValueError(
            f"expected observed_item_ids in [0, {num_items}), got {wrong}; translate labels to ids"
        )
    scores = np.array(_scores(item_factors, user_factor))
    scores[observed.astype(np.int64)] = -np.inf
    num_unseen = num_items - np.unique(observed).size
    best = np.argsort(-scores, kind="stable")[: min(k, num_unseen)]
    return Recommendations(best, scores[best])


def recommend_many(
    item_factors: Float[Array, "items factors"],
    user_factors: Float[Array | np.ndarray, "users factors"],
    observed: Interactions | None = None,
    *,
    is_candidate: Bool[np.ndarray, "items"] | None = None,
    k: int = 10,
) -> Recommendations:
    """Recommend as `recommend` does, for many users, in chunks on the device.

    Args:
        item_factors: Y.
        user_factors: X.
        observed: items to leave out, one row per user; None: no item.
        is_candidate: False for items to leave out for all users; None: True for all items.
        k: number of items, at least 1.

    Returns:
        Item ids and scores, [users, k] in int32 and float32, padded with -1 and -inf if a user has fewer than
        k candidates.

    Raises:
        ValueError: for k below 1.
    """
    num_users, num_items = user_factors.shape[0], item_factors.shape[0]
    require(k=k)
    candidates = jnp.asarray(np.ones(num_items, bool) if is_candidate is None else is_candidate)
    factors = np.asarray(user_factors)  # sliced on the host: on the device, each slice compiles a program
    chunk_users = min(_power_of_two(num_users), max(_CHUNK_SCORES // max(num_items, 1), 1))
    chunks = []
    for first in range(0, num_users, chunk_users):
        chunk = slice(first, min(first + chunk_users, num_users))
        padded = np.pad(factors[chunk], ((0, chunk_users - (chunk.stop - first)), (0, 0)))
        best = _best(item_factors, padded, *_observed_places(observed, chunk, chunk_users), candidates, k=k)
        chunks.append([np.asarray(part)[: chunk.stop - first] for part in best])
    empty = [np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)]
    item_ids, scores = (np.concatenate(parts) for parts in zip(empty, *chunks, strict=True))
    return Recommendations(item_ids, scores)


def _observed_places(
    observed: Interactions | None, chunk: slice, chunk_users: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """List the row and item of each interaction of a chunk, padded to one of few lengths."""
    if observed is None:
        return np.full(1, chunk_users, np.int32), np.zeros(1, np.int32)
    lengths = observed.history_lengths[chunk]
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    num_missing = _power_of_two(len(rows), least=_FEWEST_PLACES) - len(rows)
    items = observed.item_ids[observed.indptr[chunk.start] : observed.indptr[chunk.stop]]
    return np.pad(rows, (0, num_missing), constant_values=chunk_users), np.pad(items, (0, num_missing))


@functools.partial(jax.jit, static_argnames="k")
def _best(
    item_factors: Float[Array, "items factors"],
    user_factors: Float[Array, "users factors"],
    observed_rows: Int[Array, "places"],  # `users` for padding
    observed_items: Int[Array, "places"],
    is_candidate: Bool[Array, "items"],
    *,
    k: int,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    item_factors, user_factors = cast((item_factors, user_factors), precision_of(item_factors))
    scores = jnp.matmul(user_factors, item_factors.T, precision="highest")
    scores = jnp.where(is_candidate[None, :], scores, -jnp.inf)
    scores = scores.at[observed_rows, observed_items].set(-jnp.inf, mode="drop")
    best_scores, best_items = jax.lax.top_k(scores, min(k, scores.shape[1]))  # equal scores: lower id first
    missing = ((0, 0), (0, max(k - scores.shape[1], 0)))
    best_items = jnp.where(best_scores > -jnp.inf, best_items, -1)
    return (
        jnp.pad(best_items, missing, constant_values=-1),
        jnp.pad(best_scores, missing, constant_values=-jnp.inf),
    )


@jax.jit
def _scores(
    item_factors: Float[Array, "items factors"], user_factor: Float[Array, "factors"]
) -> Float[Array, "items"]:
    item_factors, user_factor = cast((item_factors, user_factor), precision_of(item_factors))
    return jnp.matmul(item_factors, user_factor, precision="highest")


def explain_score(
    item_factors: npt.NDArray[np.floating],
    item_id: int,
    observed_item_ids: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.floating],
    preference: npt.ArrayLike = 1.0,
    *,
    model: Model,
    factorization: Any = None,
) -> Explanation:
    r"""Compute the contribution of each observed item to the score of an item.

        x.y_i = \sum_{j in I_u} c_j p_j y_i^T A_u^-1 y_j

    with A_u the matrix of the user's normal equations. In float64 on the host, for one user.

    Args:
        item_factors: Y [items, factors].
        item_id: i, in [0, num_items).
        observed_item_ids: the user's history [slots].
        confidence: c [slots].
        preference: p [slots], or one number for all.
        model: gives lambda, above 0 if Y has dependent columns, and w0.
        factorization: `Explanation.factorization` for the same user, to save time; None: computed here.

    Raises:
        ValueError: if A_u is singular, or for a model with biases or another objective, whose scores are no
            such sum.

    References:
        Hu, Koren & Volinsky, ICDM 2008, section 5.
    """
    from scipy.linalg import cho_factor, cho_solve

    if model.objective is not None or model.biases is not None:
        raise ValueError(
            "expected a model of squared errors without biases, got another; its scores are no sum over the "
            "history, so leave them unexplained"
        )
    factors = item_factors.astype(np.float64)
    observed, w0 = factors[observed_item_ids], float(model.unobserved_weight)
    if factorization is None:
        extra = np.asarray(confidence, np.float64) - w0
        ridge = float(regularization_of(model, extra.size, factors.shape[0]))
        shared = w0 * factors.T @ factors + ridge * np.eye(factors.shape[1])
        try:
            factorization = cho_factor(shared + (observed.T * extra) @ observed)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"expected a definite matrix, got: {error}; raise regularization") from error
    similarities = observed @ cho_solve(factorization, factors[item_id])
    return Explanation(np.multiply(confidence, preference) * similarities, factorization)
