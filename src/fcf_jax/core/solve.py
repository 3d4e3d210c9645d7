r"""The exact user factor, the solution of the normal equations.

    A_u x_u = b_u,   A_u = w0 G + lambda_u I + \sum_{i in I_u} (c_i - w0) y_i y_i^T
                     b_u = \sum_{i in I_u} c_i p_i y_i

`core.methods` has two methods. A client's largest confidence and the length of its history decide between
them, whoever it is computed with. To JAX, the solve is one linear system in factors and scores, whose
derivatives of all orders and modes are exact and cost one solve each (`_solution`); with another objective,
those of first order (`core.newton`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from fcf_jax.core.biases import with_constant, without_constant
from fcf_jax.core.checks import require_negatives
from fcf_jax.core.equations import (
    RowSums,
    history_lengths,
    observed_scores,
    one_client,
    residual_at,
)
from fcf_jax.core.linalg import add_ridge, eigh, inverse_cholesky, matmul
from fcf_jax.core.methods import (
    Batch,
    Catalogue,
    Shared,
    Solution,
    gathered,
    rounding_level,
    solve_by_gradients,
    solve_directly,
)
from fcf_jax.core.newton import solve_by_newton
from fcf_jax.core.objective import extra_confidence, gram, of_slots, regularization_of, sparse_residuals
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Model, Observations, Scalar
from fcf_jax.core.transformed import any_in_batch, beginning_like

# Conjugate gradients are faster up to these (c - w0) / w0 (benchmarks/README.md), and further with short
# histories or a coarse tolerance; beyond the last they take many steps, and rounding shows.
_LIGHT_PER_FACTOR, _MOST_LIGHT = 0.5, 256.0


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


@in_one_precision
def solve_user_factor(
    model: Model,
    item_factors: Float[Array, "items factors"],
    observations: Observations,
    item_gram: Float[Array, "factors factors"] | None = None,
    prior: Float[Array, "factors"] | None = None,
) -> Float[Array, "factors"]:
    """Solve one user's factor in closed form: x = (Y^T C Y + lambda I)^-1 (Y^T C p + lambda m).

    Args:
        model: gives lambda and w0. With lambda = 0 and a singular matrix the result is still finite.
        item_factors: Y.
        observations: the user's weighted history.
        item_gram: Y^T Y, if computed already, such as once for many users; None: computed here.
        prior: m, the mean that the factor is drawn to, such as A^T f of the user's features; None: 0.

    Returns:
        The factor. In float32 it is within 1e-5 of float64 for alpha r up to 1e5, and within 1e-2 up to 1e6
        (measured on trained factors); beyond, it is finite.

    References:
        arXiv:1901.09888, the user-factor update; Hu et al. 2008, equation 4.
    """
    item_gram = gram(item_factors) if item_gram is None else item_gram
    return solve_history(model, item_factors, item_gram, observations, prior).user_factors


def solve_history(
    model: Model,
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    prior: Float[Array, "factors"] | None = None,
) -> Solution:
    """Solve one user's factor by the direct method, with scores [1, slots]; see `solve_user_factor`."""
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    row_sums, tolerance = one_client(), jnp.zeros((), item_factors.dtype)
    catalogue = _catalogue(model, item_factors, item_gram, num_items=item_factors.shape[0])

    def solve(batch: Batch) -> Solution:
        batch = beginning_like(batch, rows.item_ids)
        return _solution(
            lambda batch, row_sums, _: solve_directly(batch, row_sums), batch, row_sums, tolerance
        )

    return _solve_objective(model, catalogue, rows, row_sums, solve, prior)


