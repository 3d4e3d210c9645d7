"""Exposure of target items: how many users would see them, for attacks that promote items."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.equations import owned_by
from fcf_jax.core.histories import Histories
from fcf_jax.core.objective import gram, observe
from fcf_jax.core.packing import choose_row_width, pack
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Model, PackedClients, as_pytree
from fcf_jax.core.solve import shared_part, solve_rows
from fcf_jax.evaluation.metrics import lengths_of
from fcf_jax.evaluation.packed import deal_users

_CHUNK_SCORES = 2**20  # scores in memory at a time


class Exposure(NamedTuple):
    """How many users have a target in their list, and how many could.

    Attributes:
        num_exposed: users with the target among their k best unseen items, by k.
        num_possible: users whose history does not have the target.
    """

    num_exposed: dict[int, Int[Array, "targets"]]
    num_possible: Int[Array, "targets"]


def exposure(
    model: Model,
    item_factors: Float[Array, "items factors"],
    histories: Histories,
    targets: Int[np.ndarray | Array, "targets"],
    *,
    users: Int[np.ndarray, "honest"] | Bool[np.ndarray, "all_users"] | None = None,
    k: int | Sequence[int] = (5, 10),
) -> dict[str, float]:
    """Compute the exposure ratio of target items, averaged over the targets.

        ER@k = users with the target among their k best unseen items / users who have not seen it

    Users are folded in from their histories, as in `evaluate`; a target that everybody has seen counts as 0.

    Args:
        model: model to fold users in with.
        item_factors: Y.
        histories: training histories of all users, whose items are never recommended.
        targets: target items.
        users: ids, or a mask, of the users that count, such as the honest ones; None: all.
        k: length of the list, at least 1, or several.

    Returns:
        `er_at_k` for each k.

    Raises:
        ValueError: for targets outside the catalogue, no targets, or no users.

    References:
        Zhang et al., WSDM 2022, section 5, and Rong et al., ICDE 2022, section V: ER@K.
    """
    targets = np.asarray(targets)
    if targets.size == 0 or targets.min() < 0 or targets.max() >= histories.num_items:
        raise ValueError(f"expected targets in [0, {histories.num_items}), got {targets.tolist()}")
    found = count_exposed(
        model, item_factors, exposure_data(histories, users), jnp.asarray(targets, jnp.int32), k=k
    )
    return exposure_ratios(found)


def exposure_ratios(found: Exposure) -> dict[str, float]:
    """Return `er_at_k` for each k, the mean over the targets."""
    possible = np.maximum(np.asarray(found.num_possible), 1)
    return {f"er_at_{k}": float(np.mean(np.asarray(num) / possible)) for k, num in found.num_exposed.items()}


def exposure_data(histories: Histories, users: Any = None) -> PackedClients:
    """Pack the users that count, in chunks for `count_exposed`; arguments as for `exposure`."""
    ids = np.arange(histories.num_users) if users is None else np.asarray(users)
    ids = np.flatnonzero(ids) if ids.dtype == bool else ids
    if ids.size == 0:
        raise ValueError("expected a user, got none; without users there is no exposure")
    chunks = deal_users(ids, _CHUNK_SCORES // max(histories.num_items, 1), padding=histories.num_users)
    return pack(histories, chunks, row_width=choose_row_width(histories))


@in_one_precision
def count_exposed(
    model: Model,
    item_factors: Float[Array, "items factors"],
    users: PackedClients,
    targets: Int[Array, "targets"],
    *,
    k: int | Sequence[int] = (5, 10),
) -> Exposure:
    """Count the users that would see each target; may be batched by `vmap`, over Y or targets.

    Args:
        model: model to fold users in with.
        item_factors: Y.
        users: result of `exposure_data`.
        targets: target items.
        k: length of the list, at least 1, or several.
    """
    return _count(as_pytree(model), item_factors, users, targets, lengths=lengths_of(k))


@functools.partial(jax.jit, static_argnames="lengths")
def _count(
    model: Model, item_factors: Array, users: PackedClients, targets: Array, *, lengths: tuple[int, ...]
) -> Exposure:
    shared = shared_part(model, item_factors, gram(item_factors))
    num_users, num_clients = users.row_counts.shape[0], users.client_ids.shape[1]

    def of_chunk(chunk: tuple) -> Exposure:
        rows, owners, client_ids = chunk
        solution = solve_rows(model, shared, observe(model, rows), owned_by(owners, num_clients=num_clients))
        scores = jnp.matmul(solution.user_factors, item_factors.T, precision="highest")
        is_seen = jnp.zeros(scores.shape, bool).at[owners[:, None], rows.item_ids].max(rows.mask, mode="drop")
        is_possible = ~is_seen[:, targets] & (client_ids < num_users)[:, None]
        ranks = jax.vmap(_rank, in_axes=(None, 0), out_axes=1)(jnp.where(is_seen, -jnp.inf, scores), targets)
        exposed = {k: jnp.sum(is_possible & (ranks < k), axis=0, dtype=jnp.int32) for k in lengths}
        return Exposure(exposed, jnp.sum(is_possible, axis=0, dtype=jnp.int32))

    by_chunk = jax.lax.map(of_chunk, (users.rows, users.owners, users.client_ids))
    return jax.tree.map(lambda counts: jnp.sum(counts, axis=0), by_chunk)


def _rank(candidates: Float[Array, "clients items"], item: Int[Array, ""]) -> Int[Array, "clients"]:
    """Count the candidates before an item; of equal scores, the lower id comes first."""
    own = candidates[:, item][:, None]
    is_before = (candidates > own) | ((candidates == own) & (jnp.arange(candidates.shape[1]) < item))
    return jnp.sum(is_before, axis=1, dtype=jnp.int32)
