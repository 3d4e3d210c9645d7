r"""The two methods that solve the normal equations of a batch of rows, without LAPACK.

- `solve_by_gradients`: conjugate gradients in whitened terms (`core.equations`), in which M_u, what all items
  add to A_u, is diagonal, and the identity if all clients have the same lambda. The eigenvalues of A_u
  relative to M_u lie between 1 and 1 + max (c - w0) / w0, so about ten steps suffice for light confidence, no
  client's matrix is ever built, and nothing in a step is quadratic in K. A client that has reached the
  tolerance stands still.
- `solve_directly`: `inverse_cholesky` of A_u, and two descent steps with that inverse: the first is the
  solve, the second removes its rounding error. The residual is summed over the history item by item, so
  that heavy confidences cancel before they are added up. Exact line search keeps rounding from raising the
  objective.

Neither is differentiated; `core.solve` knows the derivatives of what they solve.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.equations import (
    Equations,
    RowSums,
    first_residual,
    normal_matrices,
    observed_scores,
    product,
    residual_at,
    times_common,
)
from fcf_jax.core.linalg import einsum, inverse_cholesky, matmul
from fcf_jax.core.objective import of_slots
from fcf_jax.core.records import Scalar
from fcf_jax.core.transformed import any_in_batch

_DIRECT_STEPS = 2  # the solve and one refinement
_MOST_GRADIENT_STEPS = 128
_ROUNDING_LEVEL = 16  # units of rounding that an exact solve is off at most


class Solution(NamedTuple):
    """User factors, with a bound on their error.

    Attributes:
        user_factors: x of each client.
        scores: s_i = x.y_i of the observed items.
        error: upper bound on the relative error of x in the energy norm; inf for nan, and for equations
            without a minimum, whose matrix is not positive semidefinite (in float32, a curvature above -1e-3
            of the diagonal may pass for rounding). Its derivative is 0.
    """

    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    error: Float[Array, "*clients"]


class Catalogue(NamedTuple):
    """What the equations of all clients take from the item factors.

    Attributes:
        item_factors: Y; with biases, without the column of what is constant for a client.
        offsets: o, what that column adds to the scores of each item; None without biases.
        matrix: w0 G of these item factors.
        right: -w0 Y^T o; None without biases.
        num_items: M, the size of the catalogue.
    """

    item_factors: Float[Array, "items factors"]
    offsets: Float[Array, "items"] | None
    matrix: Float[Array, "factors factors"]
    right: Float[Array, "factors"] | None
    num_items: Scalar


class Shared(NamedTuple):
    """What all clients of a round share: the catalogue, and the item factors in whitened terms.

    Attributes:
        catalogue: Y, w0 G and offsets.
        ridge: lambda of a client without a history.
        diagonal: eigenvalues of w0 G + lambda I, if clients have lambdas of their own; None: they have one.
        inverse_root: L^-1 with w0 G + lambda I = L L^T; not differentiated.
        whitened: z = L^-1 y of every item; not differentiated.
        is_definite: False if w0 G + lambda I is clearly not positive semidefinite.
    """

    catalogue: Catalogue
    ridge: Scalar
    diagonal: Float[Array, "factors"] | None
    inverse_root: Float[Array, "factors factors"]
    whitened: Float[Array, "items factors"]
    is_definite: Bool[Array, ""]


class Batch(NamedTuple):
    """The clients' equations before the item factors are gathered: A x = b + right.

    Attributes:
        item_factors: Y.
        item_ids: the observed items.
        negative_ids: of pairs; None without.
        targets: c p, 0 in empty slots.
        extra: c - w0, 0 in empty slots.
        shared: w0 G.
        ridge: lambda_u, one for all or one for each client.
        right: more of the right-hand side.
    """

    item_factors: Float[Array, "items factors"]
    item_ids: Int[Array, "rows slots"]
    negative_ids: Int[Array, "rows slots"] | None
    targets: Float[Array, "rows slots"]
    extra: Float[Array, "rows slots"]
    shared: Float[Array, "factors factors"]
    ridge: Scalar | Float[Array, "*clients 1"]
    right: Float[Array, "*clients factors"]


class _Gradients(NamedTuple):
    """State of the conjugate gradients of all clients.

    All but the scores in whitened terms.

    Attributes:
        step: number of steps taken.
        user_factors: x'.
        scores: x.y_i of the observed items.
        residual: b' - A' x'.
        direction: next search direction.
        size: residual^T D^-1 residual, at least the squared error of x in the energy norm.
        energy: x'^T A' x', the square of that norm of x.
        is_sound: False after a step along which the objective has no minimum.
    """

    step: Int[Array, ""]
    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    residual: Float[Array, "*clients factors"]
    direction: Float[Array, "*clients factors"]
    size: Float[Array, "*clients"]
    energy: Float[Array, "*clients"]
    is_sound: Bool[Array, "*clients"]


def rounding_level(dtype: Any) -> float:
    """Return the relative error at which an exact solve may end."""
    return _ROUNDING_LEVEL * float(jnp.finfo(dtype).eps)


def gathered(batch: Batch) -> Equations:
    """Gather the item factors of the histories."""
    observed_factors = of_slots(batch.item_factors, batch.item_ids, batch.negative_ids)
    return Equations(observed_factors, batch.targets, batch.extra, batch.shared, batch.ridge, batch.right)


def _gathered_whitened(batch: Batch, shared: Shared) -> Equations:
    right, ridge = _whitened_right(batch.right, shared.inverse_root), 1.0
    if shared.diagonal is not None:
        ridge = 1.0 + (batch.ridge - shared.ridge) / shared.diagonal
    whitened = of_slots(shared.whitened, batch.item_ids, batch.negative_ids)
    return Equations(whitened, batch.targets, batch.extra, None, ridge, right)


def _whitened_right(
    right: Float[Array, "*clients factors"], inverse_root: Float[Array, "factors factors"]
) -> Float[Array, "*clients factors"]:
    """Compute L^-1 right; a round without features has none, so that the product is worth a branch."""
    is_any = any_in_batch(jnp.any(right != 0))
    return jax.lax.cond(is_any, lambda right: matmul(right, inverse_root.T), lambda right: right, right)


def _in_units(
    equations: Equations, row_sums: RowSums, method: Callable[[Equations, Array], Solution]
) -> Solution:
    """Solve for right-hand sides near 1, so that no square of a residual underflows."""
    residual = first_residual(equations, row_sums)
    unit = _power_of_two(jnp.max(jnp.abs(residual), axis=-1))
    unit_of_rows, unit = row_sums.spread(unit)[:, None], unit[..., None]
    scaled = equations._replace(targets=equations.targets / unit_of_rows, right=equations.right / unit)
    found = method(scaled, residual / unit)
    return Solution(unit * found.user_factors, unit_of_rows * found.scores, found.error)


def solve_by_gradients(
    shared: Shared, batch: Batch, row_sums: RowSums, tolerance: Float[Array, ""]
) -> Solution:
    """Take conjugate gradient steps until each client's error is within the tolerance."""
    tolerance = jnp.maximum(tolerance, rounding_level(batch.extra.dtype))

    def solve(equations: Equations, residual: Float[Array, "*clients factors"]) -> Solution:
        def is_unfinished(at: _Gradients) -> Bool[Array, "*clients"]:
            return at.is_sound & (_relative_error(at.size, at.energy) > tolerance)

        def descend(at: _Gradients) -> _Gradients:
            direction_scores = observed_scores(equations, row_sums, at.direction)
            multiplied = product(equations, row_sums, at.direction, direction_scores)
            curvature = jnp.sum(at.direction * multiplied, axis=-1)
            is_moving = is_unfinished(at)
            step = jnp.where(is_moving, _divide(at.size, curvature), 0.0)
            residual = at.residual - step[..., None] * multiplied
            preconditioned = residual / equations.ridge
            size = jnp.sum(residual * preconditioned, axis=-1)
            turn = jnp.where(is_moving, _divide(size, at.size), 0.0)
            return _Gradients(
                step=at.step + 1,
                user_factors=at.user_factors + step[..., None] * at.direction,
                scores=at.scores + row_sums.spread(step)[:, None] * direction_scores,
                residual=residual,
                direction=preconditioned + turn[..., None] * at.direction,
                size=size,
                energy=at.energy + step * at.size,  # steps are orthogonal in this norm
                is_sound=at.is_sound & ((curvature > 0) | ~is_moving),
            )

        preconditioned = residual / equations.ridge
        size = jnp.sum(residual * preconditioned, axis=-1)
        start = _Gradients(
            step=jnp.zeros((), jnp.int32),
            user_factors=jnp.zeros_like(residual),
            scores=jnp.zeros_like(equations.extra),
            residual=residual,
            direction=preconditioned,
            size=size,
            energy=jnp.zeros_like(size),
            is_sound=shared.is_definite & (size >= 0),
        )
        end = jax.lax.while_loop(
            lambda at: (at.step < _MOST_GRADIENT_STEPS) & any_in_batch(jnp.any(is_unfinished(at))),
            descend,
            start,
        )
        error = jnp.where(end.is_sound, _relative_error(end.size, end.energy), jnp.inf)
        return Solution(matmul(end.user_factors, shared.inverse_root), end.scores, error)

    return _in_units(_gathered_whitened(batch, shared), row_sums, solve)


