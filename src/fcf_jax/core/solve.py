r"""The exact user factor, solved from the normal equations without any LAPACK call.

    A_u x_u = b_u,   A_u = w0 G + lambda I + \sum_{i in I_u} (c_i - w0) y_i y_i^T
                     b_u = \sum_{i in I_u} c_i p_i y_i

In one of two ways:

- Light confidence: conjugate gradients, preconditioned with what all clients have in common,
  M = w0 G + lambda I. The eigenvalues of M^-1 A_u lie between 1 and 1 + max (c - w0) / w0, so
  some ten steps do, and no client's matrix is ever built.
- Heavy confidence: A_u is inverted through its Cholesky factor, by a recursion of plain products
  that batches, runs and exports wherever JAX does (batched LAPACK calls can block for ever on
  CPUs with few cores). Then two descent steps are taken with that inverse: the first is the
  solve, the second removes its rounding. Their residual is taken from the history, item by item,
  so that heavy confidences cancel before they are summed, and each step is as long as the
  objective wants it, so that no rounding can make it rise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.linalg import inverse_cholesky, inverse_matrix
from fcf_jax.core.objective import sparse_residuals
from fcf_jax.core.records import Observations, Scalar

_OWN_STEPS = 2  # the solve and one refinement
_SHARED_STEPS = 128  # at most
_LIGHT_PER_FACTOR = 0.5  # up to (c - w0) / w0 of half of K shared steps are faster (benchmarks/README.md)
_LIGHTEST = 64.0  # but not beyond this, where they become many


class RowSums(NamedTuple):
    """How the rows of a batch belong to its clients."""

    total: Callable[[Array], Array]  # [rows, ...] -> [*clients, ...], summed over each client's rows
    spread: Callable[[Array], Array]  # [*clients, ...] -> [rows, ...], each client's value to its rows


def one_client() -> RowSums:
    """All rows are one client's history."""
    return RowSums(total=lambda values: jnp.sum(values, axis=0), spread=lambda value: value[None])


def owned_by(owners: Int[Array, "rows"], *, num_clients: int) -> RowSums:
    """Row r is part of the history of client `owners[r]`; owners ascend, `num_clients` means nobody."""

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, owners, num_clients, indices_are_sorted=True)

    return RowSums(total=total, spread=lambda values: values.at[owners].get(mode="clip"))


class Solution(NamedTuple):
    """User factors, what they predict for the clients' own items, and how exact they are."""

    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    error: Float[Array, "*clients"]  # relative, in the energy norm; an upper bound


class Unseen(NamedTuple):
    """M = w0 G + lambda I, what all clients' normal equations have in common."""

    matrix: Float[Array, "factors factors"]
    inverse: Float[Array, "factors factors"]


class _Equations(NamedTuple):
    """The normal equations of the clients whose histories lie in these rows."""

    own_factors: Float[Array, "rows slots factors"]
    observations: Observations
    extra: Float[Array, "rows slots"]  # c - w0, 0 in empty slots
    unseen: Float[Array, "factors factors"]  # w0 G + lambda I
    unobserved_weight: Scalar
    row_sums: RowSums


class _Gradients(NamedTuple):
    """Where the conjugate gradients of all clients stand."""

    step: Int[Array, ""]
    user_factors: Float[Array, "*clients factors"]
    scores: Float[Array, "rows slots"]
    residual: Float[Array, "*clients factors"]  # b - A x
    direction: Float[Array, "*clients factors"]
    decrement: Float[Array, "*clients"]  # residual . M^-1 residual, a squared energy norm


def normal_matrix(
    own_factors: Float[Array, "slots factors"], extra_confidence: Float[Array, "slots"]
) -> Float[Array, "factors factors"]:
    """Sum (c_i - w0) y_i y_i^T over a history, or over one row of it."""
    return jnp.matmul(own_factors.T * extra_confidence[None, :], own_factors, precision="highest")