def shared_part(
    model: Model,
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    *,
    num_items: int | None = None,
) -> Shared:
    """Compute what all calls of `solve_rows` in a round share.

    Args:
        model: gives lambda, nu and w0.
        item_factors: Y.
        item_gram: Y^T Y.
        num_items: M, the size of the catalogue; None: the rows of Y, if none is padding.
    """
    num_items = item_factors.shape[0] if num_items is None else num_items
    catalogue = _catalogue(model, item_factors, item_gram, num_items=num_items)
    matrix, diagonal = catalogue.matrix, None
    ridge = jnp.asarray(regularization_of(model, jnp.zeros(()), num_items), matrix.dtype)
    if model.regularization_exponent is None:
        inverse_root, is_definite = inverse_cholesky(jax.lax.stop_gradient(add_ridge(matrix, ridge)))
    else:
        eigenvalues, basis = eigh(jax.lax.stop_gradient(matrix))
        rounding = jnp.finfo(matrix.dtype)
        floor = rounding.eps * eigenvalues[-1] + rounding.tiny  # for lambda = 0
        diagonal = jnp.maximum(jnp.maximum(eigenvalues, 0.0) + jax.lax.stop_gradient(ridge), floor)
        inverse_root, is_definite = jax.lax.rsqrt(diagonal)[:, None] * basis.T, jnp.isfinite(floor)
    whitened = matmul(jax.lax.stop_gradient(catalogue.item_factors), inverse_root.T)
    return Shared(catalogue, ridge, diagonal, inverse_root, whitened, is_definite)


def _catalogue(
    model: Model,
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    *,
    num_items: Scalar,
) -> Catalogue:
    """Part the item factors into those that a client weighs with its own factor, and offsets."""
    matrix = model.unobserved_weight * item_gram
    if model.biases is None:
        return Catalogue(item_factors, None, matrix, None, num_items)
    free, constant = without_constant(matrix, model.biases), model.biases.constant
    right = -free[constant]
    return Catalogue(
        item_factors=without_constant(item_factors, model.biases),
        offsets=item_factors[:, constant],
        matrix=free.at[constant].set(0.0),
        right=right,
        num_items=num_items,
    )


def solve_rows(
    model: Model,
    shared: Shared,
    observations: Observations,
    row_sums: RowSums,
    prior: Float[Array, "clients factors"] | None = None,
) -> Solution:
    """Solve the factors of all clients in a batch of rows, each by the method that is faster for it.

    Args:
        model: gives lambda, nu, w0, the tolerance, the objective and biases.
        shared: `shared_part` of the same model and Y.
        observations: the weighted histories, [rows, slots].
        row_sums: assigns rows to clients.
        prior: m_u, the mean that each factor is drawn to; None: 0.
    """
    num_factors, dtype = shared.whitened.shape[1], shared.whitened.dtype
    tolerance = jnp.maximum(jnp.asarray(model.solve_tolerance, dtype), rounding_level(dtype))
    lengths = history_lengths(observations, row_sums).astype(dtype)
    most = row_sums.spread(model.unobserved_weight * _light_confidence(num_factors, lengths, tolerance))

    def solve(batch: Batch) -> Solution:
        is_heavy = row_sums.total((jnp.max(batch.extra, axis=-1) > most).astype(jnp.int32)) > 0
        helpers = jax.lax.stop_gradient(_Helpers(shared, is_heavy, any_in_batch(jnp.any(is_heavy))))
        return _solution(partial(_solve_each, helpers), batch, row_sums, jax.lax.stop_gradient(tolerance))

    return _solve_objective(model, shared.catalogue, observations, row_sums, solve, prior)


def _solve_objective(
    model: Model,
    catalogue: Catalogue,
    observations: Observations,
    row_sums: RowSums,
    solve: Callable[[Batch], Solution],
    prior: Float[Array, "*clients factors"] | None,
) -> Solution:
    """Solve squared errors once, other objectives step by step; `solve` solves one system of equations."""
    require_negatives(model, observations.negative_ids)
    ridge = _ridge(model, observations, row_sums, num_items=catalogue.num_items)
    batch = _towards(prior, _batch_of(model, catalogue, ridge, observations, row_sums))
    offsets = _offsets_of(catalogue, observations)
    if model.objective is None:
        solution = solve(batch)
    else:
        solution = solve_by_newton(model, batch, offsets, observations, row_sums, solve)
    if catalogue.offsets is None:
        return solution
    user_factors = with_constant(solution.user_factors, model.biases)
    return Solution(user_factors, solution.scores + offsets, solution.error)


def _offsets_of(catalogue: Catalogue, observations: Observations) -> Float[Array, "rows slots"]:
    """Look up what biases add to the scores of the observed items."""
    if catalogue.offsets is None:
        return jnp.zeros_like(observations.confidence)
    return of_slots(catalogue.offsets, observations.item_ids, observations.negative_ids)


