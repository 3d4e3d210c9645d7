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
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.linalg import einsum, inverse_cholesky, inverse_matrix
from fcf_jax.core.objective import extra_confidence, gram, sparse_residuals
from fcf_jax.core.records import Model, Observations

_DIRECT_STEPS = 2  # the solve and one refinement
_MOST_GRADIENT_STEPS = 128
_LIGHT_PER_FACTOR = 0.5  # conjugate gradients are faster up to (c - w0) / w0 = K / 2 (benchmarks/README.md),
_MOST_LIGHT = 64.0  # but at most up to this, since they then take many steps


class RowSums(NamedTuple):
    """The two maps between the rows of a batch and its clients.

    Attributes:
        total: [rows, ...] -> [*clients, ...], the sum over each client's rows.
        spread: [*clients, ...] -> [rows, ...], each client's value repeated for its rows.
    """

    total: Callable[[Array], Array]
    spread: Callable[[Array], Array]


def one_client() -> RowSums:
    """Assign all rows to one client."""
    return RowSums(total=lambda values: jnp.sum(values, axis=0), spread=lambda value: value[None])


def owned_by(owners: Int[Array, "rows"], *, num_clients: int) -> RowSums:
    """Assign row r to client `owners[r]`; owners are in ascending order, `num_clients` for padding rows."""

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, owners, num_clients, indices_are_sorted=True)

    return RowSums(total=total, spread=lambda values: values.at[owners].get(mode="clip"))


class Solution(NamedTuple):
    """User factors, with a bound on their error.

    Attributes:
        user_factors: x of each client.
        scores: s_i = x.y_i of the observed items.
        error: upper bound on the relative error of x in the energy norm.
    """

    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    error: Float[Array, "*clients"]


class Shared(NamedTuple):
    """The part of the normal equations that all clients share, M = w0 G + lambda I.

    Attributes:
        matrix: M.
        inverse: M^-1.
    """

    matrix: Float[Array, "factors factors"]
    inverse: Float[Array, "factors factors"]


class _Equations(NamedTuple):
    """The normal equations of the clients in a batch of rows.

    Attributes:
        model: gives w0.
        observed_factors: y_i of the observed items.
        observations: the weighted histories.
        extra: c - w0, 0 in empty slots.
        shared: M.
        row_sums: the client of each row.
    """

    model: Model
    observed_factors: Float[Array, "rows slots factors"]
    observations: Observations
    extra: Float[Array, "rows slots"]
    shared: Float[Array, "factors factors"]
    row_sums: RowSums


class _Gradients(NamedTuple):
    """State of the conjugate gradients of all clients.

    Attributes:
        step: number of steps taken.
        user_factors: x.
        scores: x.y_i of the observed items.
        residual: b - A x.
        direction: next search direction.
        decrement: residual . M^-1 residual, a squared energy norm.
    """

    step: Int[Array, ""]
    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    residual: Float[Array, "*clients factors"]
    direction: Float[Array, "*clients factors"]
    decrement: Float[Array, "*clients"]


def _normal_matrix(
    observed_factors: Float[Array, "slots factors"], extra_confidence: Float[Array, "slots"]
) -> Float[Array, "factors factors"]:
    """Sum (c_i - w0) y_i y_i^T over a history, or over one row of it."""
    return jnp.matmul(observed_factors.T * extra_confidence[None, :], observed_factors, precision="highest")


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
    """Solve one user's factor by the direct method, with scores [1, slots]; see `solve_user_factor`.

    Differentiable in forward and reverse mode.
    """
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    return _solve_directly(
        _equations(model, item_factors, _shared_matrix(model, item_gram), rows, one_client())
    )


def shared_part(model: Model, item_gram: Float[Array, "factors factors"]) -> Shared:
    """Compute M and its inverse, once for all calls of `solve_rows` in a round."""
    matrix = _shared_matrix(model, item_gram)
    return Shared(matrix, inverse_matrix(matrix))


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
    equations = _equations(model, item_factors, shared.matrix, observations, row_sums)
    light = min(_LIGHT_PER_FACTOR * item_factors.shape[1], _MOST_LIGHT)
    is_heavy = jnp.max(equations.extra) > light * model.unobserved_weight
    return jax.lax.cond(
        _any_in_batch(is_heavy),
        lambda: _solve_directly(equations),
        lambda: _solve_by_gradients(equations, shared.inverse),
    )


def _shared_matrix(model: Model, item_gram: Array) -> Array:
    identity = jnp.eye(item_gram.shape[0], dtype=item_gram.dtype)
    return model.unobserved_weight * item_gram + model.regularization * identity


def _equations(
    model: Model, item_factors: Array, shared: Array, observations: Observations, row_sums: RowSums
) -> _Equations:
    return _Equations(
        model=model,
        observed_factors=item_factors[observations.item_ids],
        observations=observations,
        extra=extra_confidence(model, observations),
        shared=shared,
        row_sums=row_sums,
    )


