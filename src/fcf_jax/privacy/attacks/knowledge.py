"""What every attacker knows: the shared model and the public configuration."""

from typing import NamedTuple

import numpy as np

Floats = np.ndarray


class Public(NamedTuple):
    """The server's own knowledge, before it sees anything of the clients."""

    item_factors: Floats  # [items, factors], float64: Y as it was sent to the clients
    regularization: float
    unobserved_weight: float = 1.0
    alpha: float | None = 4.0  # None: explicit ratings
    mean_rating: float = 0.0


def weigh(public: Public, strengths: Floats) -> tuple[Floats, Floats]:
    """Compute confidence and preference of strengths, as the clients do."""
    if public.alpha is None:
        return np.ones_like(strengths), strengths - public.mean_rating
    return 1.0 + public.alpha * strengths, np.ones_like(strengths)


def strengths_of(public: Public, residuals: Floats, scores: Floats) -> Floats:
    """Invert e = c (p - s): the strengths of held items; nan where alpha = 0 hides them."""
    if public.alpha is None:
        return residuals + scores + public.mean_rating
    if public.alpha == 0:
        return np.full_like(residuals, np.nan)
    room = 1.0 - scores
    room = np.where(np.abs(room) < 1e-9, 1e-9, room)
    return (residuals / room - 1.0) / public.alpha


def solve_user(public: Public, item_ids: Floats, strengths: Floats) -> Floats:
    """Solve the factor that a client with this history would have, in float64."""
    c, p = weigh(public, strengths)
    own = public.item_factors[item_ids]
    w0, num_factors = public.unobserved_weight, own.shape[1]
    matrix = w0 * public.item_factors.T @ public.item_factors + (own.T * (c - w0)) @ own
    return np.linalg.solve(matrix + public.regularization * np.eye(num_factors), own.T @ (c * p))
