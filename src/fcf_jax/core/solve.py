r"""The exact user factor, the solution of the normal equations, without LAPACK.

    A_u x_u = b_u,   A_u = w0 G + lambda I + \sum_{i in I_u} (c_i - w0) y_i y_i^T
                     b_u = \sum_{i in I_u} c_i p_i y_i

Two methods are at hand. A client's largest confidence and the length of its history decide between them,
whoever it is computed with:

- Light confidence: conjugate gradients in whitened terms (`core.equations`), in which M = w0 G + lambda I,
  the part that all clients share, is the identity. The eigenvalues of the whitened A_u lie between 1 and
  1 + max (c - w0) / w0, so about ten steps suffice, no client's matrix is ever built, and nothing in a step
  is quadratic in K. A client that has reached the tolerance of the model stands still.
- Heavy confidence: `inverse_cholesky` of A_u, and two descent steps with that inverse: the first is the
  solve, the second removes its rounding error. The residual is summed over the history item by item, so
  that heavy confidences cancel before they are added up. Exact line search keeps rounding from raising the
  objective.

Neither method is differentiated. To JAX, the solve is one linear system in the factors and scores, whose
derivatives of all orders and modes are exact and cost one solve each (`_solution`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.equations import (
    Equations,
    RowSums,
    first_residual,
    normal_matrices,
    observed_scores,
    one_client,
    product,
    residual_at,
    shared_matrix,
)
from fcf_jax.core.linalg import einsum, inverse_cholesky, matmul
from fcf_jax.core.objective import extra_confidence, gram, sparse_residuals
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Model, Observations

_DIRECT_STEPS = 2  # the solve and one refinement
_MOST_GRADIENT_STEPS = 128
# Conjugate gradients are faster up to these (c - w0) / w0 (benchmarks/README.md), and further with short
# histories or a coarse tolerance; beyond the last they take many steps, and rounding shows.
_LIGHT_PER_FACTOR, _MOST_LIGHT = 0.5, 256.0
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


class Shared(NamedTuple):
    """What all clients of a round share: M = w0 G + lambda I, and the item factors in whitened terms.

    Attributes:
        matrix: M.
        inverse_root: L^-1 with M = L L^T; not differentiated.
        whitened: z = L^-1 y of every item; not differentiated.
        is_definite: False if M is clearly not positive semidefinite.
    """

    matrix: Float[Array, "factors factors"]
    inverse_root: Float[Array, "factors factors"]
    whitened: Float[Array, "items factors"]
    is_definite: Bool[Array, ""]


class _Batch(NamedTuple):
    """The clients' equations before the item factors are gathered: A x = b + right.

    Attributes:
        item_factors: Y.
        item_ids: the observed items.
        targets: c p, 0 in empty slots.
        extra: c - w0, 0 in empty slots.
        shared: M.
        right: more of the right-hand side.
    """

    item_factors: Float[Array, "items factors"]
    item_ids: Int[Array, "rows slots"]
    targets: Float[Array, "rows slots"]
    extra: Float[Array, "rows slots"]
    shared: Float[Array, "factors factors"]
    right: Float[Array, "*clients factors"]


class _Helpers(NamedTuple):
    """What a method may use beside the equations; no derivative depends on it.

    Attributes:
        shared: of the round.
        is_heavy: whether a client is solved by the direct method.
        is_any_heavy: whether any client of the batch is.
    """

    shared: Shared
    is_heavy: Bool[Array, "clients"]
    is_any_heavy: Bool[Array, ""]


class _Gradients(NamedTuple):
    """State of the conjugate gradients of all clients.

    All but the scores in whitened terms.

    Attributes:
        step: number of steps taken.
        user_factors: x'.
        scores: x.y_i of the observed items.
        residual: b' - A' x'.
        direction: next search direction.
        size: |residual|^2, at least the squared error of x in the energy norm.
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
    batch = _batch_of(model, item_factors, shared_matrix(model, item_gram), rows, one_client())
    exactly = jnp.zeros((), item_factors.dtype)
    return _solution(
        lambda batch, row_sums, _: _solve_directly(batch, row_sums), batch, one_client(), exactly
    )


