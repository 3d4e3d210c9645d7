"""Inverses of positive definite matrices in plain JAX, which batch, differentiate and export anywhere.

They avoid LAPACK, whose batched calls can block forever on CPUs with few cores.
"""

from functools import partial
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_BASE_SIZE = 8  # columns eliminated one by one; 4 and 16 were slower (benchmarks/README.md)
_LARGEST_BASE_SIZE = 32  # for large matrices, so that programs stay small


def unit_diagonal_scale(matrix: Float[Array, "n n"]) -> Float[Array, "n"]:
    """Return the scaling that makes the diagonal 1, or -1 where it is negative."""
    size = jnp.abs(jnp.diagonal(matrix))
    return jax.lax.rsqrt(jnp.where(size < jnp.finfo(size.dtype).tiny, 1.0, size))


def is_definite(smallest_pivot: Float[Array, ""]) -> Bool[Array, ""]:
    """Return False for a pivot below those that rounding makes of a singular matrix, and for nan."""
    return smallest_pivot >= -4 * jnp.finfo(smallest_pivot.dtype).eps ** 0.5


def inverse_cholesky(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """Compute N with N^T N = A^-1, the inverse of the Cholesky factor of a positive definite A.

    A is scaled to a unit diagonal first. Pivots at rounding level are skipped, which leaves zeros on the
    diagonal of N, so that the result is finite for a singular matrix too.

    Returns:
        N, and False for a matrix that is clearly not positive semidefinite.
    """
    scale = unit_diagonal_scale(matrix)
    base_size = _BASE_SIZE
    while base_size < _LARGEST_BASE_SIZE and 16 * base_size <= matrix.shape[0]:
        base_size *= 2
    inverse, smallest = _inverse_cholesky(matrix * scale[:, None] * scale[None, :], base_size)
    return inverse * scale[None, :], is_definite(smallest)


def add_ridge(matrix: Float[Array, "n n"], ridge: Any) -> Float[Array, "n n"]:
    """Compute A + ridge I."""
    return matrix + ridge * jnp.eye(matrix.shape[0], dtype=matrix.dtype)


def solve_definite(matrix: Float[Array, "n n"], right: Float[Array, "n"]) -> Float[Array, "n"]:
    """Solve A x = b for a positive definite A; the implicit derivatives exist to all orders."""
    inverse, _ = inverse_cholesky(jax.lax.stop_gradient(matrix))

    def solve(_: Any, right: Array) -> Array:
        return einsum("ji,jk,k->i", inverse, inverse, right)

    return jax.lax.custom_linear_solve(partial(einsum, "ij,j->i", matrix), right, solve, symmetric=True)


def _inverse_cholesky(
    matrix: Float[Array, "n n"], base_size: int
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """Compute N recursively from blocks of half the size, down to `base_size`.

    With A = [[A11, .], [A21, A22]] and L21 = A21 N11^T: N22 is the N of A22 - L21 L21^T, and
    N21 = -N22 L21 N11. The smallest pivot is returned too.
    """
    size = matrix.shape[0]
    if size <= base_size:
        return _eliminate(matrix)
    half = -(-(size // 2) // base_size) * base_size
    upper_left, smallest = _inverse_cholesky(matrix[:half, :half], base_size)
    lower = einsum("ij,kj->ik", matrix[half:, :half], upper_left)
    rest = matrix[half:, half:] - einsum("ij,kj->ik", lower, lower)
    lower_right, next_smallest = _inverse_cholesky(rest, base_size)
    lower_left = -einsum("ij,jk->ik", lower_right, einsum("ij,jk->ik", lower, upper_left))
    upper_right = jnp.zeros((half, size - half), matrix.dtype)
    inverse = jnp.block([[upper_left, upper_right], [lower_left, lower_right]])
    return inverse, jnp.minimum(smallest, next_smallest)


def _eliminate(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """Compute N and the smallest pivot by elimination, column by column: [A | I] becomes [L^T | N]."""
    size = matrix.shape[0]
    rounding = 32 * jnp.finfo(matrix.dtype).eps
    positions, at = jnp.arange(size), jax.lax.dynamic_index_in_dim

    def eliminate(column: Int[Array, ""], so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        tableau, smallest = so_far
        pivot_row = at(tableau, column, 0, keepdims=False)
        pivot = at(pivot_row, column, 0, keepdims=False)
        reciprocal = jnp.where(pivot > rounding, jax.lax.rsqrt(jnp.maximum(pivot, rounding)), 0.0)
        pivot_row = pivot_row * reciprocal
        below = at(tableau, column, 1, keepdims=False) * reciprocal
        multipliers = jnp.where(positions > column, below, 0.0)
        tableau = tableau - multipliers[:, None] * pivot_row[None, :]
        tableau = jnp.where((positions == column)[:, None], pivot_row, tableau)
        return tableau, jnp.minimum(smallest, pivot)

    tableau = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    smallest = jnp.where(False, matrix[0, 0], 1.0)  # differs by device wherever the matrix does
    tableau, smallest = jax.lax.fori_loop(0, size, eliminate, (tableau, smallest))
    return tableau[:, size:], smallest


def safe_sqrt(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Compute the square root, whose derivative at 0 is taken as 0 instead of inf."""
    is_positive = values > 0
    root = jnp.sqrt(jnp.where(is_positive, values, 1.0))
    return jnp.where(is_positive, root, 0.0 * values)  # nan remains nan


def matmul(left: Float[Array, "n k"], right: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """Compute `jnp.matmul` at the highest precision."""
    return jnp.matmul(left, right, precision="highest")


def einsum(subscripts: str, *operands: Array) -> Array:
    """Compute `jnp.einsum` at the highest precision."""
    return jnp.einsum(subscripts, *operands, precision="highest")


@jax.custom_batching.sequential_vmap  # not batched: batched LAPACK calls can block forever on a CPU
def eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """Compute eigenvalues, ascending, and eigenvectors; not differentiable where eigenvalues are equal."""
    return jnp.linalg.eigh(matrix)
