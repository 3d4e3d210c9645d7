r"""The attacker of one noisy upload Z = a e x^T + noise: project on a direction, score the items.

The client's own direction drowns early (the noise has a spectral norm of about sigma C sqrt(M)); a
direction that all clients share, about that along which the item factors are longest, lasts longer.
"""

import numpy as np

from fcf_jax.privacy.audit.knowledge import Floats


def leading_direction(moment: Floats) -> Floats:
    """Return the unit eigenvector of the largest eigenvalue."""
    return np.linalg.eigh(np.asarray(moment, np.float64))[1][:, -1]


def item_scores(uploads: Floats, directions: Floats, popularity: Floats | None) -> Floats:
    """Score every item of every client by Z v, with the likelier sign.

    Args:
        uploads: [clients, items, factors].
        directions: [clients, factors] or, shared by all, [factors].
        popularity: [items], about how many hold each item, public: the sign makes popular items
            likely. None: the sign makes few items stand out, which works once noise is low.
    """
    directions = np.broadcast_to(directions, (len(uploads), uploads.shape[2]))
    scores = np.einsum("uik,uk->ui", uploads, directions, optimize=True)
    evidence = (scores**3).sum(axis=1) if popularity is None else scores @ (popularity - popularity.mean())
    return scores * np.where(evidence < 0, -1.0, 1.0)[:, None]


def own_directions(uploads: Floats) -> Floats:
    """Return each upload's own leading direction, [clients, factors]."""
    return np.stack([leading_direction(one.T @ one) for one in uploads])
