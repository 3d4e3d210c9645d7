"""A small problem with a known answer, by which kernels show that they work on a device."""

from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.kernels.clients import Rows, solve
from fcf_jax.core.kernels.items import Pieces, sum_over_users
from fcf_jax.core.kernels.launch import Weighted
from fcf_jax.core.kernels.plans import Plan

_NUM_ITEMS = 96
_LENGTHS = (0, 1, 31, 32, 33, 80, 96)
_EXTRA = 4.0


def error_of_trial(plan: Plan) -> float:
    """Solve a few clients and sum their items; return the largest relative error to float64."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((_NUM_ITEMS, plan.num_factors))
    root = np.linalg.cholesky(table.T @ table + np.eye(plan.num_factors))
    table = np.linalg.solve(root, table.T).T  # w0 = lambda = 1
    seen = np.zeros((len(_LENGTHS), _NUM_ITEMS), bool)
    for user, length in enumerate(_LENGTHS):
        seen[user, rng.permutation(_NUM_ITEMS)[:length]] = True
    factors = _exact(table, seen)
    weights = np.where(seen, 1 + _EXTRA - _EXTRA * factors @ table.T, 0.0)
    table32 = jnp.asarray(table, jnp.float32)
    run = jax.jit(partial(solve, launch=plan.clients, is_chebyshev=plan.is_chebyshev))
    rows = Rows(*_ints(np.arange(len(_LENGTHS)), np.cumsum(_LENGTHS) - _LENGTHS, _LENGTHS))
    own = _weighted(np.nonzero(seen)[1])
    # as what they are, and as if they were heavy, with corrections
    solved = [run(table32, rows, own, jnp.float32(1e-6), jnp.float32(weight)) for weight in (1.0, 1e3)]
    ends = np.append(0, np.cumsum(seen.sum(axis=0)))
    items = np.arange(_NUM_ITEMS)
    pieces = Pieces(*_ints(items, ends, items, np.append(items, _NUM_ITEMS)))
    sums, _ = sum_over_users(
        jnp.asarray(factors, jnp.float32), table32, pieces, _weighted(np.nonzero(seen.T)[1]), plan.items
    )
    errors = [_relative_error(each.factors, factors) for each in solved]
    return max(*errors, _relative_error(sums, weights.T @ factors))


def _exact(table: np.ndarray, seen: np.ndarray) -> np.ndarray:
    factors = np.zeros((seen.shape[0], table.shape[1]))
    for user, row in enumerate(seen):
        own = table[row]
        matrix = np.eye(table.shape[1]) + _EXTRA * own.T @ own
        factors[user] = np.linalg.solve(matrix, (1 + _EXTRA) * own.sum(axis=0))
    return factors


def _weighted(ids: np.ndarray) -> Weighted:
    ones = jnp.ones(ids.size, jnp.float32)
    return Weighted(jnp.asarray(ids, jnp.int32), _EXTRA * ones, (1 + _EXTRA) * ones)


def _ints(*values: object) -> list:
    return [jnp.asarray(value, jnp.int32) for value in values]


def _relative_error(found: object, exact: np.ndarray) -> float:
    """Return the largest error relative to the largest number; inf for nan."""
    error = np.max(np.abs(np.asarray(found, np.float64) - exact)) / np.max(np.abs(exact))
    return float(error) if np.isfinite(error) else np.inf
