"""Linking: parallel residuals belong to one client, under a pseudonym; mixed ones are taken apart.

An item that one client alone touched points along its factor. Such directions, once known, explain
items that several clients touched as sparse sums of them.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from fcf_jax.privacy.attacks.knowledge import Floats

_PARALLEL = 1e-8  # 1 - cos^2, of an angle of 1e-4: float32 leaves about 1e-6
_MISFIT = 1e-3  # relative, of a mixed residual that is explained
_WEAKEST = 1e-3  # of the largest part of a mixed residual


class Links(NamedTuple):
    """What is linked to whom."""

    directions: Floats  # [pseudonyms, factors]
    claims: Floats  # bool [pseudonyms, items]


class LinkScore(NamedTuple):
    """How right links are, one entry a client."""

    correct: Floats  # [clients], interactions linked aright
    held: Floats  # [clients], interactions there are
    claimed: Floats  # [clients], interactions said to be this client's
    cosine: Floats  # [clients], of the direction found with the factor; 0: not found
    claims: Floats  # bool [clients, items], said to be this client's


def link_parallel(residuals: Floats, is_touched: Floats) -> Links:
    """Group touched items by the direction of their residual, two or more to a pseudonym."""
    num_items = len(residuals)
    (touched,) = np.nonzero(is_touched)
    if not len(touched):
        return Links(np.zeros((0, residuals.shape[1])), np.zeros((0, num_items), bool))
    units = residuals[touched] / np.linalg.norm(residuals[touched], axis=1, keepdims=True)
    apart = 1.0 - (units @ units.T) ** 2
    _, labels = connected_components(csr_array(apart < _PARALLEL), directed=False)
    groups = [touched[labels == label] for label in np.flatnonzero(np.bincount(labels) > 1)]
    claims = np.zeros((len(groups), num_items), bool)
    directions = np.zeros((len(groups), residuals.shape[1]))
    for group, items in enumerate(groups):
        claims[group, items] = True
        strongest = residuals[items[np.argmax(np.linalg.norm(residuals[items], axis=1))]]
        directions[group] = strongest / np.linalg.norm(strongest)
    return Links(directions, claims)


def take_apart(links: Links, residuals: Floats, is_touched: Floats) -> Links:
    """Explain touched items that are not linked yet as sparse sums of the directions known."""
    if not len(links.directions):
        return links
    claims, most = links.claims.copy(), max(residuals.shape[1] // 2, 1)
    for item in np.flatnonzero(is_touched & ~links.claims.any(axis=0)):
        target = residuals[item] / np.linalg.norm(residuals[item])
        parts, misfit = nnls(links.directions.T, target)
        found = parts > _WEAKEST * parts.max(initial=0.0)
        if misfit < _MISFIT and found.sum() <= most:
            claims[found, item] = True
    return Links(links.directions, claims)


def score_links(links: Links, is_held: Floats, user_factors: Floats) -> LinkScore:
    """Give each pseudonym to the client whose factor it points along, and count.

    Args:
        links: as found.
        is_held: bool [clients, items], the truth.
        user_factors: [clients, factors], the truth.
    """
    num_clients, num_items = is_held.shape
    claimed, cosine = np.zeros((num_clients, num_items), bool), np.zeros(num_clients)
    lengths = np.linalg.norm(user_factors, axis=1, keepdims=True)
    units = user_factors / np.where(lengths > 0, lengths, 1.0)
    for direction, items in zip(links.directions, links.claims, strict=True):
        alike = np.abs(units @ direction)
        client = int(np.argmax(alike))
        claimed[client] |= items
        cosine[client] = max(cosine[client], alike[client])
    correct = (claimed & is_held).sum(axis=1)
    return LinkScore(correct, is_held.sum(axis=1), claimed.sum(axis=1), cosine, claimed)
