"""Sorting of rows into compressed sparse rows, and the merging of duplicates.

It saves memory: a column is freed as soon as it has been replaced by its next form, and at most 32 bytes a
row are held at any time, as long as few rows are duplicates.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.rows import DuplicatePolicy, Rows, check_duplicate_policy, checked_strengths

_BLOCK_ROWS = 2**20


class Csr(NamedTuple):
    """Interactions user by user, items ascending; see `Interactions`."""

    indptr: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int32]
    strengths: npt.NDArray[np.float32]
    timestamps: npt.NDArray[np.int64] | None


def compressed(rows: Rows, *, num_users: int, num_items: int, duplicates: DuplicatePolicy) -> Csr:
    """Sort rows by (user, item) and merge the rows of each pair as `Interactions.from_arrays` describes.

    Args:
        rows: Emptied on the way.
        num_users: Above all user ids.
        num_items: Above all item ids.
        duplicates: How to merge the rows of a pair.

    Raises:
        ValueError: For an unknown policy; for a duplicate pair under "error".
    """
    check_duplicate_policy(duplicates)
    indptr, item_ids, order = _sorted_pairs(rows, num_users, num_items)
    repeats = np.flatnonzero(~_is_first(indptr, item_ids))
    groups = np.union1d(repeats - 1, repeats)  # sorted positions of all rows of duplicate pairs
    if len(repeats):
        order[groups] = _canonical(order[groups], np.isin(groups, repeats), rows, duplicates)
    strengths, rows.strengths = rows.strengths[order], np.zeros(0, np.float32)
    timestamps = None if rows.timestamps is None else rows.timestamps[order]
    rows.timestamps = None
    del order
    if not len(repeats):
        return Csr(indptr, item_ids, strengths, timestamps)
    return _merged(Csr(indptr, item_ids, strengths, timestamps), repeats, groups, duplicates)


def _sorted_pairs(
    rows: Rows, num_users: int, num_items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return where each user begins, the items of all rows in order, and their former positions.

    Empties the ids of the rows. The order within a pair is undefined.
    """
    num_rows, width = len(rows.user_ids), max(num_items, 1)
    pairs = rows.user_ids.astype(np.int64)  # < 2**62, no overflow
    pairs *= width
    pairs += rows.item_ids
    rows.user_ids = rows.item_ids = np.zeros(0, np.int32)
    num_bits = num_rows.bit_length()
    if (num_users * width) >> (63 - num_bits):
        order = np.argsort(pairs).astype(np.int32)
        pairs.sort()
    else:  # faster, and without another array of 64 bits: sort pair and position as one number
        pairs <<= num_bits
        pairs |= np.arange(num_rows, dtype=np.int32)
        pairs.sort()
        order = np.empty(num_rows, np.int32)
        np.bitwise_and(pairs, 2**num_bits - 1, out=order, casting="unsafe")
        pairs >>= num_bits
    indptr = np.searchsorted(pairs, np.arange(num_users + 1, dtype=np.int64) * width)
    item_ids = np.empty(num_rows, np.int32)
    np.remainder(pairs, width, out=item_ids, casting="unsafe")
    return indptr.astype(np.int64, copy=False), item_ids, order


def _is_first(indptr: npt.NDArray[np.int64], item_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return where a new pair begins."""
    is_first = np.ones(len(item_ids), np.bool_)
    is_first[1:] = item_ids[1:] != item_ids[:-1]
    is_first[indptr[:-1][indptr[:-1] < len(item_ids)]] = True
    return is_first


def _canonical(
    order: npt.NDArray[np.int32], is_repeat: npt.NDArray[np.bool_], rows: Rows, duplicates: DuplicatePolicy
) -> npt.NDArray[np.int32]:
    """Sort the rows within each pair; refuse them under "error"."""
    pairs = np.cumsum(~is_repeat)
    if duplicates == "error" or (duplicates == "last" and rows.timestamps is None):
        order = order[np.lexsort((order, pairs))]
        if duplicates == "error":
            raise ValueError(
                f"expected each pair once, got {int(is_repeat.sum())} duplicates, first in rows {order[0]} "
                f'and {order[1]} (0-based); set duplicates (data.duplicates) to "sum", "max" or "last"'
            )
        return order
    # By time and strength, so that floating-point sums do not depend on the order of the rows.
    times = () if rows.timestamps is None else (rows.timestamps[order],)
    return order[np.lexsort((rows.strengths[order], *times, pairs))]


def _merged(
    csr: Csr, repeats: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], duplicates: DuplicatePolicy
) -> Csr:
    keep = np.ones(len(csr.item_ids), np.bool_)
    keep[repeats] = False
    firsts = groups[keep[groups]]
    starts = np.searchsorted(groups, firsts)
    values = csr.strengths[groups]
    if duplicates == "sum":
        merged = np.add.reduceat(values.astype(np.float64), starts)
    elif duplicates == "max":
        merged = np.maximum.reduceat(values, starts)
    else:
        merged = values[np.append(starts[1:], len(values)) - 1]
    csr.strengths[firsts] = checked_strengths(merged, len(merged))  # a sum may be beyond float32
    if csr.timestamps is not None:
        csr.timestamps[firsts] = np.maximum.reduceat(csr.timestamps[groups], starts)
    timestamps = None if csr.timestamps is None else _kept(csr.timestamps, keep)
    indptr = csr.indptr - np.searchsorted(repeats, csr.indptr)
    return Csr(indptr, _kept(csr.item_ids, keep), _kept(csr.strengths, keep), timestamps)


def _kept(array: np.ndarray, keep: npt.NDArray[np.bool_]) -> np.ndarray:
    """Move the kept numbers to the front; return them without a second array, unless few are kept."""
    end = 0
    for start in range(0, len(array), _BLOCK_ROWS):
        kept = array[start : start + _BLOCK_ROWS][keep[start : start + _BLOCK_ROWS]]
        array[end : end + len(kept)] = kept
        end += len(kept)
    return array[:end] if 2 * end > len(array) else array[:end].copy()
