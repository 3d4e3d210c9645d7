r"""Attacks on a sum of uploads: which items anybody touched, and which of them belong to one client.

    f_i = -w0 A y_i + \sum_{u: i in I_u} d_ui x_u,    A = \sum_u x_u x_u^T,    d = c p - (c - w0) s

The second part, the residual, is 0 for an untouched item. A is fitted from the items that nobody touched,
or known where the server step asks for it. The residual of an item that one client alone touched points
along its factor: parallel residuals belong to one client, under a pseudonym. Such directions, once known,
explain items that several clients touched as sparse sums of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from fcf_jax.privacy.attacks.knowledge import Public

_STEPS = 80
_ROUNDING = 1e-5  # float32, relative to the terms of a sum
_PARALLEL = 1e-8  # 1 - cos^2, of an angle of 1e-4: float32 leaves about 1e-6
_MISFIT = 1e-3  # relative, of a mixed residual that is explained
_WEAKEST = 1e-3  # of the largest part of a mixed residual


class Links(NamedTuple):
    """Items linked to pseudonymous clients.

    Attributes:
        directions: unit vectors along the clients' factors.
        claims: which items belong to which pseudonym.
    """

    directions: Float[np.ndarray, "pseudonyms factors"]
    claims: Bool[np.ndarray, "pseudonyms items"]


class LinkScore(NamedTuple):
    """Correctness of links, per client.

    Attributes:
        correct: interactions linked correctly.
        held: interactions of the client.
        claimed: interactions linked to the client.
        cosine: between the direction found and the client's factor; 0 if none was found.
        claims: which items were linked to the client.
    """

    correct: Integer[np.ndarray, "clients"]
    held: Integer[np.ndarray, "clients"]
    claimed: Integer[np.ndarray, "clients"]
    cosine: Float[np.ndarray, "clients"]
    claims: Bool[np.ndarray, "clients items"]


def fit_user_gram(
    public: Public, upload: Float[np.ndarray, "items factors"]
) -> Float[np.ndarray, "factors factors"]:
    """Fit A to the sum F by reweighted least squares, which approaches the least L1 norm of the residuals."""
    rows = public.unobserved_weight * public.item_factors
    if public.unobserved_weight == 0:  # untouched items are 0 and reveal nothing of A
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


def _symmetric_fit(
    rows: Float[np.ndarray, "items factors"],
    upload: Float[np.ndarray, "items factors"],
    weights: Float[np.ndarray, "items"],
) -> Float[np.ndarray, "factors factors"]:
    """Minimise the weighted |F + Y A|^2 over symmetric A: G A + A G = -(B + B^T)."""
    weighted = rows * weights[:, None]
    eigenvalues, basis = np.linalg.eigh(weighted.T @ rows)
    product = weighted.T @ upload
    rotated = basis.T @ (product + product.T) @ basis
    sums = np.maximum(eigenvalues, 0)[:, None] + np.maximum(eigenvalues, 0)[None, :]
    return -basis @ (rotated / np.maximum(sums, 1e-14 * max(sums.max(), 1e-300))) @ basis.T


def touched_parts(
    public: Public,
    upload: Float[np.ndarray, "items factors"],
    user_gram: Float[np.ndarray, "factors factors"],
    *,
    noise: float = 0.0,
) -> tuple[Float[np.ndarray, "items factors"], Bool[np.ndarray, "items"]]:
    """Compute each item's residual, and whether it exceeds rounding and noise.

    Args:
        public: the server's knowledge.
        upload: F, the sum.
        user_gram: A, known or fitted.
        noise: standard deviation of the noise on each number of F.

    Returns:
        The residuals, and whether anybody touched the item.
    """
    untouched = -public.unobserved_weight * public.item_factors @ np.asarray(user_gram, np.float64)
    upload = np.asarray(upload, np.float64)
    residuals = upload - untouched
    size = np.linalg.norm(upload, axis=1) + np.linalg.norm(untouched, axis=1)
    floor = _ROUNDING * size + 4 * noise * np.sqrt(upload.shape[1])
    return residuals, np.linalg.norm(residuals, axis=1) > floor


def link_parallel(
    residuals: Float[np.ndarray, "items factors"], is_touched: Bool[np.ndarray, "items"]
) -> Links:
    """Group touched items by the direction of their residuals; a pseudonym has at least two."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    num_items = len(residuals)
    (touched,) = np.nonzero(is_touched)
    if not len(touched):
        return Links(np.zeros((0, residuals.shape[1])), np.zeros((0, num_items), bool))
    units = residuals[touched] / np.linalg.norm(residuals[touched], axis=1, keepdims=True)
    squared_sines = 1.0 - (units @ units.T) ** 2
    _, labels = connected_components(csr_array(squared_sines < _PARALLEL), directed=False)
    groups = [touched[labels == label] for label in np.flatnonzero(np.bincount(labels) > 1)]
    claims = np.zeros((len(groups), num_items), bool)
    directions = np.zeros((len(groups), residuals.shape[1]))
    for group, items in enumerate(groups):
        claims[group, items] = True
        strongest = residuals[items[np.argmax(np.linalg.norm(residuals[items], axis=1))]]
        directions[group] = strongest / np.linalg.norm(strongest)
    return Links(directions, claims)


def take_apart(
    links: Links, residuals: Float[np.ndarray, "items factors"], is_touched: Bool[np.ndarray, "items"]
) -> Links:
    """Explain touched items that are not linked yet as sparse sums of the known directions."""
    from scipy.optimize import nnls

    if not len(links.directions):
        return links
    claims, max_parts = links.claims.copy(), max(residuals.shape[1] // 2, 1)
    for item in np.flatnonzero(is_touched & ~links.claims.any(axis=0)):
        target = residuals[item] / np.linalg.norm(residuals[item])
        parts, misfit = nnls(links.directions.T, target)
        found = parts > _WEAKEST * parts.max(initial=0.0)
        if misfit < _MISFIT and found.sum() <= max_parts:
            claims[found, item] = True
    return Links(links.directions, claims)


def score_links(
    links: Links,
    is_held: Bool[np.ndarray, "clients items"],
    user_factors: Float[np.ndarray, "clients factors"],
) -> LinkScore:
    """Assign each pseudonym to the client whose true factor it points along, and count correct links."""
    num_clients, num_items = is_held.shape
    claimed, cosine = np.zeros((num_clients, num_items), bool), np.zeros(num_clients)
    lengths = np.linalg.norm(user_factors, axis=1, keepdims=True)
    units = user_factors / np.where(lengths > 0, lengths, 1.0)
    for direction, items in zip(links.directions, links.claims, strict=True):
        cosines = np.abs(units @ direction)
        client = int(np.argmax(cosines))
        claimed[client] |= items
        cosine[client] = max(cosine[client], cosines[client])
    correct = (claimed & is_held).sum(axis=1)
    return LinkScore(correct, is_held.sum(axis=1), claimed.sum(axis=1), cosine, claimed)
