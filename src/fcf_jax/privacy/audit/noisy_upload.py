r"""The attacker of one noisy upload Z = a e x^T + noise: project on a direction, score the items.

The client's own direction drowns early (the noise has a spectral norm of about sigma C sqrt(M)); a
direction that all clients share, the leading one of many uploads together, lasts longer.
"""

import numpy as np

from fcf_jax.privacy.audit.knowledge import Floats


def second_moment(uploads: Floats) -> Floats:
    r"""Compute \sum_u Z_u^T Z_u of uploads [clients, items, factors]."""
    return np.einsum("uik,uil->kl", uploads, uploads, optimize=True)


def leading_direction(moment: Floats) -> Floats:
    """Return the unit eigenvector of the largest eigenvalue."""
    return np.linalg.eigh(np.asarray(moment, np.float64))[1][:, -1]


def item_scores(uploads: Floats, directions: Floats, popularity: Floats) -> Floats:
    """Score every item of every client by Z v, with the sign that makes popular items likely.

    Args:
        uploads: [clients, items, factors].
        directions: [clients, factors] or, shared by all, [factors].
        popularity: [items], about how many hold each item; public.
    """
    directions = np.broadcast_to(directions, (len(uploads), uploads.shape[2]))
    scores = np.einsum("uik,uk->ui", uploads, directions, optimize=True)
    sign = np.sign(scores @ (popularity - popularity.mean()))
    return scores * np.where(sign == 0, 1.0, sign)[:, None]


def own_directions(uploads: Floats) -> Floats:
    """Return each upload's own leading direction, [clients, factors]."""
    return np.stack([leading_direction(one.T @ one) for one in uploads])