def solve_user_factor(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Float[Array, "factors"]:
    """Solve one user's factor in closed form: x = (Y^T C Y + lambda I)^-1 Y^T C p.

    Args:
        item_gram: Y^T Y, computed once for all users.
        regularization: lambda, at least 0; a singular matrix gives a finite answer.
        unobserved_weight: w0, the confidence of the items that are not in the history.

    Returns:
        The factor; in float32 within 1e-5 of float64 for alpha r up to 1e5 and 1e-2 up to 1e6
        (measured on trained factors); finite beyond.

    References:
        arXiv:1901.09888, the user-factor update; Hu et al. 2008, equation 4.
    """
    return solve_history(
        item_factors,
        item_gram,
        observations,
        regularization=regularization,
        unobserved_weight=unobserved_weight,
    ).user_factors


def solve_history(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    observations: Observations,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> Solution:
    """Solve one user's factor directly, differentiable in both modes; the scores are [1, slots]."""
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    unseen = _unseen_matrix(item_gram, regularization, unobserved_weight)
    return _solve_with_own(_equations(item_factors, unseen, rows, one_client(), unobserved_weight))


def unseen_part(
    item_gram: Float[Array, "factors factors"], *, regularization: Scalar, unobserved_weight: Scalar = 1.0
) -> Unseen:
    """Prepare what `solve_rows` needs once for all clients."""
    matrix = _unseen_matrix(item_gram, regularization, unobserved_weight)
    return Unseen(matrix, inverse_matrix(matrix))


def solve_rows(
    item_factors: Float[Array, "items factors"],
    unseen: Unseen,
    observations: Observations,
    row_sums: RowSums,
    *,
    unobserved_weight: Scalar = 1.0,
) -> Solution:
    """Solve the factors of all clients whose histories lie in these rows, [rows, slots] each.

    By the faster of the two preconditioners: shared where all confidences are light, else own.
    """
    equations = _equations(item_factors, unseen.matrix, observations, row_sums, unobserved_weight)
    light = min(_LIGHT_PER_FACTOR * item_factors.shape[1], _LIGHTEST)
    is_heavy = jnp.max(equations.extra) > light * unobserved_weight
    return jax.lax.cond(
        _anywhere(is_heavy),
        lambda: _solve_with_own(equations),
        lambda: _solve_with_shared(equations, unseen.inverse),
    )


def _unseen_matrix(item_gram: Array, regularization: Scalar, unobserved_weight: Scalar) -> Array:
    identity = jnp.eye(item_gram.shape[0], dtype=item_gram.dtype)
    return unobserved_weight * item_gram + regularization * identity


def _equations(
    item_factors: Array,
    unseen: Array,
    observations: Observations,
    row_sums: RowSums,
    unobserved_weight: Scalar,
) -> _Equations:
    return _Equations(
        own_factors=item_factors[observations.item_ids],
        observations=observations,
        extra=jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0),
        unseen=unseen,
        unobserved_weight=unobserved_weight,
        row_sums=row_sums,
    )


def _solve_with_shared(equations: _Equations, inverse: Float[Array, "factors factors"]) -> Solution:
    """Take conjugate gradient steps until the worst client's error is at rounding level."""
    own_factors, extra, row_sums = equations.own_factors, equations.extra, equations.row_sums
    tolerance = 8 * jnp.finfo(inverse.dtype).eps
    residual = _residual(equations)
    steepest = _product("...k,kl->...l", residual, inverse)
    first_decrement = jnp.sum(residual * steepest, axis=-1)

    def error(at: _Gradients) -> Float[Array, "*clients"]:
        return jnp.sqrt(_divide(jnp.maximum(at.decrement, 0.0), first_decrement))

    def is_unfinished(at: _Gradients) -> Array:
        return (at.step < _SHARED_STEPS) & _anywhere(jnp.max(error(at)) > tolerance)

    def descend(at: _Gradients) -> _Gradients:
        direction_scores = _product("rsk,rk->rs", own_factors, row_sums.spread(at.direction))
        product = row_sums.total(_product("rsk,rs->rk", own_factors, extra * direction_scores))
        product = product + _product("...k,kl->...l", at.direction, equations.unseen)  # A direction
        step = _divide(at.decrement, jnp.sum(at.direction * product, axis=-1))
        residual = at.residual - step[..., None] * product
        steepest = _product("...k,kl->...l", residual, inverse)
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


def _solve_with_own(equations: _Equations) -> Solution:
    """Invert each client's matrix, solve and refine."""
    own_factors, extra, row_sums = equations.own_factors, equations.extra, equations.row_sums
    seen = row_sums.total(jax.vmap(normal_matrix)(own_factors, extra))
    matrices = jnp.broadcast_to(equations.unseen, seen.shape) + seen
    inverse = jnp.vectorize(inverse_cholesky, signature="(n,n)->(n,n)")(matrices)
    user_factors, scores = jnp.zeros_like(matrices[..., 0]), jnp.zeros_like(extra)
    decrements = []
    for _ in range(_OWN_STEPS):
        residual = _residual(equations, user_factors, scores)
        direction = _product("...ji,...jk,...k->...i", inverse, inverse, residual)
        direction_scores = _product("rsk,rk->rs", own_factors, row_sums.spread(direction))
        curvature = row_sums.total(jnp.sum(extra * direction_scores**2, axis=-1))
        curvature = curvature + _product("...k,kl,...l->...", direction, equations.unseen, direction)
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
    """Compute b - A x from the history, item by item; by default at x = 0."""
    at_scores = jnp.zeros_like(equations.extra) if scores is None else scores
    weights = sparse_residuals(
        at_scores, equations.observations, unobserved_weight=equations.unobserved_weight
    )
    residual = equations.row_sums.total(_product("rsk,rs->rk", equations.own_factors, weights))
    if user_factors is None:
        return residual
    return residual - _product("...k,kl->...l", user_factors, equations.unseen)


def _divide(numerator: Array, denominator: Array) -> Array:
    """Divide, 0 where there is nothing to divide by."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1.0), 0.0)


@jax.custom_batching.custom_vmap
def _anywhere(flag: Array) -> Array:
    """Keep a decision one for all under `vmap`, taken if any takes it: `cond` remains a branch."""
    return flag


@_anywhere.def_vmap
def _anywhere_rule(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _anywhere(jnp.any(flag)), False


def _product(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, precision="highest")
