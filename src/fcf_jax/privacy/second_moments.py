r"""Item factors from second moments: two noised sums over all clients, in place of rounds.

Where noise leaves little of a gradient, directions of taste can still be read from how items occur together.
With p, the unit vector of released item counts over a head of the catalogue, and h, a client's 0/1 history
over it,

    g = (h - (p.h) p) / |h - (p.h) p|,   |g g^T| = 1

so that S = \sum_u g g^T has sensitivity 1. V, the first eigenvectors of the noised S over a small head, then
serve to learn a larger one: with c = V^T g and g' the same as g over the larger head,

    W = \sum_u min(1, C / |c|) g' c^T,   |g' c^T| = |c|

has sensitivity C, and far fewer numbers than a matrix of second moments. The singular values of the noised W
are shrunk to what they are expected to be without noise; those that noise alone explains become 0.

The factors are [rho p, U (d / d_1)^power]. Popularity keeps a column of its own: where noise hides all else,
a model ranks by it.

References:
    Gavish & Donoho, IEEE Transactions on Information Theory 2017, "Optimal Shrinkage of Singular Values".
    Dwork, Talwar, Thakurta & Zhang, STOC 2014, "Analyze Gauss": second moments with Gaussian noise.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from fcf_jax.core.records import Key
from fcf_jax.data import Interactions
from fcf_jax.privacy.releases import released, released_symmetric

_POPULARITY = 5.0  # rho, where the first direction of taste has norm 1
_POWER = 0.6  # of singular values; below 1, weaker directions count for more, as in ALS with a large lambda
_TINY = 1e-9


class Releases(NamedTuple):
    """The two noised sums.

    Attributes:
        num_moment_items: items of the small head, at least 2.
        num_items: items of the larger head, which get factors; others get 0.
        moment_noise_multiplier: sigma of S, whose sensitivity is 1; 0: no noise, and no privacy.
        projection_noise_multiplier: sigma of W, in clip norms; likewise.
        clip_norm: C, above 0 and at most 1.
    """

    num_moment_items: int
    num_items: int
    moment_noise_multiplier: float
    projection_noise_multiplier: float
    clip_norm: float = 0.15


def second_moment_factors(
    key: Key,
    histories: Interactions,
    counts: Float[np.ndarray, "items"],
    *,
    num_factors: int,
    releases: Releases,
) -> Float[np.ndarray, "items factors"]:
    """Compute item factors from second moments of the histories, private for each user.

    Args:
        key: key of the noise.
        histories: histories of all users; strengths are not used.
        counts: item counts that were released before, perhaps with noise.
        num_factors: K, at least 2: a column of popularity, and K - 1 directions of taste.
        releases: sizes and noise of the two sums.

    Returns:
        Item factors for a model with small lambda and alpha; rows outside the larger head are 0 but for
        their popularity, and columns that noise hides are 0.

    Raises:
        ValueError: for numbers out of range.
    """
    _check(releases, num_factors=num_factors, num_items=histories.num_items)
    key_moments, key_projection = jax.random.split(key)
    order = np.argsort(-counts, kind="stable")
    small = _Head.of(histories, counts, order[: releases.num_moment_items])
    large = _Head.of(histories, counts, order[: releases.num_items])
    moments = small.moments()
    if releases.moment_noise_multiplier > 0:
        moments = released_symmetric(
            key_moments, moments, clip_norm=1.0, noise_multiplier=releases.moment_noise_multiplier
        )
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, : num_factors - 1]
    tastes = small.project(directions)
    lengths = np.linalg.norm(tastes, axis=1, keepdims=True)
    clipped = tastes * np.minimum(1.0, releases.clip_norm / np.maximum(lengths, _TINY))
    sums, noise = large.sum_with(clipped), releases.projection_noise_multiplier
    if noise > 0:
        sums = released(key_projection, sums, clip_norm=releases.clip_norm, noise_multiplier=noise)
    left, values = shrunk(sums, noise_scale=noise * releases.clip_norm)
    factors = np.zeros((histories.num_items, num_factors))
    popularity = np.maximum(counts, 0.0)
    factors[:, 0] = _POPULARITY * popularity / max(float(np.linalg.norm(popularity)), _TINY)
    if values[0] > 0:
        factors[large.item_ids, 1 : 1 + len(values)] = left * (values / values[0]) ** _POWER
    return factors.astype(np.float32)


def shrunk(
    matrix: Float[np.ndarray, "rows columns"], *, noise_scale: float
) -> tuple[Float[np.ndarray, "rows values"], Float[np.ndarray, "values"]]:
    r"""Return left singular vectors and singular values without the part that noise explains.

        y -> \sqrt{ (y^2 - b - 1)^2 - 4 b } / y   in units of noise_scale sqrt(rows), b = columns / rows

    and 0 for y up to 1 + sqrt(b).

    Args:
        matrix: signal of low rank plus independent noise; at least as many rows as columns.
        noise_scale: standard deviation of the noise of each number; 0: nothing is shrunk.

    References:
        Gavish & Donoho 2017, equation 7: the optimal shrinker for the Frobenius norm.
    """
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    unit, ratio = noise_scale * np.sqrt(matrix.shape[0]), matrix.shape[1] / matrix.shape[0]
    if unit == 0:
        return left, values
    in_units = values / unit
    inside = np.maximum((in_units**2 - ratio - 1) ** 2 - 4 * ratio, 0.0)
    is_signal = in_units > 1 + np.sqrt(ratio)
    return left, np.where(is_signal, unit * np.sqrt(inside) / np.maximum(in_units, _TINY), 0.0)


class _Head(NamedTuple):
    """Histories over a head of the catalogue, as g = weights (h - along p); nothing dense is stored.

    Attributes:
        item_ids: the items of the head.
        popularity: p, of norm 1.
        rows: h times its weight, a sparse matrix [users, items].
        along: p.h times the weight, of each user.
    """

    item_ids: Int[np.ndarray, "items"]
    popularity: Float[np.ndarray, "items"]
    rows: Any
    along: Float[np.ndarray, "users"]

    @classmethod
    def of(cls, histories: Interactions, counts: np.ndarray, item_ids: np.ndarray) -> "_Head":
        popularity = np.maximum(counts[item_ids], 0.0).astype(np.float64)
        popularity = popularity / max(float(np.linalg.norm(popularity)), _TINY)
        rows = histories.to_scipy()[:, item_ids].astype(np.float64)
        rows.data[:] = 1.0
        along = rows @ popularity
        squared = np.maximum(np.diff(rows.indptr) - along**2, 0.0)
        weights = np.where(squared > _TINY, 1 / np.sqrt(np.maximum(squared, _TINY)), 0.0)
        return cls(item_ids, popularity, rows.multiply(weights[:, None]).tocsr(), along * weights)

    @property
    def size(self) -> int:
        return len(self.item_ids)

    def project(self, directions: Float[np.ndarray, "items k"]) -> Float[np.ndarray, "users k"]:
        """Compute V^T g of every user."""
        return self.rows @ directions - self.along[:, None] * (self.popularity @ directions)

    def sum_with(self, weights: Float[np.ndarray, "users k"]) -> Float[np.ndarray, "items k"]:
        r"""Compute \sum_u g c^T."""
        return self.rows.T @ weights - self.popularity[:, None] * (self.along @ weights)

    def moments(self) -> Float[np.ndarray, "items items"]:
        r"""Compute \sum_u g g^T."""
        crossed = np.outer(self.rows.T @ self.along, self.popularity)
        both = (self.rows.T @ self.rows).toarray() - crossed - crossed.T
        return both + (self.along @ self.along) * np.outer(self.popularity, self.popularity)


def _check(releases: Releases, *, num_factors: int, num_items: int) -> None:
    sizes = releases.num_moment_items, releases.num_items
    if num_factors < 2:
        raise ValueError(f"expected num_factors of at least 2, got {num_factors}; 1 is popularity alone")
    if not num_factors <= sizes[0] <= sizes[1] <= num_items:
        raise ValueError(
            f"expected {num_factors} (num_factors) <= num_moment_items <= num_items <= {num_items} of the "
            f"catalogue, got {sizes[0]} and {sizes[1]}"
        )
    if not 0 < releases.clip_norm <= 1:
        raise ValueError(f"expected clip_norm in (0, 1], got {releases.clip_norm}")
