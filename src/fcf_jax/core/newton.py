r"""The user factor under an objective that is not quadratic, by damped Newton steps from x = 0.

A step solves the normal equations of the objective's quadratic model at the scores s = o + x.y of the moment
(o are offsets of biases), with e_i = -1/2 c_i dd/ds and h_i = 1/2 c_i d^2d/ds^2:

    c - w0 becomes h - w0,   c p becomes e + h (s - o) + w0 o

Since |d'''| <= d'', a step of ln(1 + m) / m of the way, with m the largest change of a score, lowers the
objective, and near the minimum the whole way is taken: no loss is evaluated.

References:
    Bach, "Self-concordant analysis for logistic regression", EJS 2010, section 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from fcf_jax.core.equations import RowSums, observed_scores, times_common
from fcf_jax.core.linalg import safe_sqrt
from fcf_jax.core.methods import Batch, Solution, gathered, rounding_level
from fcf_jax.core.objective import residuals
from fcf_jax.core.records import Model, Observations
from fcf_jax.core.transformed import any_in_batch, beginning_like

_MOST_STEPS = 50
_OF_ONE_SOLVE = 4.0  # a step cannot be told from the error of a solve below this multiple of it


class _Newton(NamedTuple):
    """State of the steps of all clients; error is that of the factor before the latest step."""

    step: Array
    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    error: Float[Array, "*clients"]


def solve_by_newton(
    model: Model,
    batch: Batch,
    offsets: Float[Array, "rows slots"],
    observations: Observations,
    row_sums: RowSums,
    solve: Callable[[Batch], Solution],
) -> Solution:
    """Take steps until each client's error is within the tolerance, and one more.

    The last step alone is differentiated: at the minimum, its first derivative is that of the minimum.
    Its second derivative is not.

    Args:
        model: gives the objective, w0 and the tolerance.
        batch: equations of squared errors, of which targets and extra are replaced.
        offsets: o of the observed items.
        observations: the weighted histories.
        row_sums: assigns rows to clients.
        solve: solves one system of equations.
    """
    given = model, batch, offsets, observations
    fixed: Any = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, given))
    level = rounding_level(batch.extra.dtype)
    tolerance = _OF_ONE_SOLVE * jnp.maximum(jnp.asarray(fixed[0].solve_tolerance), level)

    def is_unfinished(at: _Newton) -> Bool[Array, "*clients"]:
        return at.error > tolerance

    def step(at: _Newton) -> _Newton:
        equations = _quadratic_model(*fixed, free_scores=at.scores)
        found = solve(equations)
        change, of_scores = found.user_factors - at.user_factors, found.scores - at.scores
        is_moving = is_unfinished(at)
        part = jnp.where(is_moving, _part_of_step(observations, of_scores, row_sums), 0.0)
        error = _relative_size(equations, row_sums, change, of_scores, found)
        return _Newton(
            step=at.step + 1,
            user_factors=at.user_factors + part[..., None] * change,
            scores=at.scores + row_sums.spread(part)[:, None] * of_scores,
            error=jnp.where(is_moving, error, at.error),
        )

    start = _Newton(
        step=jnp.zeros((), jnp.int32),
        user_factors=jnp.zeros_like(batch.right),
        scores=jnp.zeros_like(batch.extra),
        error=jnp.full_like(batch.right[..., 0], jnp.inf),
    )
    start = beginning_like(start, batch.item_ids)
    end = jax.lax.while_loop(
        lambda at: (at.step < _MOST_STEPS) & any_in_batch(jnp.any(is_unfinished(at))), step, start
    )
    equations = _quadratic_model(
        *given, free_scores=observed_scores(gathered(batch), row_sums, end.user_factors)
    )
    found = solve(equations)
    change, of_scores = found.user_factors - end.user_factors, found.scores - end.scores
    error = _relative_size(equations, row_sums, change, of_scores, found)
    return found._replace(error=jax.lax.stop_gradient(jnp.maximum(error, found.error)))


def _quadratic_model(
    model: Model,
    batch: Batch,
    offsets: Float[Array, "rows slots"],
    observations: Observations,
    free_scores: Float[Array, "rows slots"],
) -> Batch:
    """Set up the equations at the scores x.y + o; `free_scores` are x.y."""
    assert model.objective is not None
    scores, mask, w0 = free_scores + offsets, observations.mask, model.unobserved_weight
    curvature = model.objective.curvature(observations.preference, scores)
    curvature = jnp.where(mask, observations.confidence * curvature, 0.0)
    targets = residuals(model, scores, observations) + curvature * free_scores
    return batch._replace(
        targets=targets + jnp.where(mask, w0 * offsets, 0.0), extra=curvature - jnp.where(mask, w0, 0.0)
    )


def _part_of_step(
    observations: Observations, of_scores: Float[Array, "rows slots"], row_sums: RowSums
) -> Float[Array, "*clients"]:
    """Compute ln(1 + m) / m."""
    of_rows = jnp.max(jnp.where(observations.mask, jnp.abs(of_scores), 0.0), axis=-1)
    largest = row_sums.largest(of_rows)
    is_large = largest > jnp.finfo(largest.dtype).eps
    return jnp.where(is_large, jnp.log1p(largest) / jnp.where(is_large, largest, 1.0), 1.0)


def _relative_size(
    equations: Batch,
    row_sums: RowSums,
    change: Float[Array, "*clients factors"],
    of_scores: Float[Array, "rows slots"],
    found: Solution,
) -> Float[Array, "*clients"]:
    """Compute the size of a change relative to that of the found factors, in the energy norm."""

    def energy(factors: Array, scores: Array) -> Array:
        of_history = row_sums.total(jnp.sum(equations.extra * scores**2, axis=-1))
        common = times_common(equations, factors)
        return of_history + jnp.sum(factors * common, axis=-1)

    moved, whole = energy(change, of_scores), energy(found.user_factors, found.scores)
    is_any = whole > 0
    return jnp.where(is_any, safe_sqrt(moved / jnp.where(is_any, whole, 1.0)), 0.0)
