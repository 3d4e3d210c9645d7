"""Selection of users and items: by number, or by label to match two catalogues, where 7 and "7" are one."""

import dataclasses

import numpy as np
import numpy.typing as npt

from fcf_jax.data.interactions import Interactions
from fcf_jax.data.rows import first_of, indptr_of
from fcf_jax.messages import count_of


def positions_of(labels: npt.ArrayLike, among: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Find the position of each label among others, -1 for a label that is not there.

    Args:
        labels: Integers or strings.
        among: Likewise, each once.
    """
    wanted, known = (np.asarray(one).astype(np.str_) for one in (labels, among))
    if not known.size:
        return np.full(wanted.shape, -1, np.int64)
    order = np.argsort(known, kind="stable")
    places = order[np.minimum(np.searchsorted(known, wanted, sorter=order), known.size - 1)]
    return np.where(known[places] == wanted, places, -1)


def of_users(interactions: Interactions, user_ids: npt.NDArray[np.integer]) -> Interactions:
    """Return the histories of these users, in this order, over the same items.

    Args:
        interactions: Histories of all users.
        user_ids: In [0, num_users), with or without repeats.
    """
    lengths = interactions.history_lengths[user_ids]
    indptr = indptr_of(lengths)
    places = np.arange(indptr[-1]) + np.repeat(interactions.indptr[user_ids] - indptr[:-1], lengths)
    times, labels = interactions.timestamps, interactions.user_labels
    return dataclasses.replace(
        interactions,
        indptr=indptr,
        item_ids=interactions.item_ids[places],
        strengths=interactions.strengths[places],
        timestamps=None if times is None else times[places],
        user_labels=None if labels is None else labels[user_ids],
    )


def of_items(interactions: Interactions, is_kept: npt.NDArray[np.bool_]) -> Interactions:
    """Return the interactions with some of the items, which are renumbered without gaps.

    Args:
        interactions: Histories of all users.
        is_kept: Whether each item [num_items] stays in the catalogue.
    """
    kept = interactions.select(is_kept[interactions.item_ids])
    labels = np.arange(kept.num_items) if kept.item_labels is None else kept.item_labels
    return dataclasses.replace(
        kept,
        item_ids=(np.cumsum(is_kept) - 1)[kept.item_ids].astype(np.int32),
        num_items=int(is_kept.sum()),
        item_labels=labels[is_kept],
    )


def with_histories(
    interactions: Interactions, user_ids: npt.NDArray[np.integer], rows: Interactions
) -> Interactions:
    """Return the interactions with other histories for some users, who may be new; without timestamps.

    Args:
        interactions: Histories of all users.
        user_ids: At least 0, each once.
        rows: One history for each of `user_ids`, over the same items.

    Raises:
        ValueError: For a user that is given twice.
    """
    if np.unique(user_ids).size < user_ids.size:
        raise ValueError("expected each user once, got one twice; merge its histories")
    num_users, first_row = interactions.num_users, interactions.num_users + 1
    stacked = dataclasses.replace(
        interactions,
        indptr=np.concatenate(  # one empty history between both, for users that nobody mentioned
            [interactions.indptr, interactions.indptr[-1] + rows.indptr]
        ),
        item_ids=np.concatenate([interactions.item_ids, rows.item_ids]),
        strengths=np.concatenate([interactions.strengths, rows.strengths]),
        timestamps=None,
        user_labels=None,
    )
    source = np.full(max(num_users, int(user_ids.max(initial=-1)) + 1), num_users)
    source[:num_users] = np.arange(num_users)
    source[user_ids] = first_row + np.arange(rows.num_users)
    return dataclasses.replace(of_users(stacked, source), user_labels=interactions.user_labels)


def with_items(interactions: Interactions, item_labels: npt.ArrayLike) -> Interactions:
    """Return the interactions over the items of another catalogue, matched by label.

    Args:
        interactions: Without labels, its items are 0 to num_items - 1.
        item_labels: The catalogue; interactions with other items are left out.
    """
    own = np.arange(interactions.num_items) if interactions.item_labels is None else interactions.item_labels
    item_ids = positions_of(own, item_labels)[interactions.item_ids]
    kept = item_ids >= 0
    return Interactions.from_arrays(
        interactions.user_ids[kept],
        item_ids[kept],
        interactions.strengths[kept],
        num_users=interactions.num_users,
        timestamps=None if interactions.timestamps is None else interactions.timestamps[kept],
        user_labels=interactions.user_labels,
        item_labels=item_labels,
    )


def matched_factors(
    item_factors: npt.NDArray[np.floating],
    labels: npt.ArrayLike | None,
    drawn: npt.NDArray[np.floating],
    wanted: npt.ArrayLike | None,
) -> npt.NDArray[np.floating]:
    """Return item factors to start from: those of another model, and drawn ones for items that it lacks.

    Args:
        item_factors: Of the other model.
        labels: Of its items; None: matched by number.
        drawn: First item factors [items, factors] of the new model.
        wanted: Labels of its items; None: matched by number.

    Raises:
        ValueError: For another number of factors, item factors that are not finite, or no common item.
    """
    if item_factors.ndim != 2 or item_factors.shape[1] != drawn.shape[1]:
        raise ValueError(
            f"expected item factors of shape (items, {drawn.shape[1]}) to start from, got "
            f"{item_factors.shape}; set num_factors to theirs"
        )
    if not np.isfinite(item_factors).all():
        raise ValueError("expected finite item factors to start from, got NaN or inf; train them again")
    if labels is None or wanted is None:
        if item_factors.shape != drawn.shape:
            raise ValueError(
                f"expected item factors of {count_of(len(drawn), 'item')} to start from, got "
                f"{len(item_factors)}; "
                "without labels on both sides, items are matched by number"
            )
        return item_factors.astype(drawn.dtype)
    positions = positions_of(wanted, labels)
    if not (positions >= 0).any():
        examples = " and ".join(first_of(np.asarray(one)) for one in (wanted, labels))
        raise ValueError(f"expected items in common with those to start from, got {examples}; check the ids")
    return np.where(positions[:, None] >= 0, item_factors[positions], drawn).astype(drawn.dtype)
