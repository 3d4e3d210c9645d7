"""Inverses in plain JAX, against dense float64."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from references import relative_error

from fcf_jax.core.linalg import inverse_cholesky


@pytest.mark.parametrize(
    "size", [1, 7, 25, 33, 136]
)  # below, at and beyond the sizes at which the recursion splits, and of another base
def test_inverse_cholesky_matches_dense_reference(size):
    root = np.random.default_rng(size).normal(size=(size, size + 5))
    matrix = root @ root.T
    inverse = np.asarray(jax.jit(inverse_cholesky)(jnp.asarray(matrix, jnp.float32))[0], np.float64)
    condition = np.linalg.cond(matrix)
    assert (
        relative_error(inverse.T @ inverse, np.linalg.inv(matrix))
        <= 10 * condition * np.finfo(np.float32).eps
    )
    assert not np.triu(inverse, 1).any()


def test_inverse_cholesky_of_a_large_matrix_is_no_larger_a_program():
    def num_lines(size):
        return jax.jit(inverse_cholesky).lower(jnp.eye(size)).as_text().count("\n")

    assert num_lines(256) <= 1.1 * num_lines(64)
