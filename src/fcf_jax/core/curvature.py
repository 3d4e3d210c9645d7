"""The items' Hessians, by which the server preconditions the gradient; differentiable to all orders."""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.linalg import einsum, matmul
from fcf_jax.core.records import Model

_COLUMNS = 32  # eigenvectors at a time (benchmarks/README.md)


class Curvature(NamedTuple):
    """The items' Hessians 2 (kappa_i S + lambda I), diagonal in the eigenbasis of S.

    Attributes:
        user_gram: S.
        kappa: kappa_i.
        regularization: lambda.
        basis: eigenvectors of S; not differentiated.
        eigenvalues: of S, at least 0; not differentiated.
    """

    user_gram: Float[Array, "factors factors"]
    kappa: Float[Array, "items"]
    regularization: Float[Array, ""]
    basis: Float[Array, "factors factors"]
    eigenvalues: Float[Array, "factors"]

    def diagonal(self, eigenvalues: Float[Array, "some"]) -> Float[Array, "items some"]:
        """Compute the diagonals of the Hessians for some of the eigenvalues; not differentiated."""
        kappa, shrinkage = jax.lax.stop_gradient((self.kappa[:, None], self.regularization))
        rounding = jnp.finfo(kappa.dtype)
        largest = 2.0 * (kappa * jnp.max(self.eigenvalues) + shrinkage)
        floor = rounding.eps * largest + rounding.tiny  # for lambda = 0
        return jnp.maximum(2.0 * (kappa * eigenvalues[None, :] + shrinkage), floor)


def curvature_of(
    model: Model, user_gram: Float[Array, "factors factors"], kappa: Float[Array, "items"]
) -> Curvature:
    """Compute the eigendecomposition of S, once for all items."""
    dtype = user_gram.dtype
    kappa, regularization = kappa.astype(dtype), jnp.asarray(model.regularization, dtype)
    eigenvalues, basis = _eigh(jax.lax.stop_gradient(user_gram))
    return Curvature(user_gram, kappa, regularization, basis, jnp.maximum(eigenvalues, 0.0))


def multiply(curvature: Curvature, step: Float[Array, "items factors"]) -> Float[Array, "items factors"]:
    """Compute 2 y_i (kappa_i S + lambda I) for every item."""
    shrinkage = curvature.regularization * step
    return 2.0 * (curvature.kappa[:, None] * matmul(step, curvature.user_gram) + shrinkage)


def precondition(
    gradient: Float[Array, "items factors"], curvature: Curvature
) -> Float[Array, "items factors"]:
    """Compute g_i (2 (kappa_i S + lambda I))^-1 for every item.

    Differentiated implicitly, since eigenvectors of equal eigenvalues have no derivative.
    """

    def solve(_: Any, gradient: Array) -> Array:
        diagonal = curvature.diagonal(curvature.eigenvalues)
        return matmul(matmul(gradient, curvature.basis) / diagonal, curvature.basis.T)

    return jax.lax.custom_linear_solve(partial(multiply, curvature), gradient, solve, symmetric=True)


class InverseProducts(NamedTuple):
    """Inner products <a, H^-1 b>, with H the Hessians of all items, of past changes d and the gradient g.

    Attributes:
        changes: <d_a, H^-1 d_b>.
        mixed: <d_a, H^-1 g>.
        gradient: <g, H^-1 g>.
    """

    changes: Float[Array, "n n"]
    mixed: Float[Array, "n"]
    gradient: Float[Array, ""]


@jax.custom_jvp
def inverse_products(
    changes: Float[Array, "n items factors"], gradient: Float[Array, "items factors"], curvature: Curvature
) -> InverseProducts:
    """Compute the inner products in the eigenbasis, where each vector takes half of `precondition`.

    Some eigenvectors at a time: the changes are the largest arrays of a server.
    """

    def add(total: InverseProducts, columns: tuple[Array, Array]) -> tuple[InverseProducts, None]:
        eigenvalues, basis = columns
        scale = jax.lax.rsqrt(curvature.diagonal(eigenvalues))
        scaled, scaled_gradient = (
            scale * jnp.matmul(vectors, basis, precision="highest") for vectors in (changes, gradient)
        )
        return jax.tree.map(
            jnp.add, total, _products((scaled, scaled_gradient), (scaled, scaled_gradient))
        ), None

    num_factors = curvature.eigenvalues.shape[0]
    width = min(_COLUMNS, num_factors)
    missing = (0, -num_factors % width)  # eigenvectors of zeros, which add nothing
    eigenvalues = jnp.pad(curvature.eigenvalues, missing).reshape(-1, width)
    basis = jnp.pad(curvature.basis, ((0, 0), missing)).reshape(num_factors, -1, width)
    shapes = jax.eval_shape(lambda: _products((changes, gradient), (changes, gradient)))
    start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(add, start, (eigenvalues, jnp.swapaxes(basis, 0, 1)))[0]


@inverse_products.defjvp
def _inverse_products_jvp(primals: tuple, tangents: tuple) -> tuple[InverseProducts, InverseProducts]:
    """Differentiate <a, H^-1 b> into <a', H^-1 b> + <H^-1 a, b'> - <H^-1 a, H' H^-1 b>."""
    (changes, gradient, curvature), (changes_change, gradient_change, curvature_change) = primals, tangents

    def turn(step: Array) -> Array:
        _, change = jax.jvp(lambda curvature: multiply(curvature, step), (curvature,), (curvature_change,))
        return change

    solved = (
        jax.vmap(lambda change: precondition(change, curvature))(changes),
        precondition(gradient, curvature),
    )
    moved = changes_change, gradient_change
    turned = jax.vmap(turn)(solved[0]), turn(solved[1])
    outer, inner, middle = _products(moved, solved), _products(solved, moved), _products(solved, turned)
    change = jax.tree.map(lambda a, b, c: a + b - c, outer, inner, middle)
    return inverse_products(*primals), change


def _products(left: tuple[Array, Array], right: tuple[Array, Array]) -> InverseProducts:
    """Compute the inner products of (changes, gradient) with (changes, gradient)."""
    return InverseProducts(
        changes=einsum("aij,bij->ab", left[0], right[0]),
        mixed=einsum("aij,ij->a", left[0], right[1]),
        gradient=einsum("ij,ij->", left[1], right[1]),
    )


@jax.custom_batching.sequential_vmap  # not batched: batched LAPACK calls can block forever on a CPU
def _eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    return jnp.linalg.eigh(matrix)