def _ridge(
    model: Model, observations: Observations, row_sums: RowSums, *, num_items: Scalar
) -> Scalar | Float[Array, "*clients 1"]:
    """Return lambda_u, in a shape that multiplies [*clients, factors]."""
    ridge = regularization_of(model, history_lengths(observations, row_sums), num_items)
    return ridge if model.regularization_exponent is None else jnp.asarray(ridge)[..., None]


def _light_confidence(
    num_factors: int, lengths: Float[Array, "clients"], tolerance: Float[Array, ""]
) -> Float[Array, "clients"]:
    """Compute the largest (c - w0) / w0 for which conjugate gradients are faster, by the length of a history.

    They take about sqrt((c - w0) / w0) log(2 / tolerance) steps, each linear in K and in the history.
    """
    factors_each = jnp.maximum(1.0, num_factors / jnp.maximum(lengths, 1.0))
    exact = jnp.minimum(_LIGHT_PER_FACTOR * num_factors * factors_each, _MOST_LIGHT)
    return exact * (jnp.log(2 / rounding_level(tolerance.dtype)) / jnp.log(2 / tolerance)) ** 2


def _batch_of(
    model: Model,
    catalogue: Catalogue,
    ridge: Scalar | Float[Array, "*clients 1"],
    observations: Observations,
    row_sums: RowSums,
) -> Batch:
    """Set up the equations of squared errors of weighted histories [rows, slots]; `model` gives w0."""
    extra = extra_confidence(model, observations)
    item_ids, negative_ids = observations.item_ids, observations.negative_ids
    offsets = _offsets_of(catalogue, observations)
    targets = sparse_residuals(model._replace(objective=None), offsets, observations)
    right = jnp.zeros_like(row_sums.total(catalogue.item_factors[item_ids[:, 0]]))
    if catalogue.right is not None:
        right = right + catalogue.right
    return Batch(
        catalogue.item_factors, item_ids, negative_ids, targets, extra, catalogue.matrix, ridge, right
    )


def _towards(prior: Float[Array, "*clients factors"] | None, batch: Batch) -> Batch:
    """Add lambda_u m_u to the right-hand sides."""
    return batch if prior is None else batch._replace(right=batch.right + batch.ridge * prior)


def _solution(
    method: Callable[[Batch, RowSums, Float[Array, ""]], Solution],
    batch: Batch,
    row_sums: RowSums,
    tolerance: Float[Array, ""],
) -> Solution:
    r"""Solve by `method`, as a linear system whose derivatives JAX knows.

    With H t = \sum_{i in I_u} t_i y_i, in the unknowns x, s (scores), t (targets) and tau (tolerance):

        (w0 G + lambda_u I) x + H ((c - w0) s - t) = right,   s - H^T x = 0,   t = c p,   tau = tolerance

    Targets among the unknowns let a method sum residuals item by item. The tolerance has the derivative 0,
    so derivatives are exact.
    """
    given, unravel = ravel_pytree((batch.right, jnp.zeros_like(batch.targets), batch.targets, tolerance))

    def multiply(unknowns: Float[Array, "numbers"]) -> Float[Array, "numbers"]:
        user_factors, scores, targets, tolerance = unravel(unknowns)
        equations = gathered(batch._replace(targets=targets, right=jnp.zeros_like(batch.right)))
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


def _solve_each(helpers: _Helpers, batch: Batch, row_sums: RowSums, tolerance: Float[Array, ""]) -> Solution:
    """Solve light clients by conjugate gradients as if there were no others, and heavy ones directly."""
    is_heavy, of_rows = helpers.is_heavy[:, None], row_sums.spread(helpers.is_heavy)[:, None]
    lights = batch._replace(
        targets=jnp.where(of_rows, 0.0, batch.targets), right=jnp.where(is_heavy, 0.0, batch.right)
    )
    light = solve_by_gradients(helpers.shared, lights, row_sums, tolerance)

    def with_heavy() -> Solution:
        heavy = solve_directly(batch, row_sums)
        return Solution(
            user_factors=jnp.where(is_heavy, heavy.user_factors, light.user_factors),
            scores=jnp.where(of_rows, heavy.scores, light.scores),
            error=jnp.where(helpers.is_heavy, heavy.error, light.error),
        )

    return jax.lax.cond(helpers.is_any_heavy, with_heavy, lambda: light)
