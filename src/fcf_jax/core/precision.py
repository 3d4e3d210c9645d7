"""The floating-point type of a computation: that of the item factors, but at least float32.

Histories, models and sums of other types are cast to it, so any mixture of types will do: float64 factors of
float32 strengths, float32 factors under `jax_enable_x64`, or factors that are stored in bfloat16. What a
round or a sweep returns in place of the item factors has their own type again.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Tree = TypeVar("Tree")


def precision_of(item_factors: ArrayLike) -> DTypeLike:
    """Return the type to compute in: that of Y, at least float32."""
    dtype = jnp.result_type(item_factors)
    is_wide = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize >= 4
    return dtype if is_wide else jnp.dtype(jnp.float32)


def cast(tree: Tree, dtype: DTypeLike) -> Tree:
    """Cast the floating-point arrays of a pytree; Python numbers adapt to any type by themselves."""

    def cast_leaf(leaf: Any) -> Any:
        is_floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if is_floating else leaf

    return jax.tree.map(cast_leaf, tree)


def cast_like(tree: Tree, example: Tree) -> Tree:
    """Cast each array of a pytree to the type of its counterpart, as `lax.scan` requires of a state."""

    def cast_leaf(leaf: Any, like: Any) -> Any:
        dtype = getattr(like, "dtype", None)
        return leaf if dtype is None or jnp.result_type(leaf) == dtype else jnp.asarray(leaf, dtype)

    return jax.tree.map(cast_leaf, tree, example)


def in_one_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Cast all arguments of `function(model, item_factors, ...)` to the precision of the item factors."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        item_factors = list(bound.arguments.values())[1]
        cast_args, cast_kwargs = cast((bound.args, bound.kwargs), precision_of(item_factors))
        return function(*cast_args, **cast_kwargs)

    return call
