"""The inverse Cholesky factor of one matrix as a kernel: one launch in place of a hundred."""

from functools import partial

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from fcf_jax.core.kernels import launch as launches
from fcf_jax.core.kernels.launch import Launch
from fcf_jax.core.linalg import is_definite, unit_diagonal_scale

_ROUNDING = 32 * float(jnp.finfo(jnp.float32).eps)


def inverse_root_of(
    matrix: Float[Array, "n n"], *, size: int, launch: Launch
) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """Compute N with N^T N = A^-1, as `linalg.inverse_cholesky` does.

    Args:
        matrix: A.
        size: rows with padding, a power of two.
        launch: how to compile.

    Returns:
        N, and False for a matrix that is clearly not positive semidefinite.
    """
    num_rows = matrix.shape[0]
    scale = unit_diagonal_scale(matrix)
    scaled = jnp.pad(matrix * scale[:, None] * scale[None, :], (0, size - num_rows))
    scaled = scaled + jnp.diag((jnp.arange(size) >= num_rows).astype(matrix.dtype))
    kernel = partial(_eliminate, size=size)
    inverse, smallest = launches.run(kernel, launch, 1, (scaled,), ((size, size), (1,)))
    return inverse[:num_rows, :num_rows] * scale[None, :], is_definite(smallest[0])


def _eliminate(matrix, inverse, smallest, *, size):
    """Eliminate column by column: [A | I] becomes [L^T | N]. Pivots at rounding level are skipped."""
    places = jnp.arange(size)
    rows, columns = places[:, None], places[None, :]

    def eliminate(column: Array, so_far: tuple) -> tuple:
        left, right, smallest = so_far
        is_row = rows == column
        left_row, right_row = (jnp.sum(jnp.where(is_row, side, 0.0), axis=0) for side in (left, right))
        below = jnp.sum(jnp.where(columns == column, left, 0.0), axis=1)
        pivot = jnp.sum(jnp.where(places == column, left_row, 0.0))
        reciprocal = jnp.where(pivot > _ROUNDING, 1.0 / jnp.sqrt(jnp.maximum(pivot, _ROUNDING)), 0.0)
        multipliers = jnp.where(places > column, below * reciprocal, 0.0)

        def next_of(side: Array, row: Array) -> Array:
            row = row * reciprocal
            return jnp.where(is_row, row[None, :], side - multipliers[:, None] * row[None, :])

        return next_of(left, left_row), next_of(right, right_row), jnp.minimum(smallest, pivot)

    identity = jnp.where(rows == columns, 1.0, 0.0)
    start = matrix[...], identity, jnp.float32(1.0)
    _, inverse[...], least = jax.lax.fori_loop(0, size, eliminate, start)
    smallest[0] = least
