"""Simulated interactions: the paper's random views, and views by users with tastes, at any size.

Neither resembles real users: `simulate_uniform` has no structure to learn, `simulate_taste` only what its
parameters put in.
"""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.interactions import Interactions
from fcf_jax.data.memory import check_fits_memory
from fcf_jax.data.rows import check_num_interactions

_BLOCK_INTERACTIONS = 2_000_000  # per block of users, to bound the memory
_MAX_DRAWS = 30  # attempts to replace items that were drawn twice
_BROWSING = 0.05  # share of choices by popularity alone
_USER_FOCUS = 0.1  # Dirichlet concentration: most users like one or two genres
_ITEM_FOCUS = 0.05  # likewise: most items belong to one genre, some to two
_LENGTH_SPREAD = 1.0  # sigma of the log-normal history lengths
_REPEAT = 0.5  # probability of another view after each view


def simulate_uniform(*, num_users: int, num_items: int, sparsity: float = 0.8, seed: int) -> Interactions:
    """Draw views uniformly at random, like the paper's simulated data.

    Chooses round((1 - sparsity) * num_users * num_items) pairs without replacement, such that every user and
    every item has at least one. Strengths are view counts >= 1, geometric with mean 2.

    Args:
        num_users: >= 1.
        num_items: >= 1.
        sparsity: Share of pairs without a view, in [0, 1).
        seed: >= 0; the same seed gives the identical result.

    Raises:
        ValueError: For numbers out of range, or fewer views than users or items.
    """
    _check_counts(num_users, num_items)
    if not 0 <= sparsity < 1:
        raise ValueError(f"expected sparsity in [0, 1), got {sparsity}; the paper uses 0.8")
    num_pairs = num_users * num_items
    num_views = round((1 - sparsity) * num_pairs)
    is_shuffled = 50 * num_views > num_pairs  # by NumPy, which then holds a number for each pair
    _check_memory(num_users, num_items, num_views, bytes_a_pair=8 * is_shuffled)
    if num_views < max(num_users, num_items):
        raise ValueError(
            f"expected at least {max(num_users, num_items)} views, one for every user and item, "
            f"got {num_views}; lower the sparsity"
        )
    rng = np.random.default_rng(seed)
    cover = _cover(rng, num_users, num_items)
    others = rng.choice(num_pairs, num_views, replace=False)
    others = others[~np.isin(others, cover)][: num_views - len(cover)]
    users, items = np.divmod(np.concatenate([cover, others]), num_items)
    views = _view_counts(rng, num_views)
    return Interactions.from_arrays(users, items, views, num_users=num_users, num_items=num_items)


def simulate_taste(
    *,
    num_users: int,
    num_items: int,
    mean_history: float,
    num_factors: int = 8,
    popularity_exponent: float = 0.7,
    seed: int,
) -> Interactions:
    """Draw views of users with tastes: low rank, with long tails of popularity and history length.

    Users and items belong to several genres each, with Dirichlet weights. A user chooses a genre by taste,
    then one of its items by popularity, without replacement; one choice in twenty is by popularity alone. The
    probability of (user, item) therefore has rank num_factors + 1. Every user and every item has at least one
    interaction. Strengths are view counts >= 1, geometric with mean 2. A million users with 50 items each
    take about 1 GB.

    Args:
        num_users: >= 1.
        num_items: >= 1.
        mean_history: Approximate mean number of items per user, in [1, num_items / 2], or 1 for a single
            item. Histories are at most half of the items, and shorter if a taste has too few items.
        num_factors: Number of genres, >= 1.
        popularity_exponent: >= 0; popularity is rank ** -popularity_exponent, so 0 makes all items equal.
        seed: >= 0; the same seed gives the identical result.

    Raises:
        ValueError: For numbers out of range, or fewer interactions than items.
    """
    _check_counts(num_users, num_items)
    longest = max(1, num_items // 2)
    if not 1 <= mean_history <= longest:
        raise ValueError(
            f"expected mean_history in [1, {longest}], half of the items, got {mean_history}; change it"
        )
    if num_factors < 1 or not popularity_exponent >= 0:
        raise ValueError(
            f"expected num_factors >= 1 and popularity_exponent >= 0, got {num_factors} "
            f"and {popularity_exponent}; raise them"
        )
    _check_memory(num_users, num_items, int(num_users * mean_history), bytes_a_genre=16 * (num_factors + 1))
    rng = np.random.default_rng(seed)
    lengths = _history_lengths(rng, num_users, mean_history, longest)
    if num_users * mean_history >= num_items:
        lengths = _lengthened(rng, lengths, longest, total=num_items)
    genres = _genre_thresholds(rng, num_items, num_factors, popularity_exponent)
    assigned = _first_users(rng, lengths, num_items)
    blocks = [
        _simulate_block(rng, lengths[start:stop], genres, assigned, start) for start, stop in _blocks(lengths)
    ]
    item_ids = np.concatenate([block.item_ids for block in blocks])
    return Interactions(
        indptr=np.append(0, np.cumsum(np.concatenate([block.lengths for block in blocks]), dtype=np.int64)),
        item_ids=item_ids,
        strengths=_view_counts(rng, len(item_ids)),
        num_items=num_items,
    )


class _Block(NamedTuple):
    lengths: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int32]


class _FirstUsers(NamedTuple):
    """A first user for every item, so that each has at least one; sorted by user."""

    user_ids: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int64]


def _check_counts(num_users: int, num_items: int) -> None:
    if num_users < 1 or num_items < 1:
        raise ValueError(
            f"expected num_users >= 1 and num_items >= 1, got {num_users} and {num_items}; raise them"
        )


