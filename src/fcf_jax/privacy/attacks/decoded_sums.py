r"""Attack on a sum of uploads that decodes who holds an item exactly, where all strengths are alike.

The residual of an item (`summed_uploads`) is a sum over its holders, with known numbers a and b:

    r_i = \sum_{u: i in I_u} d_ui x_u,    d_ui = a - b x_u.y_i,    a = c p,  b = c - w0

A single holder's r = d x gives x with its length: d solves d^2 - a d + b r.y = 0. Of the two roots, the right
one gives the same x for every item of that client, so candidates that recur are clients. With these, r of
another item is a sum of some of K known vectors, each taken once or not at all: nonnegative least squares,
rounded, and accepted if it explains r. Known parts are then peeled off: what is left of an item with one
unknown holder gives candidates again. The sum of confidences tells how many hold an item.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fcf_jax.privacy.attacks.knowledge import Public, weigh
from fcf_jax.privacy.attacks.summed_uploads import Links

_REACH = 4.0  # errors of a residual within which two things are the same
_LEAST_WEIGHT = 0.1  # of d, in a: scores of items that are held stay below 1.1
_SAME = 1e-3  # distance of the directions of two factors of one client
_PASSES = 8
_MOST_POINTS = 1_500_000  # candidates that are compared at a time


class Equations(NamedTuple):
    """What the residuals of a sum are made of.

    Attributes:
        residuals: r of each item.
        errors: largest error of the length of each residual.
        item_factors: Y.
        full: a.
        extra: b.
        counts: number of holders of each item; None: unknown.
    """

    residuals: Float[np.ndarray, "items factors"]
    errors: Float[np.ndarray, "items"]
    item_factors: Float[np.ndarray, "items factors"]
    full: float
    extra: float
    counts: Int[np.ndarray, "items"] | None = None

    def parts(
        self, users: Float[np.ndarray, "users factors"], item: int
    ) -> Float[np.ndarray, "users factors"]:
        """Return what each user adds to the residual of an item if it holds the item."""
        return (self.full - self.extra * users @ self.item_factors[item])[:, None] * users


def equations_of(
    public: Public,
    residuals: Float[np.ndarray, "items factors"],
    errors: Float[np.ndarray, "items"],
    *,
    strength: float = 1.0,
    counts: Int[np.ndarray, "items"] | None = None,
) -> Equations:
    """Set up the equations of a sum.

    Args:
        public: the server's knowledge.
        residuals: from `summed_uploads.touched_parts`.
        errors: largest error of the length of each residual, by rounding or fixed point.
        strength: r of all interactions.
        counts: number of holders of each item, from the sum of confidences; None: not sent.
    """
    confidence, preference = (float(one[0]) for one in weigh(public, np.array([strength])))
    extra = confidence - public.unobserved_weight
    return Equations(residuals, errors, public.item_factors, confidence * preference, extra, counts)


def decode(equations: Equations, is_touched: Bool[np.ndarray, "items"]) -> Links:
    """Find clients and the items that each of them holds.

    Args:
        equations: from `equations_of`.
        is_touched: whether anybody holds the item.

    Returns:
        A pseudonym for each client found, in the form of the other attacks on sums.
    """
    num_items = len(equations.residuals)
    (open_items,) = np.nonzero(is_touched)
    users = _recurring(equations, *_single_candidates(equations, open_items))
    claims = np.zeros((len(users), num_items), bool)
    for _ in range(_PASSES):
        is_open = is_touched & ~claims.any(axis=0)
        for item in np.flatnonzero(is_open).tolist():
            claims[_holders(equations, users, item), item] = True
        is_open &= ~claims.any(axis=0)
        found = _new_users(equations, users, np.flatnonzero(is_open))
        if not len(found):
            break
        users = np.concatenate([users, found])
        claims = np.concatenate([claims, np.zeros((len(found), num_items), bool)])
    lengths = np.linalg.norm(users, axis=1, keepdims=True)
    return Links(users / np.maximum(lengths, 1e-300), claims)


def _holders(equations: Equations, users: np.ndarray, item: int) -> np.ndarray:
    """Return the users whose parts add up to the residual of an item; empty if none do."""
    from scipy.optimize import nnls

    none, num_factors = np.zeros(0, np.int64), equations.residuals.shape[1]
    count = None if equations.counts is None else int(equations.counts[item])
    most = len(users)
    if most > num_factors:  # with more holders, K equations hardly decide
        most = max(num_factors - 5, num_factors // 2, 1)
    if not len(users) or (count is not None and count > most):
        return none
    parts, target = equations.parts(users, item), equations.residuals[item]
    matrix = parts.T
    if count is not None:
        weight = np.linalg.norm(parts, axis=1).mean()
        matrix, target = np.vstack([matrix, np.full(len(users), weight)]), np.r_[target, weight * count]
    try:
        shares, _ = nnls(matrix, target)
    except RuntimeError:  # too many iterations
        return none
    chosen = np.argsort(-shares)[:count] if count is not None else np.flatnonzero(shares > 0.5)
    left = np.linalg.norm(parts[chosen].sum(axis=0) - equations.residuals[item])
    fits = len(chosen) <= most and left <= _REACH * equations.errors[item]
    return chosen if fits else none


def _candidates(
    equations: Equations, rests: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the factors of which what is left of items may be made, their items and their errors."""
    along = np.einsum("nk,nk->n", rests, equations.item_factors[items])
    square = equations.full**2 - 4 * equations.extra * along
    root = np.sqrt(np.maximum(square, 0.0))
    points, places, errors = [], [], []
    for weight in (0.5 * (equations.full + root), 0.5 * (equations.full - root)):
        reach = _REACH * equations.errors[items] / np.maximum(np.abs(weight), 1e-300)
        lengths = np.linalg.norm(rests, axis=1) / np.maximum(np.abs(weight), 1e-300)
        is_root = (square >= 0) & (np.abs(weight) > _LEAST_WEIGHT * abs(equations.full))
        is_good = is_root & (lengths > 20 * reach)
        points.append(rests[is_good] / weight[is_good, None])
        places.append(items[is_good])
        errors.append(reach[is_good])
    return np.concatenate(points), np.concatenate(places), np.concatenate(errors)


