"""From rows in any order to the checked, sorted and merged arrays of an `Interactions`.

A row is one (user, item, strength) observation. Nothing here depends on the order of the rows, with the one
exception that `duplicates="last"` documents: without timestamps, "last" can only mean the row that comes
last.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fcf_jax.data import checks

DuplicatePolicy = Literal["sum", "max", "last", "error"]
DUPLICATE_POLICIES: tuple[DuplicatePolicy, ...] = ("sum", "max", "last", "error")


class Rows(NamedTuple):
    """Columns of equal length; `timestamps` in seconds, or None when there are none."""

    user_ids: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int64]
    strengths: npt.NDArray[np.float32]
    timestamps: npt.NDArray[np.int64] | None


def checked_rows(
    user_ids: npt.ArrayLike,
    item_ids: npt.ArrayLike,
    strengths: npt.ArrayLike | None,
    timestamps: npt.ArrayLike | None,
    *,
    num_users: int | None,
    num_items: int | None,
) -> Rows:
    """Check columns and bring them to their dtypes, as `Interactions.from_arrays` asks of them."""
    num_rows = np.asarray(user_ids).size
    checks.check_num_interactions(num_rows)
    users = checks.checked_ids(user_ids, num_users, kind="user")
    items = checks.checked_ids(item_ids, num_items, kind="item")
    if len(items) != num_rows:
        raise ValueError(
            f"expected as many item ids as user ids, got {len(items)} and {num_rows}; pass pairs"
        )
    return Rows(
        users,
        items,
        checks.checked_strengths(strengths, num_rows),
        checks.checked_timestamps(timestamps, num_rows),
    )


def encode_labels(labels: npt.ArrayLike, *, kind: str) -> tuple[npt.NDArray[np.int64], np.ndarray]:
    """Number the distinct labels in sorted order: integers by value, strings by code point.

    Returns:
        (ids, distinct): `distinct[ids]` gives the labels back.

    Raises:
        ValueError: For a missing label or one that is neither an integer nor a string.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iuUO":
        raise ValueError(
            f"expected integer or string {kind} labels, got dtype {array.dtype}; convert them first"
        )
    values = array.astype(object) if array.dtype.kind == "U" else array
    if array.dtype.kind == "O":
        _refuse_non_strings(array, kind)
    codes, distinct = pd.factorize(values)
    distinct = distinct.astype(np.str_) if distinct.dtype.kind == "O" else np.asarray(distinct)
    order = np.argsort(distinct, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], distinct[order]


def _refuse_non_strings(labels: np.ndarray, kind: str) -> None:
    for position, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(
                f"expected string {kind} labels, got {label!r} at position {position}; "
                "pass an integer array, or convert every label to str"
            )


def sorted_and_merged(rows: Rows, *, num_items: int, duplicates: DuplicatePolicy) -> Rows:
    """Sort rows by (user, item) and make one row of each pair.

    Args:
        rows: Checked rows in any order.
        num_items: Number of items.
        duplicates: "sum" adds the strengths, "max" keeps the largest, "last" keeps the one with the latest
            timestamp (of equal timestamps the largest strength; without timestamps, the one that comes last
            in `rows`), "error" refuses. In every case a merged row has the latest timestamp of its pair.

    Raises:
        ValueError: For an unknown policy, or for a duplicate pair under "error".
    """
    if duplicates not in DUPLICATE_POLICIES:
        raise ValueError(
            f"expected duplicates as one of {', '.join(DUPLICATE_POLICIES)}, got {duplicates!r}; choose one"
        )
    pairs = rows.user_ids * max(num_items, 1) + rows.item_ids  # < 2**62, no overflow
    order = np.argsort(pairs, kind="stable")
    is_first = np.diff(pairs[order], prepend=-1) != 0
    if is_first.all():
        return _take(rows, order)
    if duplicates == "error":
        _refuse_duplicate(rows, order, is_first)
    if duplicates != "last" or rows.timestamps is not None:
        order = _canonical_order(rows, pairs)
    return _merge(_take(rows, order), np.flatnonzero(is_first), duplicates)


def _take(rows: Rows, order: npt.NDArray[np.int64]) -> Rows:
    timestamps = None if rows.timestamps is None else rows.timestamps[order]
    return Rows(rows.user_ids[order], rows.item_ids[order], rows.strengths[order], timestamps)


def _refuse_duplicate(rows: Rows, order: npt.NDArray[np.int64], is_first: npt.NDArray[np.bool_]) -> None:
    first, second = order[int(is_first.argmin()) - 1 :][:2]
    raise ValueError(
        f"expected each pair once, got {int((~is_first).sum())} duplicates, first in rows {first} and "
        f"{second} (0-based); "
        'set duplicates (data.duplicates) to "sum", "max" or "last"'
    )


def _canonical_order(rows: Rows, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Equal rows in an equal order: floating-point sums then do not depend on how the rows were shuffled.
    if rows.timestamps is None:
        return np.lexsort((rows.strengths, pairs))
    return np.lexsort((rows.strengths, rows.timestamps, pairs))


def _merge(rows: Rows, starts: npt.NDArray[np.int64], duplicates: DuplicatePolicy) -> Rows:
    ends = np.append(starts[1:], len(rows.user_ids)) - 1
    if duplicates == "sum":
        strengths = np.add.reduceat(rows.strengths.astype(np.float64), starts)
    elif duplicates == "max":
        strengths = np.maximum.reduceat(rows.strengths, starts)
    else:
        strengths = rows.strengths[ends]
    timestamps = None if rows.timestamps is None else np.maximum.reduceat(rows.timestamps, starts)
    return Rows(
        rows.user_ids[starts],
        rows.item_ids[starts],
        checks.checked_strengths(strengths, len(starts)),
        timestamps,
    )