def shared_part(
    model: Model, item_factors: Float[Array, "items factors"], item_gram: Float[Array, "factors factors"]
) -> Shared:
    """Compute what all calls of `solve_rows` in a round share."""
    matrix = shared_matrix(model, item_gram)
    inverse_root, is_definite = inverse_cholesky(jax.lax.stop_gradient(matrix))
    whitened = matmul(jax.lax.stop_gradient(item_factors), inverse_root.T)
    return Shared(matrix, inverse_root, whitened, is_definite)


def solve_rows(
    model: Model,
    item_factors: Float[Array, "items factors"],
    shared: Shared,
    observations: Observations,
    row_sums: RowSums,
) -> Solution:
    """Solve the factors of all clients in a batch of rows, each by the method that is faster for it.

    Args:
        model: gives w0 and the tolerance; lambda is in `shared`.
        item_factors: Y.
        shared: `shared_part` of the same model and Y.
        observations: the weighted histories, [rows, slots].
        row_sums: assigns rows to clients.
    """
    batch = _batch_of(model, item_factors, shared.matrix, observations, row_sums)
    dtype = item_factors.dtype
    tolerance = jnp.maximum(jnp.asarray(model.solve_tolerance, dtype), _rounding_level(dtype))
    lengths = row_sums.total(jnp.sum(observations.mask, axis=-1, dtype=dtype))
    most = row_sums.spread(
        model.unobserved_weight * _light_confidence(item_factors.shape[1], lengths, tolerance)
    )
    is_heavy = row_sums.total((jnp.max(batch.extra, axis=-1) > most).astype(jnp.int32)) > 0
    helpers = jax.lax.stop_gradient(_Helpers(shared, is_heavy, any_in_batch(jnp.any(is_heavy))))
    return _solution(partial(_solve_each, helpers), batch, row_sums, jax.lax.stop_gradient(tolerance))


def _rounding_level(dtype: Any) -> float:
    return _ROUNDING_LEVEL * float(jnp.finfo(dtype).eps)


def _light_confidence(
    num_factors: int, lengths: Float[Array, "clients"], tolerance: Float[Array, ""]
) -> Float[Array, "clients"]:
    """Compute the largest (c - w0) / w0 for which conjugate gradients are faster, by the length of a history.

    They take about sqrt((c - w0) / w0) log(2 / tolerance) steps, each linear in K and in the history.
    """
    factors_each = jnp.maximum(1.0, num_factors / jnp.maximum(lengths, 1.0))
    exact = jnp.minimum(_LIGHT_PER_FACTOR * num_factors * factors_each, _MOST_LIGHT)
    return exact * (jnp.log(2 / _rounding_level(tolerance.dtype)) / jnp.log(2 / tolerance)) ** 2


def _batch_of(
    model: Model,
    item_factors: Float[Array, "items factors"],
    shared: Float[Array, "factors factors"],
    observations: Observations,
    row_sums: RowSums,
) -> _Batch:
    """Set up the equations of weighted histories [rows, slots]; `model` gives w0, lambda is in `shared`."""
    extra = extra_confidence(model, observations)
    targets = sparse_residuals(model, jnp.zeros_like(extra), observations)
    right = jnp.zeros_like(row_sums.total(item_factors[observations.item_ids[:, 0]]))
    return _Batch(item_factors, observations.item_ids, targets, extra, shared, right)


def _gathered(batch: _Batch) -> Equations:
    observed_factors = batch.item_factors[batch.item_ids]
    return Equations(observed_factors, batch.targets, batch.extra, batch.shared, batch.right)


def _gathered_whitened(batch: _Batch, shared: Shared) -> Equations:
    right = matmul(batch.right, shared.inverse_root.T)
    return Equations(shared.whitened[batch.item_ids], batch.targets, batch.extra, None, right)


