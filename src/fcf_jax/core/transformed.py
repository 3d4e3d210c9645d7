"""What `vmap` and `shard_map` ask of branches, loops and linear solves."""

from typing import Any, TypeVar

import jax
from jax import numpy as jnp
from jaxtyping import Array

T = TypeVar("T")


@jax.custom_batching.custom_vmap
def any_in_batch(flag: Array) -> Array:
    """Return the flag; under `vmap`, whether any flag is set, so that `cond` takes one branch for all."""
    return flag


@any_in_batch.def_vmap
def _any_in_batch_rule(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_in_batch(jnp.any(flag)), False


def beginning_like(tree: T, *others: Any) -> T:
    """Return the tree with 0 added to its arrays, a 0 that depends on other arrays.

    In somebody's `shard_map`, a loop over what differs by device must begin with what JAX takes to differ,
    and a linear solve must use nothing else.
    """
    zeros = [jnp.where(False, other.ravel()[0], 0).astype(jnp.int32) for other in others]
    zero = jnp.sum(jnp.stack(zeros))

    def with_zero(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        return leaf | (zero > 0) if leaf.dtype == bool else leaf + zero.astype(leaf.dtype)

    return jax.tree.map(with_zero, tree)
