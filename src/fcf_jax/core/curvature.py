"""The items' Hessians, by which the server preconditions the gradient; differentiable to all orders."""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.linalg import matmul
from fcf_jax.core.records import Model


class Curvature(NamedTuple):
    """The items' Hessians 2 (kappa_i S + lambda I), diagonal in the eigenbasis of S.

    Attributes:
        user_gram: S.
        kappa: kappa_i.
        regularization: lambda.
        basis: eigenvectors of S; not differentiated.
        diagonal: diagonal of each item's Hessian in that basis; not differentiated.
    """

    user_gram: Float[Array, "factors factors"]
    kappa: Float[Array, "items"]
    regularization: Float[Array, ""]
    basis: Float[Array, "factors factors"]
    diagonal: Float[Array, "items factors"]


def curvature_of(
    model: Model, user_gram: Float[Array, "factors factors"], kappa: Float[Array, "items"]
) -> Curvature:
    """Compute the eigendecomposition of S, once for all items."""
    dtype = user_gram.dtype
    kappa, regularization = kappa.astype(dtype), jnp.asarray(model.regularization, dtype)
    fixed_gram, fixed_kappa, fixed_regularization = jax.lax.stop_gradient((user_gram, kappa, regularization))
    eigenvalues, basis = _eigh(fixed_gram)
    diagonal = fixed_kappa[:, None] * jnp.maximum(eigenvalues, 0.0)[None, :]
    diagonal = 2.0 * (diagonal + fixed_regularization)
    rounding = jnp.finfo(dtype)
    floor = rounding.eps * jnp.max(diagonal, axis=1, keepdims=True) + rounding.tiny  # for lambda = 0
    diagonal = jnp.maximum(diagonal, jnp.broadcast_to(floor, diagonal.shape))
    return Curvature(user_gram, kappa, regularization, basis, diagonal)


def precondition(
    gradient: Float[Array, "items factors"], curvature: Curvature
) -> Float[Array, "items factors"]:
    """Compute g_i (2 (kappa_i S + lambda I))^-1 for every item.

    Differentiated implicitly, since eigenvectors of equal eigenvalues have no derivative.
    """

    def multiply(step: Array) -> Array:
        kappa, shrinkage = curvature.kappa[:, None], curvature.regularization * step
        return 2.0 * (kappa * matmul(step, curvature.user_gram) + shrinkage)

    def solve(_: Any, gradient: Array) -> Array:
        return matmul(matmul(gradient, curvature.basis) / curvature.diagonal, curvature.basis.T)

    return jax.lax.custom_linear_solve(multiply, gradient, solve, symmetric=True)


@jax.custom_batching.sequential_vmap  # not batched: batched LAPACK calls can block forever on a CPU
def _eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    return jnp.linalg.eigh(matrix)
