r"""The exact user factor, the solution of the normal equations, without LAPACK.

    A_u x_u = b_u,   A_u = w0 G + lambda I + \sum_{i in I_u} (c_i - w0) y_i y_i^T
                     b_u = \sum_{i in I_u} c_i p_i y_i

The largest confidence of a batch decides between two methods:

- Light confidence: conjugate gradients, preconditioned with M = w0 G + lambda I, which all clients share.
  The eigenvalues of M^-1 A_u lie between 1 and 1 + max (c - w0) / w0, so about ten steps suffice, and no
  client's matrix is ever built.
- Heavy confidence: `inverse_cholesky` of A_u, and two descent steps with that inverse: the first is the
  solve, the second removes its rounding error. The residual is summed over the history item by item, so
  that heavy confidences cancel before they are added up. Exact line search keeps rounding from raising the
  objective.

Neither method is differentiated. Differentiating A x = b gives A x' = b' - A' x, one more system with the
same matrix, so derivatives of all orders and modes are exact and cost one solve each.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.equations import (
    Equations,
    RowSums,
    first_residual,
    normal_equations,
    normal_matrices,
    observed_scores,
    product,
    residual_at,
    shared_matrix,
)
from fcf_jax.core.linalg import einsum, inverse_cholesky, inverse_matrix
from fcf_jax.core.objective import gram
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Model, Observations

_DIRECT_STEPS = 2  # the solve and one refinement
_MOST_GRADIENT_STEPS = 128
_LIGHT_PER_FACTOR = 0.5  # conjugate gradients are faster up to (c - w0) / w0 = K / 2 (benchmarks/README.md),
_MOST_LIGHT = 64.0  # but at most up to this, since they then take many steps


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


class Shared(NamedTuple):
    """The part of the normal equations that all clients share, M = w0 G + lambda I.

    Attributes:
        matrix: M.
        inverse: M^-1, for preconditioning; not differentiated.
        is_definite: False if M is clearly not positive semidefinite.
    """

    matrix: Float[Array, "factors factors"]
    inverse: Float[Array, "factors factors"]
    is_definite: Bool[Array, ""]


class _Gradients(NamedTuple):
    """State of the conjugate gradients of all clients.

    Attributes:
        step: number of steps taken.
        user_factors: x.
        scores: x.y_i of the observed items.
        residual: b - A x.
        direction: next search direction.
        decrement: residual . M^-1 residual, a squared energy norm.
        is_sound: False after a step along which the objective has no minimum.
    """

    step: Int[Array, ""]
    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    residual: Float[Array, "*clients factors"]
    direction: Float[Array, "*clients factors"]
    decrement: Float[Array, "*clients"]
    is_sound: Bool[Array, "*clients"]


@in_one_precision
def solve_user_factor(
    model: Model,
    item_factors: Float[Array, "items factors"],
    observations: Observations,
    item_gram: Float[Array, "factors factors"] | None = None,
) -> Float[Array, "factors"]:
    """Solve one user's factor in closed form: x = (Y^T C Y + lambda I)^-1 Y^T C p.

    Args:
        model: gives lambda and w0. With lambda = 0 and a singular matrix the result is still finite.
        item_factors: Y.
        observations: the user's weighted history.
        item_gram: Y^T Y, if computed already, such as once for many users; None: computed here.

    Returns:
        The factor. In float32 it is within 1e-5 of float64 for alpha r up to 1e5, and within 1e-2 up to 1e6
        (measured on trained factors); beyond, it is finite.

    References:
        arXiv:1901.09888, the user-factor update; Hu et al. 2008, equation 4.
    """
    item_gram = gram(item_factors) if item_gram is None else item_gram
    return solve_history(model, item_factors, item_gram, observations).user_factors


def solve_history(
    model: Model,
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
) -> Solution:
    """Solve one user's factor by the direct method, with scores [1, slots]; see `solve_user_factor`."""
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    equations = normal_equations(model, item_factors, shared_matrix(model, item_gram), rows)
    return _solution(_solve_directly, 1, equations, None, None)


def shared_part(model: Model, item_gram: Float[Array, "factors factors"]) -> Shared:
    """Compute M and its inverse, once for all calls of `solve_rows` in a round."""
    matrix = shared_matrix(model, item_gram)
    return Shared(matrix, *inverse_matrix(jax.lax.stop_gradient(matrix)))


def solve_rows(
    model: Model,
    item_factors: Float[Array, "items factors"],
    shared: Shared,
    observations: Observations,
    row_sums: RowSums,
) -> Solution:
    """Solve the factors of all clients in a batch of rows, by the method that is faster for them.

    Args:
        model: gives w0; lambda is in `shared`.
        item_factors: Y.
        shared: `shared_part` of the same model and Y.
        observations: the weighted histories, [rows, slots].
        row_sums: assigns rows to clients.
    """
    light = min(_LIGHT_PER_FACTOR * item_factors.shape[1], _MOST_LIGHT)
    equations = normal_equations(model, item_factors, shared.matrix, observations)
    is_heavy = any_in_batch(jnp.max(equations.extra) > light * model.unobserved_weight)
    helpers = jax.lax.stop_gradient((is_heavy, shared))
    return _solution(_solve_faster, row_sums.num_clients, equations, row_sums.owners, helpers)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solution(
    method: Callable[..., Solution], num_clients: int, equations: Equations, owners: Any, helpers: Any
) -> Solution:
    """Solve by `method`, which is not differentiated."""
    return method(equations, RowSums(owners, num_clients), helpers)


