r"""One client's upload gives away its items, their strengths and its factor.

F = e x^T with x = beta v gives g = F v = beta e; and t = Y v. Off the history e = -w0 beta t, so

    deviation_i = (g_i + w0 beta^2 t_i) / beta = e_i + w0 s_i

is 0 there, and c p - (c - w0) s on the history. The right beta^2 makes most items vanish.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.privacy.attacks.knowledge import Floats, Public, solve_user, strengths_of

ROUNDING = 1e-5  # of a deviation: above what float32 leaves of a 0, below what any interaction makes
_QUANTA = 2.0  # that fixed point moves F v by at most: .3 are its standard deviation
_MATCH = 1e-3  # relative: the solved factor of a history recovered aright


class Recovered(NamedTuple):
    """What an attacker makes of uploads, one row a client."""

    is_held: Floats  # bool [clients, items]
    strengths: Floats  # [clients, items], nan off the history
    deviations: Floats  # [clients, items], the score of each item
    user_factors: Floats  # [clients, factors]
    is_consistent: Floats  # bool [clients]: solving the history gives the factor


@jax.jit
def factorize(
    uploads: Float[Array, "clients items factors"],
) -> tuple[Float[Array, "clients factors"], Float[Array, "clients items"]]:
    """Split rank-one uploads into a direction v, up to its sign, and g = F v."""

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
    """Recover histories from dense uploads; call it with as many clients as memory allows.

    Args:
        public: what the attacker knows.
        uploads: F of each client.
        quantum: what their numbers are rounded to, in fixed point; 0: float32.
    """
    directions, projected = (np.asarray(one, np.float64) for one in factorize(uploads))
    rows = [_attack_one(public, v, g, quantum) for v, g in zip(directions, projected, strict=True)]
    return Recovered(*(np.stack(column) for column in zip(*rows, strict=True)))


def attack_rank_one(public: Public, residuals: Floats | Array, user_factors: Floats | Array) -> Recovered:
    """Recover histories from uploads (e, x): there is nothing to find out about x."""
    residuals, factors = np.asarray(residuals, np.float64), np.asarray(user_factors, np.float64)
    rows = [_explain(public, e, x) for e, x in zip(residuals, factors, strict=True)]
    return Recovered(*(np.stack(column) for column in zip(*rows, strict=True)))


def _attack_one(public: Public, direction: Floats, projected: Floats, quantum: float) -> Recovered:
    """Try each estimate of beta^2; take the history that solves to the factor, or the smaller one."""
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
    return min(candidates, key=lambda one: (not one.is_consistent, one.is_held.sum()))


def _squared_lengths(public: Public, direction: Floats, projected: Floats, along: Floats) -> list[float]:
    """Estimate beta^2: by the unseen items, and by the normal equations Y^T e = lambda x."""
    normal = float(direction @ (public.item_factors.T @ projected))
    estimates = [normal / public.regularization] if public.regularization > 0 else []
    w0 = public.unobserved_weight
    if w0 == 0:
        return estimates
    scores = w0 * along
    sure = np.argsort(-np.abs(scores))[: max(len(scores) // 2, 1)]
    sure = sure[np.abs(scores[sure]) > 0]
    starts = [float(np.median(-projected[sure] / scores[sure])), *estimates] if len(sure) else estimates
    return [_refined(projected, scores, start) for start in starts]


def _refined(projected: Floats, scores: Floats, squared: float) -> float:
    """Fit beta^2 again to the quarter of the items that it explains best."""
    for _ in range(4):
        misfit = np.abs(projected + squared * scores) / (np.abs(scores) + 1e-300)
        best = np.argsort(misfit)[: max(len(scores) // 4, 1)]
        weight = np.sum(scores[best] ** 2)
        squared = float(-np.sum(projected[best] * scores[best]) / weight) if weight > 0 else squared
    return squared


def _explain_up_to_sign(
    public: Public, direction: Floats, projected: Floats, length: float, quantum: float
) -> Recovered:
    rounding = ROUNDING + _QUANTA * quantum / length
    both = [
        _explain(public, sign * projected / length, sign * length * direction, rounding)
        for sign in (1.0, -1.0)
    ]
    return min(both, key=lambda one: (not one.is_consistent, _unlikeliness(public, one)))


def _unlikeliness(public: Public, found: Recovered) -> float:
    """Compare signs: histories have positive deviations, and ratings are whole or half numbers."""
    if public.alpha is not None:
        return -float(np.sum(found.deviations))
    doubled = 2 * found.strengths[found.is_held]
    return float(np.abs(doubled - np.round(doubled)).sum())


def _explain(public: Public, residuals: Floats, user_factor: Floats, rounding: float = ROUNDING) -> Recovered:
    """Read the history off e and x, and check that it solves to x."""
    scores = public.item_factors @ user_factor
    deviations = residuals + public.unobserved_weight * scores
    is_held = np.abs(deviations) > rounding
    (item_ids,) = np.nonzero(is_held)
    strengths = np.full(len(scores), np.nan)
    strengths[item_ids] = strengths_of(public, residuals[item_ids], scores[item_ids])
    usable = np.where(np.isfinite(strengths[item_ids]), strengths[item_ids], 0.0)
    try:
        solved = solve_user(public, item_ids, usable)
    except np.linalg.LinAlgError:
        solved = np.full_like(user_factor, np.inf)
    error = np.linalg.norm(solved - user_factor)
    is_consistent = np.array(error <= _MATCH * np.linalg.norm(user_factor))
    return Recovered(is_held, strengths, deviations, user_factor, is_consistent)
