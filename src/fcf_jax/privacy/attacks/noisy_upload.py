r"""The attacker of one noisy upload Z = a e x^T + noise: project on a direction, score the items.

The client's own direction drowns early: the noise has a spectral norm of about sigma C sqrt(M). What
the factor of somebody who holds item i is expected to be lasts longer, and it has a sign.
"""

import numpy as np

from fcf_jax.privacy.attacks.knowledge import Floats, Public


def expected_factors(public: Public, shares: Floats) -> tuple[Floats, Floats]:
    """Compute the factor of a history in which item j counts p_j, and of one that surely holds item i.

    Args:
        public: what the attacker knows.
        shares: p [items], how many of the clients hold each item; public.

    Returns:
        x [factors], and x_i [items, factors], up to the strengths: those are taken as 1.
    """
    factors, w0 = public.item_factors, public.unobserved_weight
    confidence = 1.0 + (public.alpha or 0.0)
    matrix = w0 * factors.T @ factors + (factors.T * (shares * (confidence - w0))) @ factors
    matrix += max(public.regularization, 1e-9 * np.trace(matrix)) * np.eye(factors.shape[1])
    mean = np.linalg.solve(matrix, confidence * factors.T @ shares)
    return mean, mean + np.linalg.solve(matrix, confidence * factors.T).T


def scores_by_expectation(uploads: Floats, expected: Floats) -> Floats:
    """Score item i of every client by z_i x_i / |x_i|.

    Args:
        uploads: [clients, items, factors].
        expected: x_i [items, factors].
    """
    lengths = np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-300)
    return np.einsum("uik,ik->ui", uploads, expected / lengths, optimize=True)


def scores_by_own_direction(uploads: Floats, mean: Floats) -> Floats:
    """Score every item by Z v, with v the upload's leading direction, on the side of the mean factor.

    Args:
        uploads: [clients, items, factors].
        mean: x [factors].
    """
    own = np.stack([np.linalg.eigh(np.asarray(one.T @ one, np.float64))[1][:, -1] for one in uploads])
    own *= np.where(own @ mean < 0, -1.0, 1.0)[:, None]
    return np.einsum("uik,uk->ui", uploads, own, optimize=True)
