r"""What a sum of uploads still tells: A = \sum x x^T from items nobody touched, then who touched what.

f_i = -w0 A y_i + \sum_{u: i in I_u} d_ui x_u, with d = c p - (c - w0) s. The second part is 0 for an
untouched item, and along x_u for an item that u alone touched.
"""

import numpy as np

from fcf_jax.privacy.attacks.knowledge import Floats, Public

_STEPS = 80
_ROUNDING = 1e-5  # float32, relative to the terms of a sum


def fit_user_gram(public: Public, upload: Floats) -> Floats:
    """Fit the symmetric A that leaves the fewest residuals, by reweighted least squares (L1 of the rows).

    Args:
        public: what the attacker knows.
        upload: F [items, factors], the sum.
    """
    rows = public.unobserved_weight * public.item_factors
    if public.unobserved_weight == 0:  # untouched items are 0 and tell nothing of A
        return np.zeros((rows.shape[1], rows.shape[1]))
    upload = np.asarray(upload, np.float64)
    scale = float(np.median(np.linalg.norm(upload, axis=1))) + 1e-300
    weights, floor = np.ones(len(rows)), scale
    for _ in range(_STEPS):
        fitted = _symmetric_fit(rows, upload, weights)
        distances = np.linalg.norm(upload + rows @ fitted, axis=1)
        floor = max(0.7 * floor, 1e-9 * scale)
        weights = 1.0 / np.sqrt(distances**2 + floor**2)
    return _symmetric_fit(rows, upload, weights)


def _symmetric_fit(rows: Floats, upload: Floats, weights: Floats) -> Floats:
    """Minimise the weighted |F + Y A|^2 over symmetric A: G A + A G = -(B + B^T)."""
    weighted = rows * weights[:, None]
    eigenvalues, basis = np.linalg.eigh(weighted.T @ rows)
    product = weighted.T @ upload
    rotated = basis.T @ (product + product.T) @ basis
    sums = np.maximum(eigenvalues, 0)[:, None] + np.maximum(eigenvalues, 0)[None, :]
    return -basis @ (rotated / np.maximum(sums, 1e-14 * max(sums.max(), 1e-300))) @ basis.T


def touched_parts(
    public: Public, upload: Floats, user_gram: Floats, *, noise: float = 0.0
) -> tuple[Floats, Floats]:
    """Compute each item's part that is no answer to A, and whether it is above rounding and noise.

    Args:
        public: what the attacker knows.
        upload: F [items, factors].
        user_gram: A, known or fitted.
        noise: standard deviation of the noise on each number of F.

    Returns:
        Residuals [items, factors], and bool [items]: somebody touched it.
    """
    untouched = -public.unobserved_weight * public.item_factors @ np.asarray(user_gram, np.float64)
    upload = np.asarray(upload, np.float64)
    residuals = upload - untouched
    size = np.linalg.norm(upload, axis=1) + np.linalg.norm(untouched, axis=1)
    floor = _ROUNDING * size + 4 * noise * np.sqrt(upload.shape[1])
    return residuals, np.linalg.norm(residuals, axis=1) > floor
