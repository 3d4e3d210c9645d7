r"""A full round of all clients by kernels: whiten, solve, sum item by item, and take the whitening off once.

With M = w0 G + lambda I = L L^T and N = L^-1: Z = Y N^T, and from the whitened x' of all clients

    X = X' N,     \sum_u w_u x_u^T = (\sum_u w_u x'_u^T) N,     S = N^T X'^T X' N

A client's share of J is \sum c p^2 - x'.(b' + r'), where r' is what its solution leaves of b'.
"""

from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from fcf_jax.core.kernels.clients import Rows, Solved, solve
from fcf_jax.core.kernels.items import Pieces, sum_over_users
from fcf_jax.core.kernels.launch import Weighted
from fcf_jax.core.kernels.plans import Plan
from fcf_jax.core.kernels.root import inverse_root_of
from fcf_jax.core.linalg import add_ridge, matmul
from fcf_jax.core.objective import extra_confidence, gram, observe, sparse_residuals
from fcf_jax.core.records import ClientData, CohortSum, ItemMajor, Model, Observations, PackedClients

_TOLERANCE = 8 * float(jnp.finfo(jnp.float32).eps)  # of an exact solve


class Whitened(NamedTuple):
    """Item factors in which M is the identity.

    Attributes:
        table: Z, padded with factors of 0.
        inverse_root: N.
        is_definite: False if M is clearly not positive semidefinite.
    """

    table: Float[Array, "items padded_factors"]
    inverse_root: Float[Array, "factors factors"]
    is_definite: Bool[Array, ""]


def sum_clients(
    plan: Plan,
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
) -> tuple[CohortSum, Float[Array, ""]]:
    """Add up the uploads of all clients, as `cohort_sum.accumulate` does without a channel.

    Args:
        plan: sizes of the kernels.
        model: weighting, lambda and w0.
        item_factors: Y.
        clients: all clients, packed with their items.
    """
    whitened = whiten(model, item_factors, plan)
    solved, squares = _solve(model, whitened, clients, plan)
    items = _items_of(clients)
    upload, confidence = sum_over_users(
        solved.factors, whitened.table, _pieces(items), _weigh_by_item(model, items), plan.items
    )
    inverse_root, num_factors = whitened.inverse_root, item_factors.shape[1]
    user_gram = gram(solved.factors[:, :num_factors])
    none, num_users = jnp.zeros((), jnp.int32), clients.row_counts.shape[0]
    sums = CohortSum(
        upload=matmul(upload[:, :num_factors], inverse_root),
        user_gram=matmul(inverse_root.T, matmul(user_gram, inverse_root)),
        confidence_sum=confidence,
        loss=squares - jnp.sum(solved.gain),
        num_clients=jnp.sum(clients.client_ids < num_users, dtype=jnp.int32),
        num_clipped=none,
        num_clipped_entries=none,
    )
    return sums, _worst(solved, whitened)


def solve_clients(
    plan: Plan,
    model: Model,
    factors: Float[Array, "items factors"],
    clients: PackedClients,
) -> tuple[Float[Array, "users factors"], Float[Array, ""]]:
    """Solve all clients, as `cohort_sum.solve_clients` does: their factors and the sum of their losses."""
    whitened = whiten(model, factors, plan)
    solved, squares = _solve(model, whitened, clients, plan)
    solution = matmul(solved.factors[:, : factors.shape[1]], whitened.inverse_root)
    return solution, squares - jnp.sum(solved.gain)


def whiten(model: Model, item_factors: Float[Array, "items factors"], plan: Plan) -> Whitened:
    """Compute Z and N, once a round."""
    num_factors = item_factors.shape[1]
    missing = plan.num_factors - num_factors
    matrix = add_ridge(model.unobserved_weight * gram(item_factors), model.regularization)
    inverse_root, is_definite = inverse_root_of(matrix, size=plan.num_factors, launch=plan.clients)
    table = jnp.pad(matmul(item_factors, inverse_root.T), ((0, 0), (0, missing)))
    return Whitened(table, inverse_root, is_definite)


def _solve(
    model: Model, whitened: Whitened, clients: PackedClients, plan: Plan
) -> tuple[Solved, Float[Array, ""]]:
    """Solve all clients; return also the sum of c p^2 over all histories."""
    observed, items = observe(model, clients.rows), _items_of(clients)
    starts = clients.first_row * clients.rows.mask.shape[-1]
    rows = Rows(items.user_order, starts, items.history_lengths)
    inverse_weight = 1.0 / jnp.asarray(model.unobserved_weight, jnp.float32)
    solved = solve(
        whitened.table,
        rows,
        _weigh(model, observed),
        jnp.maximum(jnp.asarray(model.solve_tolerance, jnp.float32), _TOLERANCE),
        inverse_weight,
        plan.clients,
        is_chebyshev=plan.is_chebyshev,
    )
    squares = jnp.where(observed.mask, observed.confidence * observed.preference**2, 0.0)
    return solved, jnp.sum(squares)


def _weigh(model: Model, observed: Observations) -> Weighted:
    extra = extra_confidence(model, observed)
    target = sparse_residuals(model, jnp.zeros_like(extra), observed)
    return Weighted(observed.item_ids.ravel(), extra.ravel(), target.ravel())


def _weigh_by_item(model: Model, items: ItemMajor) -> Weighted:
    lengths, num_interactions = jnp.diff(items.piece_starts), items.user_ids.shape[0]
    item_ids = jnp.repeat(items.piece_items, lengths, total_repeat_length=num_interactions)
    data = ClientData(item_ids, items.strengths, jnp.ones(num_interactions, bool))
    return _weigh(model, observe(model, data))._replace(ids=items.user_ids)


def _pieces(items: ItemMajor) -> Pieces:
    return Pieces(items.piece_order, items.piece_starts, items.piece_items, items.first_piece)


def _worst(solved: Solved, whitened: Whitened) -> Float[Array, ""]:
    worst = jnp.max(solved.error)  # nan if any is
    return jnp.where(whitened.is_definite & jnp.isfinite(worst), worst, jnp.inf)


def _items_of(clients: PackedClients) -> ItemMajor:
    assert clients.items is not None
    return clients.items
