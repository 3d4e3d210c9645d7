r"""Attacks on the upload of one client: its items, their strengths and its factor.

F = e x^T with x = beta v, |v| = 1, gives g = F v = beta e. With t = Y v, e = -w0 beta t off the history, so

    deviation_i = (g_i + w0 beta^2 t_i) / beta = e_i + w0 s_i

is 0 there, and c p - (c - w0) s on the history. The right beta^2 makes most deviations vanish.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from fcf_jax.privacy.attacks.knowledge import Public, solve_user, strengths_from_residuals

_ROUNDING = 1e-5  # of a deviation: more than float32 leaves of a 0, less than any interaction makes
_QUANTA = 2.0  # largest change of F v by fixed point; its standard deviation is .3
_MATCH = 1e-3  # relative error of the factor that a correctly recovered history solves to


class Recovered(NamedTuple):
    """Histories recovered from uploads.

    Attributes:
        is_held: which items each client holds.
        strengths: nan off the history.
        deviations: the score of each item.
        user_factors: x.
        is_consistent: whether solving the history gives the factor.
    """

    is_held: Bool[np.ndarray, "*clients items"]
    strengths: Float[np.ndarray, "*clients items"]
    deviations: Float[np.ndarray, "*clients items"]
    user_factors: Float[np.ndarray, "*clients factors"]
    is_consistent: Bool[np.ndarray, "*clients"]


@jax.jit
def _factorize(
    uploads: Float[Array, "clients items factors"],
) -> tuple[Float[Array, "clients factors"], Float[Array, "clients items"]]:
    """Split rank-one uploads into their direction v, up to its sign, and g = F v."""

    def split(upload: Array) -> tuple[Array, Array]:
        largest = upload[jnp.argmax(jnp.sum(upload**2, axis=1))]
        direction = _unit(largest)
        projected = jnp.matmul(upload, direction, precision="highest")
        direction = _unit(jnp.matmul(upload.T, projected, precision="highest"))  # averages the rounding
        return direction, jnp.matmul(upload, direction, precision="highest")

    return jax.vmap(split)(uploads)


def _unit(vector: Array) -> Array:
    norm = jnp.linalg.norm(vector)
    return jnp.where(norm > 0, vector / jnp.where(norm > 0, norm, 1.0), 0.0)


def attack_dense(
    public: Public, uploads: Float[Array | np.ndarray, "clients items factors"], *, quantum: float = 0.0
) -> Recovered:
    """Recover histories from dense uploads; memory limits the number of clients per call.

    Args:
        public: the server's knowledge.
        uploads: F of each client.
        quantum: unit of the fixed point that the numbers are rounded to; 0: float32.
    """
    directions, projected = (np.asarray(part, np.float64) for part in _factorize(uploads))
    rows = [_attack_one(public, v, g, quantum) for v, g in zip(directions, projected, strict=True)]
    return Recovered(*(np.stack(column) for column in zip(*rows, strict=True)))


def attack_rank_one(
    public: Public,
    residuals: Float[Array | np.ndarray, "clients items"],
    user_factors: Float[Array | np.ndarray, "clients factors"],
) -> Recovered:
    """Recover histories from uploads (e, x), which contain the factor as it is."""
    residuals, factors = np.asarray(residuals, np.float64), np.asarray(user_factors, np.float64)
    rows = [_explain(public, e, x) for e, x in zip(residuals, factors, strict=True)]
    return Recovered(*(np.stack(column) for column in zip(*rows, strict=True)))


def _attack_one(
    public: Public,
    direction: Float[np.ndarray, "factors"],
    projected: Float[np.ndarray, "items"],
    quantum: float,
) -> Recovered:
    """Try each estimate of beta^2; prefer a history that solves to the factor, then the smaller history."""
    if not projected.any():
        return _explain(public, projected, np.zeros_like(direction))
    along = public.item_factors @ direction
    candidates = [
        _explain_up_to_sign(public, direction, projected, np.sqrt(squared), quantum)
        for squared in _squared_lengths(public, direction, projected, along)
        if squared > 0
    ]
    if not candidates:
        return _explain(public, np.zeros_like(projected), np.zeros_like(direction))
    return min(candidates, key=lambda found: (not found.is_consistent, found.is_held.sum()))


def _squared_lengths(
    public: Public,
    direction: Float[np.ndarray, "factors"],
    projected: Float[np.ndarray, "items"],
    along: Float[np.ndarray, "items"],
) -> list[float]:
    """Estimate beta^2 from the items off the history, and from the normal equations Y^T e = lambda x."""
    normal = float(direction @ (public.item_factors.T @ projected))
    estimates = [normal / public.regularization] if public.regularization > 0 else []
    w0 = public.unobserved_weight
    if w0 == 0:
        return estimates
    scores = w0 * along
    largest = np.argsort(-np.abs(scores))[: max(len(scores) // 2, 1)]
    largest = largest[np.abs(scores[largest]) > 0]
    if len(largest):
        estimates = [float(np.median(-projected[largest] / scores[largest])), *estimates]
    return [_refined(projected, scores, start) for start in estimates]


def _refined(
    projected: Float[np.ndarray, "items"], scores: Float[np.ndarray, "items"], squared: float
) -> float:
    """Refit beta^2, repeatedly, to the quarter of the items that it explains best."""
    for _ in range(4):
        misfit = np.abs(projected + squared * scores) / (np.abs(scores) + 1e-300)
        best = np.argsort(misfit)[: max(len(scores) // 4, 1)]
        weight = np.sum(scores[best] ** 2)
        squared = float(-np.sum(projected[best] * scores[best]) / weight) if weight > 0 else squared
    return squared


def _explain_up_to_sign(
    public: Public,
    direction: Float[np.ndarray, "factors"],
    projected: Float[np.ndarray, "items"],
    length: float,
    quantum: float,
) -> Recovered:
    """Read the history with either sign of the direction, and return the more likely one."""
    rounding = _ROUNDING + _QUANTA * quantum / length
    both = [
        _explain(public, sign * projected / length, sign * length * direction, rounding)
        for sign in (1.0, -1.0)
    ]
    return min(both, key=lambda found: (not found.is_consistent, _unlikeliness(public, found)))


def _unlikeliness(public: Public, found: Recovered) -> float:
    """Score a sign: deviations of implicit feedback are positive, ratings are whole or half numbers."""
    if public.alpha is not None:
        return -float(np.sum(found.deviations))
    doubled = 2 * found.strengths[found.is_held]
    return float(np.abs(doubled - np.round(doubled)).sum())


def _explain(
    public: Public,
    residuals: Float[np.ndarray, "items"],
    user_factor: Float[np.ndarray, "factors"],
    rounding: float = _ROUNDING,
) -> Recovered:
    """Read the history from e and x, and check that it solves to x."""
    scores = public.item_factors @ user_factor
    deviations = residuals + public.unobserved_weight * scores
    is_held = np.abs(deviations) > rounding
    (item_ids,) = np.nonzero(is_held)
    strengths = np.full(len(scores), np.nan)
    strengths[item_ids] = strengths_from_residuals(public, residuals[item_ids], scores[item_ids])
    usable = np.where(np.isfinite(strengths[item_ids]), strengths[item_ids], 0.0)
    try:
        solved = solve_user(public, item_ids, usable)
    except np.linalg.LinAlgError:
        solved = np.full_like(user_factor, np.inf)
    error = np.linalg.norm(solved - user_factor)
    is_consistent = np.array(error <= _MATCH * np.linalg.norm(user_factor))
    return Recovered(is_held, strengths, deviations, user_factor, is_consistent)
