"""Launches of kernels with one program per row of a ragged array, and loops over the tiles of a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int


class Launch(NamedTuple):
    """How a kernel is compiled.

    Attributes:
        tile: interactions that a program gathers at a time, a power of two.
        num_warps: warps that share a program.
        num_stages: loads in flight, where the compiler can overlap them.
        is_interpreted: whether the kernel runs in the interpreter, on any platform.
    """

    tile: int
    num_warps: int
    num_stages: int = 1
    is_interpreted: bool = False


class Weighted(NamedTuple):
    """Weighted interactions, row after row of a ragged array.

    Attributes:
        ids: row of the other side's factors of each interaction.
        extra: c - w0; 0 in empty places.
        target: c p; 0 in empty places.
    """

    ids: Int[Array, "interactions"]
    extra: Float[Array, "interactions"]
    target: Float[Array, "interactions"]


def run(kernel: Callable, launch: Launch, num_programs: int, inputs: tuple, shapes: tuple) -> Any:
    """Run `kernel(*input_refs, *output_refs)` once for each program; all arrays are whole in each."""
    return pl.pallas_call(
        kernel,
        grid=(num_programs,),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=triton.CompilerParams(num_warps=launch.num_warps, num_stages=launch.num_stages),
        interpret=launch.is_interpreted,
    )(*inputs)


def fold_tiles(
    add: Callable, carry: Any, *, begin: Array, end: Array, interactions: tuple, factors: Any, tile: int
) -> Any:
    """Fold `add(carry, gathered factors, extra, target)` over the interactions from `begin` to `end`.

    What an interaction is, is loaded one tile ahead of its factors: the two loads depend on each other.
    """

    def load(slots: Array) -> tuple:
        return tuple(triton.load(ref.at[slots], mask=slots < end, other=0) for ref in interactions)

    def step(index: Array, carry: Any) -> Any:
        carry, slots, (ids, extra, target) = carry
        upcoming = slots + tile
        gathered = gather(factors, ids, slots < end)
        return add(carry, gathered, extra, target), upcoming, load(upcoming)

    slots = begin + jnp.arange(tile)
    num_tiles = (end - begin + tile - 1) // tile
    return jax.lax.fori_loop(0, num_tiles, step, (carry, slots, load(slots)))[0]


def gather(factors: Any, ids: Array, mask: Array) -> Array:
    """Load rows of a table."""
    columns = jnp.arange(factors.shape[1])
    return triton.load(factors.at[ids[:, None], columns[None, :]], mask=mask[:, None], other=0.0)