@_solution.defjvp
def _solution_jvp(
    method: Callable[..., Solution], num_clients: int, primals: tuple, tangents: tuple
) -> tuple[Solution, Solution]:
    equations, owners, helpers = primals
    row_sums, solution = RowSums(owners, num_clients), _solution(method, num_clients, *primals)

    def residual(equations: Equations) -> Array:
        scores = observed_scores(equations, row_sums, user_factors)
        return residual_at(equations, row_sums, user_factors, scores)

    def multiply(vector: Array) -> Array:
        return product(equations, row_sums, vector, observed_scores(equations, row_sums, vector))

    def solve(_: Any, right: Array) -> Array:
        no_targets = equations._replace(targets=jnp.zeros_like(equations.targets), right=right)
        return _solution(method, num_clients, no_targets, owners, helpers).user_factors

    user_factors = solution.user_factors
    _, right = jax.jvp(residual, (equations,), (tangents[0],))
    change = jax.lax.custom_linear_solve(multiply, right, solve, symmetric=True)
    _, score_change = jax.jvp(
        lambda equations, user_factors: observed_scores(equations, row_sums, user_factors),
        (equations, user_factors),
        (tangents[0], change),
    )
    return solution, Solution(change, score_change, jnp.zeros_like(solution.error))


def _solve_faster(equations: Equations, row_sums: RowSums, helpers: tuple[Array, Shared]) -> Solution:
    is_heavy, shared = helpers
    return jax.lax.cond(
        is_heavy,
        lambda: _solve_directly(equations, row_sums),
        lambda: _solve_by_gradients(equations, row_sums, shared),
    )


def _in_units(method: Callable[..., Solution]) -> Callable[..., Solution]:
    """Let `method` solve for right-hand sides near 1, so that no square of a residual underflows."""

    @wraps(method)
    def solve(equations: Equations, row_sums: RowSums, helpers: Any = None) -> Solution:
        residual = first_residual(equations, row_sums)
        unit = _power_of_two(jnp.max(jnp.abs(residual), axis=-1))
        unit_of_rows, unit = row_sums.spread(unit)[:, None], unit[..., None]
        right = None if equations.right is None else equations.right / unit
        scaled = equations._replace(targets=equations.targets / unit_of_rows, right=right)
        found = method(scaled, residual / unit, row_sums, helpers)
        return Solution(unit * found.user_factors, unit_of_rows * found.scores, found.error)

    return solve


@_in_units
def _solve_by_gradients(
    equations: Equations, residual: Float[Array, "*clients factors"], row_sums: RowSums, shared: Shared
) -> Solution:
    """Take conjugate gradient steps until all clients' errors are at rounding level."""
    tolerance = 8 * jnp.finfo(residual.dtype).eps
    steepest = einsum("...k,kl->...l", residual, shared.inverse)
    first_decrement = jnp.sum(residual * steepest, axis=-1)

    def is_unfinished(at: _Gradients) -> Bool[Array, "*clients"]:
        return at.is_sound & (_relative_error(at.decrement, first_decrement) > tolerance)

    def descend(at: _Gradients) -> _Gradients:
        direction_scores = observed_scores(equations, row_sums, at.direction)
        multiplied = product(equations, row_sums, at.direction, direction_scores)
        curvature = jnp.sum(at.direction * multiplied, axis=-1)
        step = _divide(at.decrement, curvature)
        residual = at.residual - step[..., None] * multiplied
        steepest = einsum("...k,kl->...l", residual, shared.inverse)
        decrement = jnp.sum(residual * steepest, axis=-1)
        return _Gradients(
            step=at.step + 1,
            user_factors=at.user_factors + step[..., None] * at.direction,
            scores=at.scores + row_sums.spread(step)[:, None] * direction_scores,
            residual=residual,
            direction=steepest + _divide(decrement, at.decrement)[..., None] * at.direction,
            decrement=decrement,
            is_sound=at.is_sound & ((curvature > 0) | ~is_unfinished(at)),
        )

    start = _Gradients(
        step=jnp.zeros((), jnp.int32),
        user_factors=jnp.zeros_like(residual),
        scores=jnp.zeros_like(equations.extra),
        residual=residual,
        direction=steepest,
        decrement=first_decrement,
        is_sound=shared.is_definite & (first_decrement >= 0),
    )
    end = jax.lax.while_loop(
        lambda at: (at.step < _MOST_GRADIENT_STEPS) & any_in_batch(jnp.any(is_unfinished(at))),
        descend,
        start,
    )
    error = _relative_error(end.decrement, first_decrement)
    return Solution(end.user_factors, end.scores, jnp.where(end.is_sound, error, jnp.inf))


@_in_units
def _solve_directly(
    equations: Equations, residual: Float[Array, "*clients factors"], row_sums: RowSums, helpers: Any
) -> Solution:
    """Invert each client's matrix, solve, and refine once."""
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
        curvature = curvature + einsum("...k,kl,...l->...", direction, equations.shared, direction)
        decrement = jnp.sum(residual * direction, axis=-1)
        step = _divide(decrement, curvature)
        user_factors = user_factors + step[..., None] * direction
        scores = scores + row_sums.spread(step)[:, None] * direction_scores
        decrements.append(decrement)
    error = _relative_error(decrements[-1], decrements[0])
    return Solution(user_factors, scores, jnp.where(is_definite, error, jnp.inf))


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
    is_size = (size > 0) & jnp.isfinite(size)
    _, exponent = jnp.frexp(jnp.where(is_size, size, 1.0))
    return jnp.ldexp(jnp.ones_like(size), exponent - 1)


@jax.custom_batching.custom_vmap
def any_in_batch(flag: Array) -> Array:
    """Return the flag; under `vmap`, whether any flag is set, so that `cond` takes one branch for all."""
    return flag


@any_in_batch.def_vmap
def _any_in_batch_rule(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_in_batch(jnp.any(flag)), False