def _single_candidates(equations: Equations, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return candidates of items as if each had one holder."""
    if equations.counts is not None:
        items = items[equations.counts[items] == 1]
    return _candidates(equations, equations.residuals[items], items)


def _recurring(equations: Equations, points: np.ndarray, items: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the candidates that recur in another item, one for each group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    nothing = np.zeros((0, points.shape[1]))
    if len(points) < 2:
        return nothing
    reach = 2 * np.quantile(errors, 0.9)
    is_crowded = _share_cells(points, reach)
    points, items, errors = points[is_crowded], items[is_crowded], errors[is_crowded]
    pairs = KDTree(points).query_pairs(reach, output_type="ndarray")
    first, second = pairs.T
    near = np.linalg.norm(points[first] - points[second], axis=1) <= errors[first] + errors[second]
    pairs = pairs[near & (items[first] != items[second])]
    if not len(pairs):
        return nothing
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(points),) * 2)
    _, labels = connected_components(graph, directed=False)
    grouped = [np.flatnonzero(labels == label) for label in np.unique(labels[pairs[:, 0]])]
    grouped.sort(key=len, reverse=True)  # wrong roots recur too, along the same factor, but less often
    found = np.stack([np.average(points[one], axis=0, weights=1 / errors[one] ** 2) for one in grouped])
    return found[_is_new(found, found, itself=True)]


def _is_new(found: np.ndarray, known: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """Return which factors are not along those known, or along those before them."""
    first, second = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (found, known))
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    if itself:
        distances[np.triu_indices(len(found))] = np.inf
    return distances.min(axis=1, initial=np.inf) > _SAME


def _share_cells(points: np.ndarray, reach: float) -> np.ndarray:
    """Return which points share a cell of a coarse grid, seen along three directions; few by chance."""
    directions = np.random.default_rng(0).normal(size=(points.shape[1], 3)) / np.sqrt(points.shape[1])
    along = points @ directions
    shared = np.zeros(len(points), bool)
    for shift in (0.0, 0.5):  # near points are in one cell of one of the grids
        cells = np.floor(along / (8 * reach) + shift).astype(np.int64)
        keys = (cells * np.array([1, 1_000_003, 998_244_353_000_001])).sum(axis=1)
        _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
        shared |= counts[places] > 1
    return shared


def _new_users(equations: Equations, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Peel one or two known users off items with one more holder; return the candidates that then recur."""
    points = [_single_candidates(equations, items)]
    for known in (1, 2):
        points += _peeled(equations, users, items, known)
        found = _recurring(equations, *(np.concatenate(column) for column in zip(*points, strict=True)))
        found = found[_is_new(found, users)]
        if len(found):
            break
    return found


def _peeled(equations: Equations, users: np.ndarray, items: np.ndarray, known: int) -> list:
    """Return candidates of what is left of items with one holder more than `known`."""
    if equations.counts is None or len(users) < known:
        return []
    chosen = (
        np.stack(np.triu_indices(len(users), 1), axis=1) if known == 2 else np.arange(len(users))[:, None]
    )
    items = items[equations.counts[items] == known + 1][: _MOST_POINTS // len(chosen)]
    points = []
    for item in items.tolist():
        parts = equations.parts(users, item)
        rests = equations.residuals[item] - parts[chosen].sum(axis=1)
        points.append(_candidates(equations, rests, np.full(len(chosen), item)))
    return points