def _solution(
    method: Callable[[_Batch, RowSums, Float[Array, ""]], Solution],
    batch: _Batch,
    row_sums: RowSums,
    tolerance: Float[Array, ""],
) -> Solution:
    r"""Solve by `method`, as a linear system whose derivatives JAX knows.

    With H t = \sum_{i in I_u} t_i y_i, in the unknowns x, s (scores), t (targets) and tau (tolerance):

        M x + H ((c - w0) s - t) = right,   s - H^T x = 0,   t = c p,   tau = tolerance

    Targets among the unknowns let a method sum residuals item by item. The tolerance has the derivative 0,
    so derivatives are exact.
    """
    given, unravel = ravel_pytree((batch.right, jnp.zeros_like(batch.targets), batch.targets, tolerance))

    def multiply(unknowns: Float[Array, "numbers"]) -> Float[Array, "numbers"]:
        user_factors, scores, targets, tolerance = unravel(unknowns)
        equations = _gathered(batch._replace(targets=targets))
        missed = scores - observed_scores(equations, row_sums, user_factors)
        residual = residual_at(equations, row_sums, user_factors, scores)
        return ravel_pytree((-residual, missed, targets, tolerance))[0]

    def solve(_: Any, given: Float[Array, "numbers"]) -> tuple[Array, Array]:
        right, missed, targets, tolerance = unravel(given)
        system = batch._replace(targets=targets - batch.extra * missed, right=right)
        found = method(system, row_sums, tolerance)
        unknowns = found.user_factors, found.scores + missed, targets, tolerance
        return ravel_pytree(unknowns)[0], found.error

    def solve_transposed(_: Any, given: Float[Array, "numbers"]) -> tuple[Array, Array]:
        right, of_scores, of_targets, of_tolerance = unravel(given)
        system = batch._replace(targets=of_scores, right=right)
        found = method(system, row_sums, jnp.zeros_like(of_tolerance))
        missed, targets = of_scores - batch.extra * found.scores, of_targets + found.scores
        return ravel_pytree((found.user_factors, missed, targets, of_tolerance))[0], found.error

    unknowns, error = jax.lax.custom_linear_solve(multiply, given, solve, solve_transposed, has_aux=True)
    user_factors, scores, _, _ = unravel(unknowns)
    return Solution(user_factors, scores, jax.lax.stop_gradient(error))


def _solve_each(helpers: _Helpers, batch: _Batch, row_sums: RowSums, tolerance: Float[Array, ""]) -> Solution:
    """Solve light clients by conjugate gradients as if there were no others, and heavy ones directly."""
    is_heavy, of_rows = helpers.is_heavy[:, None], row_sums.spread(helpers.is_heavy)[:, None]
    lights = batch._replace(
        targets=jnp.where(of_rows, 0.0, batch.targets), right=jnp.where(is_heavy, 0.0, batch.right)
    )
    light = _solve_by_gradients(helpers.shared, lights, row_sums, tolerance)

    def with_heavy() -> Solution:
        heavy = _solve_directly(batch, row_sums)
        return Solution(
            user_factors=jnp.where(is_heavy, heavy.user_factors, light.user_factors),
            scores=jnp.where(of_rows, heavy.scores, light.scores),
            error=jnp.where(helpers.is_heavy, heavy.error, light.error),
        )

    return jax.lax.cond(helpers.is_any_heavy, with_heavy, lambda: light)


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


def _solve_by_gradients(
    shared: Shared, batch: _Batch, row_sums: RowSums, tolerance: Float[Array, ""]
) -> Solution:
    """Take conjugate gradient steps until each client's error is within the tolerance."""
    tolerance = jnp.maximum(tolerance, _rounding_level(batch.extra.dtype))

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
            size = jnp.sum(residual * residual, axis=-1)
            turn = jnp.where(is_moving, _divide(size, at.size), 0.0)
            return _Gradients(
                step=at.step + 1,
                user_factors=at.user_factors + step[..., None] * at.direction,
                scores=at.scores + row_sums.spread(step)[:, None] * direction_scores,
                residual=residual,
                direction=residual + turn[..., None] * at.direction,
                size=size,
                energy=at.energy + step * at.size,  # steps are orthogonal in this norm
                is_sound=at.is_sound & ((curvature > 0) | ~is_moving),
            )

        size = jnp.sum(residual * residual, axis=-1)
        start = _Gradients(
            step=jnp.zeros((), jnp.int32),
            user_factors=jnp.zeros_like(residual),
            scores=jnp.zeros_like(equations.extra),
            residual=residual,
            direction=residual,
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


def _solve_directly(batch: _Batch, row_sums: RowSums) -> Solution:
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
            curvature = curvature + einsum("...k,kl,...l->...", direction, batch.shared, direction)
            decrement = jnp.sum(residual * direction, axis=-1)
            step = _divide(decrement, curvature)
            user_factors = user_factors + step[..., None] * direction
            scores = scores + row_sums.spread(step)[:, None] * direction_scores
            decrements.append(decrement)
        error = _relative_error(decrements[-1], decrements[0])
        return Solution(user_factors, scores, jnp.where(is_definite, error, jnp.inf))

    return _in_units(_gathered(batch), row_sums, solve)


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
