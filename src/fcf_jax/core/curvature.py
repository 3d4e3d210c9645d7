"""The items' Hessians, by which the server preconditions the gradient; differentiable to all orders."""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from fcf_jax.core.linalg import eigh, einsum, matmul
from fcf_jax.core.placement import Sharing
from fcf_jax.core.records import Model

# vectors of a block of items, in the eigenbasis (benchmarks/README.md)
_BLOCK_BYTES, _BLOCK_BYTES_OF_GPUS = 2**19, 2**28


class Curvature(NamedTuple):
    """The items' Hessians 2 (kappa_i S + lambda_i I), diagonal in the eigenbasis of S.

    Attributes:
        user_gram: S.
        kappa: kappa_i.
        regularization: lambda_i.
        basis: eigenvectors of S; not differentiated.
        eigenvalues: of S, at least 0; not differentiated.
    """

    user_gram: Float[Array, "factors factors"]
    kappa: Float[Array, "items"]
    regularization: Float[Array, "items"]
    basis: Float[Array, "factors factors"]
    eigenvalues: Float[Array, "factors"]

    def diagonal(self, eigenvalues: Float[Array, "some"]) -> Float[Array, "items some"]:
        """Compute the diagonals of the Hessians for some of the eigenvalues; not differentiated."""
        kappa, shrinkage = jax.lax.stop_gradient((self.kappa[:, None], self.regularization[:, None]))
        rounding = jnp.finfo(kappa.dtype)
        largest = 2.0 * (kappa * jnp.max(self.eigenvalues) + shrinkage)
        floor = rounding.eps * largest + rounding.tiny  # for lambda = 0
        return jnp.maximum(2.0 * (kappa * eigenvalues[None, :] + shrinkage), floor)


def curvature_of(
    model: Model, user_gram: Float[Array, "factors factors"], kappa: Float[Array, "items"]
) -> Curvature:
    """Compute the eigendecomposition of S, once for all items."""
    dtype = user_gram.dtype
    kappa = kappa.astype(dtype)
    regularization = jnp.broadcast_to(jnp.ravel(jnp.asarray(model.regularization, dtype)), kappa.shape)
    eigenvalues, basis = eigh(jax.lax.stop_gradient(user_gram))
    return Curvature(user_gram, kappa, regularization, basis, jnp.maximum(eigenvalues, 0.0))


def multiply(curvature: Curvature, step: Float[Array, "items factors"]) -> Float[Array, "items factors"]:
    """Compute 2 y_i (kappa_i S + lambda_i I) for every item."""
    shrinkage = curvature.regularization[:, None] * step
    return 2.0 * (curvature.kappa[:, None] * matmul(step, curvature.user_gram) + shrinkage)


def precondition(
    gradient: Float[Array, "items factors"], curvature: Curvature
) -> Float[Array, "items factors"]:
    """Compute g_i (2 (kappa_i S + lambda_i I))^-1 for every item.

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


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def inverse_products(
    changes: Float[Array, "n items factors"],
    gradient: Float[Array, "items factors"],
    curvature: Curvature,
    sharing: Sharing | None = None,
) -> InverseProducts:
    """Compute the inner products in the eigenbasis, where each vector takes half of `precondition`.

    Blocks of items that a core's cache holds, one at a time: the changes are a server's largest arrays.

    Args:
        changes: d.
        gradient: g.
        curvature: H.
        sharing: devices that each take the blocks of their items; None: one device.
    """
    axis = None if sharing is None else sharing.items_axis

    def share(*operands: Any) -> InverseProducts:
        products = jax.lax.platform_dependent(
            *operands,
            cuda=partial(_products_by_blocks, block_bytes=_BLOCK_BYTES_OF_GPUS),
            default=partial(_products_by_blocks, block_bytes=_BLOCK_BYTES),
        )
        return products if axis is None else jax.lax.psum(products, axis)

    if sharing is None or axis is None:
        return share(changes, gradient, curvature)
    whole, by_item = PartitionSpec(), PartitionSpec(axis)
    of_curvature = jax.tree.map(lambda _: whole, curvature)._replace(kappa=by_item, regularization=by_item)
    specs = PartitionSpec(None, axis), by_item, of_curvature
    by_device = jax.shard_map(
        share, mesh=sharing.mesh, in_specs=specs, out_specs=whole, axis_names={axis}, check_vma=False
    )
    return by_device(changes, gradient, curvature)


def _products_by_blocks(
    changes: Float[Array, "n items factors"],
    gradient: Float[Array, "items factors"],
    curvature: Curvature,
    *,
    block_bytes: int,
) -> InverseProducts:
    num_vectors, (num_items, num_factors) = changes.shape[0] + 1, gradient.shape
    block_items = max(block_bytes // (num_vectors * num_factors * gradient.dtype.itemsize), 1)
    num_blocks = -(-num_items // block_items)
    block_items = -(-num_items // num_blocks)

    def add(block: Int[Array, ""] | int, total: Float[Array, "vectors vectors"]) -> Array:
        begin = jnp.minimum(block * block_items, num_items - block_items)  # the last one overlaps
        is_new = begin + jnp.arange(block_items) >= block * block_items

        def of_block(leaf: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(leaf, begin, block_items, axis)

        vectors = jnp.concatenate([of_block(changes, 1), of_block(gradient, 0)[None]])
        kappa, regularization = (of_block(leaf, 0) for leaf in (curvature.kappa, curvature.regularization))
        of_items = curvature._replace(kappa=kappa, regularization=regularization)
        hessians = of_items.diagonal(curvature.eigenvalues)
        scale = jnp.where(is_new[:, None], jax.lax.rsqrt(hessians), 0.0)
        scaled = jnp.swapaxes(scale * einsum("aik,kl->ail", vectors, curvature.basis), 0, 1)
        return total + jnp.sum(einsum("iak,ibk->iab", scaled, scaled), axis=0)

    total = jnp.zeros((num_vectors, num_vectors), gradient.dtype)
    total = add(0, total) if num_blocks == 1 else jax.lax.fori_loop(0, num_blocks, add, total)
    return InverseProducts(total[:-1, :-1], total[:-1, -1], total[-1, -1])


@inverse_products.defjvp
def _inverse_products_jvp(
    sharing: Sharing | None, primals: tuple, tangents: tuple
) -> tuple[InverseProducts, InverseProducts]:
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
    return inverse_products(*primals, sharing), change


def _products(left: tuple[Array, Array], right: tuple[Array, Array]) -> InverseProducts:
    """Compute the inner products of (changes, gradient) with (changes, gradient)."""
    return InverseProducts(
        changes=einsum("aij,bij->ab", left[0], right[0]),
        mixed=einsum("aij,ij->a", left[0], right[1]),
        gradient=einsum("ij,ij->", left[1], right[1]),
    )
