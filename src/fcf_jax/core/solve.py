r"""The exact user factor, solved from the normal equations without any LAPACK call.

    A_u x_u = b_u,   A_u = w0 G + lambda I + \sum_{i in I_u} (c_i - w0) y_i y_i^T
                     b_u = \sum_{i in I_u} c_i p_i y_i

A_u is inverted through its Cholesky factor, by a recursion of plain products that batches, runs
and exports wherever JAX does (batched LAPACK calls can block for ever on CPUs with few cores).
Then two descent steps are taken with that inverse as preconditioner. The first is the solve;
the second removes the rounding of the first: its residual is taken from the history, item by
item, so that heavy confidences cancel before they are summed. Each step is as long as the
objective wants it, so that no rounding can make it rise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.objective import sparse_residuals
from fcf_jax.core.types import Observations, Scalar

_BASE_SIZE = 8  # columns eliminated one by one; 4 and 16 were slower (benchmarks/README.md)
_NUM_STEPS = 2  # the solve and one refinement


class RowSums(NamedTuple):
    """How the rows of a batch belong to its clients."""

    total: Callable[[Array], Array]  # [rows, ...] -> [*clients, ...], summed over each client's rows
    spread: Callable[[Array], Array]  # [*clients, ...] -> [rows, ...], each client's value to its rows


def one_client() -> RowSums:
    """All rows are one client's history."""
    return RowSums(total=lambda values: jnp.sum(values, axis=0), spread=lambda value: value[None])


def owned_by(owners: Int[Array, "rows"], *, num_clients: int) -> RowSums:
    """Row r is part of the history of client `owners[r]`; owners ascend, `num_clients` means nobody."""

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, owners, num_clients, indices_are_sorted=True)

    return RowSums(total=total, spread=lambda values: values.at[owners].get(mode="clip"))


class Solution(NamedTuple):
    """User factors, what they predict for the clients' own items, and how exact they are."""

    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    error: Float[Array, "*clients"]  # relative, in the energy norm, before the last step


def normal_matrix(
    own_factors: Float[Array, "slots factors"], extra_confidence: Float[Array, "slots"]
) -> Float[Array, "factors factors"]:
    """Sum (c_i - w0) y_i y_i^T over a history, or over one row of it."""
    return jnp.matmul(own_factors.T * extra_confidence[None, :], own_factors, precision="highest")


def solve_user_factor(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, "factors"]:
    """Solve one user's factor in closed form: x = (Y^T C Y + lambda I)^-1 Y^T C p.

    Args:
        item_gram: Y^T Y, computed once for all users.
        regularization: lambda, at least 0; a singular matrix gives a finite answer.
        unobserved_weight: w0, the confidence of the items that are not in the history.

    Returns:
        The factor; in float32 within 1e-5 of float64 for alpha r up to 1e5 and 1e-2 up to 1e6
        (measured on trained factors); finite beyond.

    References:
        arXiv:1901.09888, the user-factor update; Hu et al. 2008, equation 4.
    """
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    return solve_rows(item_factors, item_gram, rows, one_client(), **weights).user_factors


def solve_rows(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    row_sums: RowSums,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Solution:
    """Solve the factors of all clients whose histories lie in these rows, [rows, slots] each."""
    own_factors = item_factors[observations.item_ids]  # [rows, slots, factors]
    extra = jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0)
    identity = jnp.eye(item_gram.shape[0], dtype=item_gram.dtype)
    unseen = unobserved_weight * item_gram + regularization * identity
    seen = row_sums.total(jax.vmap(normal_matrix)(own_factors, extra))
    matrices = jnp.broadcast_to(unseen, seen.shape) + seen
    inverse = jnp.vectorize(inverse_cholesky, signature="(n,n)->(n,n)")(matrices)

    user_factors = jnp.zeros_like(matrices[..., 0])
    scores = jnp.zeros_like(extra)
    decrements = []
    for _ in range(_NUM_STEPS):
        weights = sparse_residuals(scores, observations, unobserved_weight=unobserved_weight)
        residual = row_sums.total(_product("rsk,rs->rk", own_factors, weights))
        residual = residual - _product("...k,kl->...l", user_factors, unseen)
        direction = _product("...ji,...jk,...k->...i", inverse, inverse, residual)
        direction_scores = _product("rsk,rk->rs", own_factors, row_sums.spread(direction))
        curvature = row_sums.total(jnp.sum(extra * direction_scores**2, axis=-1))
        curvature = curvature + _product("...k,kl,...l->...", direction, unseen, direction)
        decrement = jnp.sum(residual * direction, axis=-1)
        step = jnp.where(curvature > 0, decrement / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        user_factors = user_factors + step[..., None] * direction
        scores = scores + row_sums.spread(step)[:, None] * direction_scores
        decrements.append(decrement)
    tiny = jnp.finfo(item_gram.dtype).tiny
    error = jnp.sqrt(jnp.maximum(decrements[-1], 0.0) / jnp.maximum(decrements[0], tiny))
    return Solution(user_factors, scores, error)


def _product(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, precision="highest")


def inverse_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Compute N with N^T N = A^-1 for a positive definite A: the inverse of its Cholesky factor.

    A is scaled to a unit diagonal first, so that rounding can be told from size. A pivot at
    rounding level, which a singular matrix has, is left out: the answer is finite.
    """
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)
    return _inverse_cholesky(matrix * scale[:, None] * scale[None, :]) * scale[None, :]


def _inverse_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Work by halves.

    With A = [[A11, .], [A21, A22]]: L21 = A21 N11^T, N22 belongs to A22 - L21 L21^T, and
    N21 = -N22 L21 N11.
    """
    size = matrix.shape[0]
    if size <= _BASE_SIZE:
        return _eliminate(matrix)
    half = -(-(size // 2) // _BASE_SIZE) * _BASE_SIZE
    upper_left = _inverse_cholesky(matrix[:half, :half])
    lower = _product("ij,kj->ik", matrix[half:, :half], upper_left)
    lower_right = _inverse_cholesky(matrix[half:, half:] - _product("ij,kj->ik", lower, lower))
    lower_left = -_product("ij,jk->ik", lower_right, _product("ij,jk->ik", lower, upper_left))
    upper_right = jnp.zeros((half, size - half), matrix.dtype)
    return jnp.block([[upper_left, upper_right], [lower_left, lower_right]])


def _eliminate(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Turn [A | I] into [L^T | N], column by column."""
    size = matrix.shape[0]
    rounding = 32 * jnp.finfo(matrix.dtype).eps
    tableau = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    positions = jnp.arange(size)
    for column in range(size):
        pivot = tableau[column, column]
        reciprocal = jnp.where(pivot > rounding, jax.lax.rsqrt(jnp.maximum(pivot, rounding)), 0.0)
        pivot_row = tableau[column] * reciprocal
        multipliers = jnp.where(positions > column, tableau[:, column] * reciprocal, 0.0)
        tableau = (tableau - multipliers[:, None] * pivot_row[None, :]).at[column].set(pivot_row)
    return tableau[:, size:]