def _check_memory(
    num_users: int, num_items: int, num_interactions: int, *, bytes_a_pair: int = 0, bytes_a_genre: int = 0
) -> None:
    """Refuse what does not fit into memory: arrays of users, items, interactions and what a method adds."""
    check_num_interactions(num_interactions)
    num_bytes = 24 * num_users + (24 + bytes_a_genre) * num_items + 40 * num_interactions
    check_fits_memory(
        num_bytes + bytes_a_pair * num_users * num_items,
        f"{num_users:,} users and {num_items:,} items",
        "lower num_users or num_items",
    )


def _cover(rng: np.random.Generator, num_users: int, num_items: int) -> npt.NDArray[np.int64]:
    """Return the fewest random pairs with every user and item, as user * num_items + item."""
    slots = np.arange(max(num_users, num_items))
    return (
        rng.permutation(num_users)[slots % num_users] * num_items
        + rng.permutation(num_items)[slots % num_items]
    )


def _view_counts(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    return rng.geometric(1 - _REPEAT, size).astype(np.float32)


def _history_lengths(
    rng: np.random.Generator, num_users: int, mean_history: float, longest: int
) -> npt.NDArray[np.int64]:
    """Draw 1 + a log-normal excess, rounded at random to keep the mean, and clip it at `longest`."""
    excess = rng.lognormal(-(_LENGTH_SPREAD**2) / 2, _LENGTH_SPREAD, num_users)  # mean 1
    lengths = 1 + np.floor((mean_history - 1) * excess + rng.random(num_users)).astype(np.int64)
    return np.minimum(lengths, longest)


def _lengthened(
    rng: np.random.Generator, lengths: npt.NDArray[np.int64], longest: int, *, total: int
) -> npt.NDArray[np.int64]:
    """Lengthen random histories until their lengths sum to at least `total`."""
    num_missing = total - int(lengths.sum())
    if num_missing <= 0:
        return lengths
    places = rng.permutation(np.repeat(np.arange(len(lengths)), longest - lengths))
    return lengths + np.bincount(places[:num_missing], minlength=len(lengths))


def _genre_thresholds(
    rng: np.random.Generator, num_items: int, num_factors: int, popularity_exponent: float
) -> npt.NDArray[np.float64]:
    """Return cumulative item probabilities of each genre [num_factors + 1, num_items].

    The last genre is popularity alone. Row g is raised by g, so that one search in the flattened array finds
    an item of a given genre.
    """
    popularity = rng.permutation(np.arange(1, num_items + 1) ** -float(popularity_exponent))
    membership = rng.dirichlet(np.full(num_factors, _ITEM_FOCUS), num_items).T + 1e-9  # no genre is empty
    weights = np.vstack([membership, np.ones(num_items)]) * popularity
    thresholds = np.cumsum(weights, axis=1)
    thresholds /= thresholds[:, -1:]
    return thresholds + np.arange(num_factors + 1)[:, np.newaxis]


def _first_users(rng: np.random.Generator, lengths: npt.NDArray[np.int64], num_items: int) -> _FirstUsers:
    """Assign every item to a random user; no user gets more items than its history length."""
    ends = np.cumsum(lengths)
    if ends[-1] < num_items:
        raise ValueError(
            f"expected at least as many interactions as items ({num_items}), got {ends[-1]}; "
            "raise mean_history or num_users"
        )
    places = np.sort(rng.choice(ends[-1], num_items, replace=False))
    return _FirstUsers(np.searchsorted(ends, places, side="right"), rng.permutation(num_items))


def _blocks(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return ranges of users with about _BLOCK_INTERACTIONS interactions each."""
    block_of_user = np.cumsum(lengths) // _BLOCK_INTERACTIONS
    bounds = np.append(np.flatnonzero(np.diff(block_of_user, prepend=-1)), len(lengths)).tolist()
    return list(itertools.pairwise(bounds))


def _simulate_block(
    rng: np.random.Generator,
    lengths: npt.NDArray[np.int64],
    genres: npt.NDArray[np.float64],
    assigned: _FirstUsers,
    first_user: int,
) -> _Block:
    """Draw the histories of the users from first_user on, sorted by user and item."""
    num_factors, num_items = len(genres) - 1, genres.shape[1]
    tastes = rng.dirichlet(np.full(num_factors, _USER_FOCUS), len(lengths))
    tastes = np.cumsum(tastes * (1 - _BROWSING), axis=1)
    low, high = np.searchsorted(assigned.user_ids, [first_user, first_user + len(lengths)])
    pairs = np.sort((assigned.user_ids[low:high] - first_user) * num_items + assigned.item_ids[low:high])
    for _ in range(_MAX_DRAWS):
        missing = lengths - np.bincount(pairs // num_items, minlength=len(lengths))
        if not missing.any():
            break
        users = np.repeat(np.arange(len(lengths)), missing)
        drawn = users * num_items + _choose_items(rng, tastes, users, genres)
        pairs = _sorted_unique(np.concatenate([pairs, drawn]))
    users, items = np.divmod(pairs, num_items)
    return _Block(np.bincount(users, minlength=len(lengths)), items.astype(np.int32))


def _choose_items(
    rng: np.random.Generator,
    tastes: npt.NDArray[np.float64],
    users: npt.NDArray[np.int64],
    genres: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Choose an item for each entry of users: a genre by taste, then an item by popularity within it."""
    num_items = genres.shape[1]
    genre = (rng.random(len(users))[:, np.newaxis] > tastes[users]).sum(axis=1)
    position = np.searchsorted(genres.ravel(), genre + rng.random(len(users)), side="right")
    return np.minimum(position - genre * num_items, num_items - 1)  # rounding may give num_items


def _sorted_unique(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    values = np.sort(values)  # np.unique took 100 times as long (NumPy 2.4)
    return values[np.diff(values, prepend=-1) != 0]
