r"""The client solve as a kernel: one program a client, of any history length.

In whitened factors z = L^-1 y, with M = w0 G + lambda I = L L^T, the normal equations are

    (I + \sum_i e_i z_i z_i^T) x' = \sum_i t_i z_i,     x = L^-T x',   e = c - w0,   t = c p

The matrix is summed on the tensor cores, tile by tile, each factor gathered once. A row of it is split into
two bfloat16 numbers, \sqrt{|e|} z = h + l, whose products sum to the matrix up to 2^-17:

    \sum e z z^T = \sum h h^T + (\sum h l^T) + (\sum h l^T)^T,   up to the sign of e

The spectrum of the matrix lies in [1, 1 + max e / w0]. For light confidence Chebyshev's iteration, which
needs no inner products, brings the error down; conjugate gradients, which need no bound, do the rest. For
heavy confidence further solves correct the rounding of the matrix.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from fcf_jax.core.kernels import launch as launches
from fcf_jax.core.kernels.launch import Launch, Weighted

MOST_CHEBYSHEV_STEPS = 24  # beyond, conjugate gradients are as fast
MOST_GRADIENT_STEPS = 256
# (c - w0) / w0 up to which the rounding of the products is below 1e-5, and is below it after one correction
LIGHT, HEAVY = 16.0, 256.0
_ROUNDING = 2.0**-17  # of the matrix, relative to its part from the history
_CORRECTION_TILE = 16  # a wider one would take more registers than the rest of the kernel


class Rows(NamedTuple):
    """Histories as parts of a long array.

    Attributes:
        order: clients, the longest history first, so that none is left over at the end.
        starts: place of each client's first interaction.
        lengths: number of each client's interactions.
    """

    order: Int[Array, "clients"]
    starts: Int[Array, "clients"]
    lengths: Int[Array, "clients"]


class Solved(NamedTuple):
    r"""Solutions of all clients.

    Attributes:
        factors: x'.
        error: upper bound on the relative error in the energy norm.
        gain: \\sum c p^2 minus the client's share of J.
    """

    factors: Float[Array, "clients factors"]
    error: Float[Array, "clients"]
    gain: Float[Array, "clients"]


def solve(
    table: Float[Array, "items factors"],
    rows: Rows,
    interactions: Weighted,
    tolerance: Array,
    inverse_weight: Array,
    launch: Launch,
    *,
    is_chebyshev: bool = True,
) -> Solved:
    """Solve all clients.

    Args:
        table: whitened factors; their number is a power of two, at least 16.
        rows: where the histories are.
        interactions: the histories.
        tolerance: relative error at which a client stops.
        inverse_weight: 1 / w0; inf for w0 = 0.
        launch: how to compile.
        is_chebyshev: False takes conjugate gradients alone.
    """
    (num_clients,), num_factors = rows.order.shape, table.shape[1]
    numbers = jnp.stack([tolerance, inverse_weight]).astype(jnp.float32)
    kernel = partial(_kernel, launch=launch, is_chebyshev=is_chebyshev)
    shapes = (num_clients, num_factors), (num_clients,), (num_clients,)
    return Solved(*launches.run(kernel, launch, num_clients, (*rows, *interactions, table, numbers), shapes))


def _kernel(order, starts, lengths, ids, extra, target, table, numbers, *out, launch, is_chebyshev):
    client, columns = order[pl.program_id(0)], jnp.arange(table.shape[1])
    begin, end = starts[client], starts[client] + lengths[client]
    fold = partial(launches.fold_tiles, begin=begin, interactions=(ids, extra, target), factors=table)
    fold = partial(fold, tile=launch.tile)
    tolerance, inverse_weight = numbers[0], numbers[1]
    matrix, right, most, least = _sum_equations(fold, end, columns.size, launch)
    size = jnp.max(jnp.abs(right))
    unit = jnp.where(size > 0, size, 1.0)  # no square of a residual underflows
    right = right / unit
    weight = jnp.maximum(most * inverse_weight, 0.0)
    bound = 1.0 + jnp.minimum(weight, jnp.max(jnp.sum(jnp.abs(matrix), axis=0)))
    bound = jnp.where(least < 0, jnp.inf, bound)

    factor, residual = jnp.zeros_like(right), right
    if is_chebyshev:
        factor, residual = _chebyshev(matrix, (factor, residual), bound, tolerance)
    energy = jnp.sum(factor * (right - residual))  # x'^T A' x', the square of the energy norm
    factor, residual, energy = _conjugate_gradients(matrix, (factor, residual), energy, tolerance)

    def correct(_: Array, at: tuple) -> tuple:
        """Solve for the residual of the solution so far, summed item by item: large terms cancel first."""
        factor, energy = at[0], at[2]

        def add(left, own, extra, target):
            scores = jnp.sum(own * factor[None, :], axis=1)
            return left + own * (target / unit - extra * scores)[:, None]

        left = jnp.zeros((_CORRECTION_TILE, columns.size), jnp.float32)
        left = fold(add, left, end=end, tile=_CORRECTION_TILE)
        residual = _laid_out_like(matrix, jnp.sum(left, axis=0)) - factor
        before = jnp.sum(residual * residual)
        change = _conjugate_gradients(matrix, (jnp.zeros_like(right), residual), energy, tolerance)
        return factor + change[0], change[1], change[2], before

    num_corrections = (weight > LIGHT).astype(jnp.int32) + (weight > HEAVY).astype(jnp.int32)
    start = factor, residual, energy, 0.0
    factor, residual, energy, before = jax.lax.fori_loop(0, num_corrections, correct, start)
    energy = jnp.where(size > 0, energy, 1.0)
    factors, error, gain = out
    factors[client, :] = unit * factor
    # a correction leaves of the residual what the solve before left of the right-hand side
    rounding = jnp.where(num_corrections > 0, before / energy, _ROUNDING * weight / (1.0 + weight))
    error[client] = jnp.sqrt(jnp.sum(residual * residual) / energy) + rounding
    gain[client] = unit * unit * jnp.sum(factor * (right + residual))


def _sum_equations(fold: Any, end: Array, num_factors: int, launch: Launch) -> tuple:
    """Sum the matrix and the right-hand side; return also the largest and the least extra confidence."""
    exact = jnp.float32 if launch.is_interpreted else jnp.bfloat16  # CPUs may lack products of bfloat16

    def add(carry, own, extra, target):
        high_high, high_low, right, most, least = carry
        root = jnp.sqrt(jnp.abs(extra))
        left = (own * root[:, None]).astype(jnp.bfloat16).astype(exact).T
        signed = own * jnp.where(extra < 0, -root, root)[:, None]
        high = signed.astype(jnp.bfloat16)
        low = (signed - high.astype(jnp.float32)).astype(jnp.bfloat16)
        return (
            high_high + _dot(left, high.astype(exact)),
            high_low + _dot(left, low.astype(exact)),
            right + own * target[:, None],
            jnp.maximum(most, extra),
            jnp.minimum(least, extra),
        )

    zeros, none = jnp.zeros((num_factors, num_factors), jnp.float32), jnp.zeros((launch.tile,), jnp.float32)
    start = zeros, zeros, jnp.zeros((launch.tile, num_factors), jnp.float32), none, none
    high_high, high_low, right, most, least = fold(add, start, end=end)
    matrix = high_high + high_low + high_low.T
    return matrix, jnp.sum(right, axis=0), jnp.max(most), jnp.min(least)


def _dot(left: Array, right: Array) -> Array:
    return jax.lax.dot(left, right, preferred_element_type=jnp.float32)


def _times(matrix: Array, vector: Array) -> Array:
    """Multiply by I + matrix; a sum over columns stays within a warp."""
    return vector + jnp.sum(matrix * vector[:, None], axis=0)


def _laid_out_like(matrix: Array, vector: Array) -> Array:
    """Return the vector as a sum over the matrix gives it, or the matrix would be laid out anew instead."""
    places = jnp.arange(vector.size)
    is_diagonal = places[:, None] == places[None, :]
    return jnp.sum(jnp.where(is_diagonal, vector[:, None], matrix * (0.0 * vector)[:, None]), axis=0)


def _chebyshev(matrix: Array, state: tuple, bound: Array, tolerance: Array) -> tuple:
    """Take the steps that suffice for a spectrum in [1, bound]; none if they would be many."""
    center, radius = 0.5 * (bound + 1.0), jnp.maximum(0.5 * (bound - 1.0), 1e-3)
    ratio = center / radius
    arcosh = jnp.log(ratio + jnp.sqrt((ratio - 1.0) * (ratio + 1.0)))
    num_steps = jnp.log(2.0 / tolerance) / arcosh
    is_light = num_steps <= MOST_CHEBYSHEV_STEPS  # False for nan
    num_steps = jnp.where(is_light, jnp.ceil(num_steps), 0.0).astype(jnp.int32)

    def step(_, at):
        factor, residual, direction, rho = at
        factor = factor + direction
        residual = residual - _times(matrix, direction)
        next_rho = 1.0 / (2.0 * ratio - rho)
        return factor, residual, next_rho * (rho * direction + (2.0 / radius) * residual), next_rho

    factor, residual = state
    start = factor, residual, residual / center, 1.0 / ratio
    return jax.lax.fori_loop(0, num_steps, step, start)[:2]


def _conjugate_gradients(matrix: Array, state: tuple, energy: Array, tolerance: Array) -> tuple:
    """Step until the error is within the tolerance, with one round of inner products a step.

    The residual bounds the error in the energy norm, since no eigenvalue is below 1.

    References:
        Chronopoulos & Gear, J. Comput. Appl. Math. 25 (1989).
    """

    def is_unfinished(at):
        step, *_, size, _, energy = at
        return (step < MOST_GRADIENT_STEPS) & (size > tolerance * tolerance * energy)

    def descend(at):
        step, factor, residual, direction, along, size, length, energy = at
        energy = energy + length * size
        factor = factor + length * direction
        residual = residual - length * along
        product = _times(matrix, residual)
        new_size, curvature = jnp.sum(residual * residual), jnp.sum(residual * product)
        slope = new_size / size
        length = new_size / (curvature - slope * new_size / length)
        direction, along = residual + slope * direction, product + slope * along
        return step + 1, factor, residual, direction, along, new_size, length, energy

    factor, residual = state
    product = _times(matrix, residual)
    size = jnp.sum(residual * residual)
    length = size / jnp.sum(residual * product)
    start = jnp.int32(0), factor, residual, residual, product, size, length, energy
    end = jax.lax.while_loop(is_unfinished, descend, start)
    return end[1], end[2], end[7]