def _solve_by_gradients(equations: _Equations, inverse: Float[Array, "factors factors"]) -> Solution:
    """Take conjugate gradient steps until all clients' errors are at rounding level."""
    observed_factors, extra, row_sums = equations.observed_factors, equations.extra, equations.row_sums
    tolerance = 8 * jnp.finfo(inverse.dtype).eps
    residual = _residual(equations)
    steepest = einsum("...k,kl->...l", residual, inverse)
    first_decrement = jnp.sum(residual * steepest, axis=-1)

    def error(at: _Gradients) -> Float[Array, "*clients"]:
        return jnp.sqrt(_divide(jnp.maximum(at.decrement, 0.0), first_decrement))

    def is_unfinished(at: _Gradients) -> Array:
        return (at.step < _MOST_GRADIENT_STEPS) & _any_in_batch(jnp.max(error(at)) > tolerance)

    def descend(at: _Gradients) -> _Gradients:
        direction_scores = einsum("rsk,rk->rs", observed_factors, row_sums.spread(at.direction))
        product = row_sums.total(einsum("rsk,rs->rk", observed_factors, extra * direction_scores))
        product = product + einsum("...k,kl->...l", at.direction, equations.shared)  # A direction
        step = _divide(at.decrement, jnp.sum(at.direction * product, axis=-1))
        residual = at.residual - step[..., None] * product
        steepest = einsum("...k,kl->...l", residual, inverse)
        decrement = jnp.sum(residual * steepest, axis=-1)
        return _Gradients(
            step=at.step + 1,
            user_factors=at.user_factors + step[..., None] * at.direction,
            scores=at.scores + row_sums.spread(step)[:, None] * direction_scores,
            residual=residual,
            direction=steepest + _divide(decrement, at.decrement)[..., None] * at.direction,
            decrement=decrement,
        )

    start = _Gradients(
        step=jnp.zeros((), jnp.int32),
        user_factors=jnp.zeros_like(residual),
        scores=jnp.zeros_like(extra),
        residual=residual,
        direction=steepest,
        decrement=first_decrement,
    )
    end = jax.lax.while_loop(is_unfinished, descend, start)
    return Solution(end.user_factors, end.scores, error(end))


def _solve_directly(equations: _Equations) -> Solution:
    """Invert each client's matrix, solve, and refine once."""
    observed_factors, extra, row_sums = equations.observed_factors, equations.extra, equations.row_sums
    seen = row_sums.total(jax.vmap(_normal_matrix)(observed_factors, extra))
    matrices = jnp.broadcast_to(equations.shared, seen.shape) + seen
    inverse = jnp.vectorize(inverse_cholesky, signature="(n,n)->(n,n)")(matrices)
    user_factors, scores = jnp.zeros_like(matrices[..., 0]), jnp.zeros_like(extra)
    decrements = []
    for _ in range(_DIRECT_STEPS):
        residual = _residual(equations, user_factors, scores)
        direction = einsum("...ji,...jk,...k->...i", inverse, inverse, residual)
        direction_scores = einsum("rsk,rk->rs", observed_factors, row_sums.spread(direction))
        curvature = row_sums.total(jnp.sum(extra * direction_scores**2, axis=-1))
        curvature = curvature + einsum("...k,kl,...l->...", direction, equations.shared, direction)
        decrement = jnp.sum(residual * direction, axis=-1)
        step = _divide(decrement, curvature)
        user_factors = user_factors + step[..., None] * direction
        scores = scores + row_sums.spread(step)[:, None] * direction_scores
        decrements.append(decrement)
    error = jnp.sqrt(_divide(jnp.maximum(decrements[-1], 0.0), decrements[0]))
    return Solution(user_factors, scores, error)


def _residual(
    equations: _Equations, user_factors: Array | None = None, scores: Array | None = None
) -> Float[Array, "*clients factors"]:
    """Compute b - A x, summed over the history item by item; without `user_factors`, at x = 0."""
    at_scores = jnp.zeros_like(equations.extra) if scores is None else scores
    weights = sparse_residuals(equations.model, at_scores, equations.observations)
    residual = equations.row_sums.total(einsum("rsk,rs->rk", equations.observed_factors, weights))
    if user_factors is None:
        return residual
    return residual - einsum("...k,kl->...l", user_factors, equations.shared)


def _divide(numerator: Array, denominator: Array) -> Array:
    """Divide, with result 0 where the denominator is not positive."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1.0), 0.0)


@jax.custom_batching.custom_vmap
def _any_in_batch(flag: Array) -> Array:
    """Return the flag; under `vmap`, whether any flag is set, so that `cond` takes one branch for all."""
    return flag


@_any_in_batch.def_vmap
def _any_in_batch_rule(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return _any_in_batch(jnp.any(flag)), False
