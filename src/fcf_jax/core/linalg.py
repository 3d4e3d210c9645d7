"""Inverses of positive definite matrices in plain JAX, which batch, differentiate and export anywhere.

They avoid LAPACK, whose batched calls can block forever on CPUs with few cores.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

_BASE_SIZE = 8  # columns eliminated one by one; 4 and 16 were slower (benchmarks/README.md)


def inverse_matrix(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Invert a positive definite matrix; a ridge at rounding level keeps a singular one from failing.

    Blockwise Gauss-Jordan elimination in a loop: slower than `inverse_cholesky` but quicker to compile, for
    the single matrix that all clients share.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    num_missing = -size % _BASE_SIZE
    scale = _scale(matrix)
    scaled = matrix * scale[:, None] * scale[None, :] + 32 * jnp.finfo(dtype).eps * jnp.eye(size, dtype=dtype)
    filled = jnp.pad(scaled, (0, num_missing))
    filled = filled + jnp.diag((jnp.arange(size + num_missing) >= size).astype(dtype))

    def eliminate(block: Int[Array, ""], partial: Array) -> Array:
        start = block * _BASE_SIZE
        rows = jax.lax.dynamic_slice_in_dim(partial, start, _BASE_SIZE, axis=0)
        columns = jax.lax.dynamic_slice_in_dim(partial, start, _BASE_SIZE, axis=1)
        root = _eliminate(jax.lax.dynamic_slice_in_dim(rows, start, _BASE_SIZE, axis=1))
        pivot = einsum("ji,jk->ik", root, root)
        reduced = einsum("ij,jk->ik", pivot, rows)
        partial = partial - einsum("ij,jk->ik", columns, reduced)
        partial = jax.lax.dynamic_update_slice_in_dim(partial, reduced, start, axis=0)
        columns = -einsum("ij,jk->ik", columns, pivot)
        columns = jax.lax.dynamic_update_slice_in_dim(columns, pivot, start, axis=0)
        return jax.lax.dynamic_update_slice_in_dim(partial, columns, start, axis=1)

    inverse = jax.lax.fori_loop(0, filled.shape[0] // _BASE_SIZE, eliminate, filled)[:size, :size]
    inverse = inverse * scale[:, None] * scale[None, :]
    return 0.5 * (inverse + inverse.T)


def _scale(matrix: Float[Array, "n n"]) -> Float[Array, "n"]:
    """Return the scaling that makes the diagonal 1."""
    diagonal = jnp.diagonal(matrix)
    return jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0)), 0.0)


def inverse_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Compute N with N^T N = A^-1, the inverse of the Cholesky factor of a positive definite A.

    A is scaled to a unit diagonal first. Pivots at rounding level are skipped, so that the result is finite
    for a singular matrix too.
    """
    scale = _scale(matrix)
    return _inverse_cholesky(matrix * scale[:, None] * scale[None, :]) * scale[None, :]


def _inverse_cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Compute N recursively from blocks of half the size.

    With A = [[A11, .], [A21, A22]] and L21 = A21 N11^T: N22 is the N of A22 - L21 L21^T, and
    N21 = -N22 L21 N11.
    """
    size = matrix.shape[0]
    if size <= _BASE_SIZE:
        return _eliminate(matrix)
    half = -(-(size // 2) // _BASE_SIZE) * _BASE_SIZE
    upper_left = _inverse_cholesky(matrix[:half, :half])
    lower = einsum("ij,kj->ik", matrix[half:, :half], upper_left)
    lower_right = _inverse_cholesky(matrix[half:, half:] - einsum("ij,kj->ik", lower, lower))
    lower_left = -einsum("ij,jk->ik", lower_right, einsum("ij,jk->ik", lower, upper_left))
    upper_right = jnp.zeros((half, size - half), matrix.dtype)
    return jnp.block([[upper_left, upper_right], [lower_left, lower_right]])


def _eliminate(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Compute N by elimination, column by column: [A | I] becomes [L^T | N]."""
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


def einsum(subscripts: str, *operands: Array) -> Array:
    """Compute `jnp.einsum` at the highest precision."""
    return jnp.einsum(subscripts, *operands, precision="highest")