def solve_directly(batch: Batch, row_sums: RowSums) -> Solution:
    """Invert each client's matrix, solve, and refine once."""

    def solve(equations: Equations, residual: Float[Array, "*clients factors"]) -> Solution:
        matrices = normal_matrices(equations, row_sums)
        inverse, is_definite = jnp.vectorize(inverse_cholesky, signature="(n,n)->(n,n),()")(matrices)
        user_factors, scores = jnp.zeros_like(residual), jnp.zeros_like(equations.extra)
        decrements = []
        for _ in range(_DIRECT_STEPS):
            if decrements:
                residual = residual_at(equations, row_sums, user_factors, scores)
            direction = einsum("...ji,...jk,...k->...i", inverse, inverse, residual)
            direction_scores = observed_scores(equations, row_sums, direction)
            curvature = row_sums.total(jnp.sum(equations.extra * direction_scores**2, axis=-1))
            curvature = curvature + jnp.sum(direction * times_common(equations, direction), axis=-1)
            decrement = jnp.sum(residual * direction, axis=-1)
            step = _divide(decrement, curvature)
            user_factors = user_factors + step[..., None] * direction
            scores = scores + row_sums.spread(step)[:, None] * direction_scores
            decrements.append(decrement)
        error = _relative_error(decrements[-1], decrements[0])
        return Solution(user_factors, scores, jnp.where(is_definite, error, jnp.inf))

    return _in_units(gathered(batch), row_sums, solve)


def _divide(numerator: Array, denominator: Array) -> Array:
    """Divide, with result 0 where the denominator is not positive."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1.0), 0.0)


def _relative_error(decrement: Array, first_decrement: Array) -> Array:
    """Compute the square root of the ratio; inf for nan, and 0 if nothing was to be done."""
    error = jnp.sqrt(_divide(jnp.abs(decrement), first_decrement))
    is_error = (first_decrement > 0) & jnp.isfinite(first_decrement) & jnp.isfinite(decrement)
    return jnp.where(is_error | (jnp.abs(decrement) + jnp.abs(first_decrement) == 0), error, jnp.inf)


def _power_of_two(size: Array) -> Array:
    """Return the largest power of two up to `size`: division by it is exact. 1 for 0, inf and nan."""
    kind = jnp.finfo(size.dtype)
    size = jnp.where((size >= kind.tiny) & jnp.isfinite(size), size, 1.0)
    bits = jax.lax.bitcast_convert_type(size, f"int{kind.bits}")
    return jax.lax.bitcast_convert_type(bits & (-1 << kind.nmant), size.dtype)  # the exponent alone
