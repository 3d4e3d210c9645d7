"""The arrays behind `Interactions`: checks, dtypes and labels.

A row is one observation: user, item, strength and perhaps a timestamp. The result does not depend on the
order of the rows, except for `duplicates="last"` without timestamps, which keeps the last row of a pair.
"""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from fcf_jax.data.labels import Labels, numbered
from fcf_jax.data.memory import check_fits_memory

DuplicatePolicy = Literal["sum", "max", "last", "error"]

_DUPLICATE_POLICIES: tuple[DuplicatePolicy, ...] = ("sum", "max", "last", "error")
_MAX_IDS = 2**31 - 1  # ids are int32 on the device
_MAX_INTERACTIONS = 2**31 - 1  # and so are positions in the packed arrays
_MAX_EXACT_FLOAT = 2**53  # from here on, distinct integers may be the same float64
_USE_FROM_ARRAYS = "use Interactions.from_arrays"


@dataclasses.dataclass
class Rows:
    """Columns of equal length.

    Attributes:
        user_ids: In [0, num_users).
        item_ids: In [0, num_items).
        strengths: Finite.
        timestamps: In seconds; None if there are none.
    """

    user_ids: npt.NDArray[np.int32]
    item_ids: npt.NDArray[np.int32]
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
    """Check columns and convert them to their dtypes.

    Args:
        user_ids: Whole numbers; floats must be whole and below 2**53.
        item_ids: Likewise.
        strengths: Finite numbers; None means 1.0 each.
        timestamps: Integers, seconds.
        num_users: Upper bound of the user ids; None means any 32-bit id.
        num_items: Likewise for the item ids.

    Raises:
        ValueError: For a bad value, with its position; for columns of different lengths; for 2**31 rows or
            more.
    """
    num_rows = np.asarray(user_ids).size
    check_num_interactions(num_rows)
    users = _checked_ids(user_ids, num_users, kind="user")
    items = _checked_ids(item_ids, num_items, kind="item")
    if len(items) != num_rows:
        raise ValueError(
            f"expected as many item ids as user ids, got {len(items)} and {num_rows}; pass pairs"
        )
    return Rows(
        users, items, checked_strengths(strengths, num_rows), _checked_timestamps(timestamps, num_rows)
    )


def check_num_interactions(num_interactions: int) -> None:
    """Raise ValueError for more interactions than 32-bit positions can address, before anything is copied."""
    if num_interactions > _MAX_INTERACTIONS:
        gibibytes = 8 * num_interactions / 2**30  # int32 item id + float32 strength
        raise ValueError(
            f"expected at most {_MAX_INTERACTIONS} interactions, got {num_interactions} "
            f"({gibibytes:.1f} GiB); select fewer users or split the data set"
        )


def _checked_ids(ids: npt.ArrayLike, num_ids: int | None, *, kind: str) -> npt.NDArray[np.int32]:
    if num_ids is not None and not 0 <= num_ids <= _MAX_IDS:
        raise ValueError(f"expected num_{kind}s in [0, {_MAX_IDS}], got {num_ids}; ids are 32-bit integers")
    check_fits_memory(24 * (num_ids or 0), f"num_{kind}s = {num_ids}", "number the ids without gaps")
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(
            f"expected one {kind} id per row, got an array of shape {array.shape}; pass a 1-D array"
        )
    if array.size == 0:
        return np.zeros(0, np.int32)
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"expected whole {kind} ids, got dtype {array.dtype}; map labels with Interactions.from_labels"
        )
    limit = _MAX_IDS if num_ids is None else num_ids
    # Compared in the given dtype: a cast first could turn 2**32 + 5 into 5.
    _refuse_first(~((array >= 0) & (array < limit)), array, f"expected {kind} ids in [0, {limit})", kind)
    if array.dtype.kind == "f":
        whole = (array == np.floor(array)) & (array < _MAX_EXACT_FLOAT)
        _refuse_first(~whole, array, f"expected whole {kind} ids", kind)
    return array.astype(np.int32, copy=False)


def _refuse_first(bad: npt.NDArray[np.bool_], array: np.ndarray, expected: str, kind: str) -> None:
    if bad.any():
        position = int(bad.argmax())
        raise ValueError(
            f"{expected}, got {array[position]} at position {position}; "
            f"correct it, raise num_{kind}s, or map labels with Interactions.from_labels"
        )


def checked_strengths(strengths: npt.ArrayLike | None, num_rows: int) -> npt.NDArray[np.float32]:
    """Return strengths as float32 [num_rows]; None means 1.0 each.

    Raises:
        ValueError: For NaN, infinity or a number beyond float32, with its position; for a wrong length.
    """
    if strengths is None:
        return np.ones(num_rows, np.float32)
    given = np.asarray(strengths)
    if given.shape != (num_rows,) or given.dtype.kind not in "biuf":
        raise ValueError(
            f"expected {num_rows} numeric strengths, one per row, got shape {given.shape} of {given.dtype}; "
            "pass as many strengths as user ids"
        )
    with np.errstate(over="ignore"):  # numbers beyond float32 become inf, refused below
        array = given.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        position = int(finite.argmin())
        raise ValueError(
            f"expected finite strengths, got {given[position]} at position {position}; correct or drop it"
        )
    return array


def _checked_timestamps(timestamps: npt.ArrayLike | None, num_rows: int) -> npt.NDArray[np.int64] | None:
    if timestamps is None:
        return None
    array = np.asarray(timestamps)
    if array.shape != (num_rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"expected {num_rows} integer timestamps in seconds, got shape {array.shape} of {array.dtype}; "
            "convert them to whole seconds"
        )
    if array.dtype == np.uint64 and bool((array >= 2**63).any()):
        position = int((array >= 2**63).argmax())
        raise ValueError(
            f"expected timestamps below 2**63, got {array[position]} at position {position}; "
            "correct or drop it"
        )
    return array.astype(np.int64, copy=False)


def checked_labels(labels: npt.ArrayLike | None, num_labels: int, *, kind: str) -> np.ndarray | None:
    """Return labels as an integer or unicode array, which can be saved without pickle; None stays None."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        array = _savable(array, kind)
    if array.shape != (num_labels,) or (array.dtype.kind not in "iuU" and num_labels):
        raise ValueError(
            f"expected {num_labels} {kind} labels, integers or strings, got {array.dtype} {array.shape}; "
            f"pass one label for each {kind}"
        )
    return array


def indptr_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each row begins, and where the last one ends, from the lengths of all rows."""
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view; the caller's own array stays writable."""
    view = array.view()
    view.flags.writeable = False
    return view


def first_of(labels: np.ndarray, count: int = 3) -> str:
    """Return the first labels as Python would print their list, with dots for the others."""
    shown = [repr(label) for label in labels[:count].tolist()]
    return f"[{', '.join([*shown, '...'] if len(labels) > count else shown)}]"


def encode_labels(labels: npt.ArrayLike | Labels, *, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct labels in sorted order: integers by value, strings by code point.

    Returns:
        (ids, distinct), such that `distinct[ids]` are the labels.

    Raises:
        ValueError: For a missing label, or one that is neither an integer nor a string.
    """
    import pandas as pd

    if isinstance(labels, Labels):
        ids, distinct = numbered(labels)
        return ids, _savable(distinct, kind)
    array = np.asarray(labels)
    if array.dtype.kind not in "iuUO":
        raise ValueError(
            f"expected integer or string {kind} labels, got dtype {array.dtype}; convert them first"
        )
    values = array.astype(object) if array.dtype.kind == "U" else array
    if array.dtype.kind == "O":
        _refuse_non_strings(array, kind)
    codes, distinct = pd.factorize(values)
    distinct = _savable(np.asarray(distinct), kind)
    order = np.argsort(distinct, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], distinct[order]


def _savable(labels: np.ndarray, kind: str) -> np.ndarray:
    """Return strings as a unicode array, whose items are as long as the longest."""
    if labels.dtype.kind != "O":
        return labels
    longest = max(map(len, labels), default=0)
    check_fits_memory(
        4 * longest * len(labels),
        f"{len(labels)} {kind} labels of up to {longest} characters",
        "shorten them",
    )
    if bad := [label for label in labels if "\0" in label]:
        raise ValueError(
            f"expected {kind} labels without null characters, got {bad[0]!r}; remove the character"
        )
    return labels.astype(np.str_)


def _refuse_non_strings(labels: np.ndarray, kind: str) -> None:
    for position, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(
                f"expected string {kind} labels, got {label!r} at position {position}; "
                "pass an integer array, or convert every label to str"
            )


def check_duplicate_policy(duplicates: str) -> None:
    """Raise ValueError unless this is a `DuplicatePolicy`."""
    if duplicates not in _DUPLICATE_POLICIES:
        raise ValueError(
            f"expected duplicates (data.duplicates) to be one of {', '.join(_DUPLICATE_POLICIES)}, "
            f"got {duplicates!r}; choose one"
        )


def check_csr(
    indptr: np.ndarray,
    item_ids: np.ndarray,
    strengths: np.ndarray,
    timestamps: np.ndarray | None,
    *,
    num_items: int,
) -> None:
    """Raise ValueError unless the arrays are a finished CSR matrix in the layout of `Interactions`.

    Args:
        indptr: int64, rising from 0 to the number of interactions.
        item_ids: int32 in [0, num_items), ascending within each user.
        strengths: float32, finite.
        timestamps: int64, or None.
        num_items: Number of items.
    """
    _check_array("indptr", indptr, np.int64, None)
    _check_array("item_ids", item_ids, np.int32, None)
    _check_array("strengths", strengths, np.float32, item_ids.size)
    if timestamps is not None:
        _check_array("timestamps", timestamps, np.int64, item_ids.size)
    if indptr.size == 0 or indptr[0] != 0 or indptr[-1] != item_ids.size or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"expected indptr to rise from 0 to {item_ids.size}, got {indptr}; {_USE_FROM_ARRAYS}"
        )
    in_range = item_ids.size == 0 or (item_ids.min() >= 0 and item_ids.max() < num_items)
    if not (in_range and _is_ascending(indptr, item_ids) and np.isfinite(strengths).all()):
        raise ValueError(
            f"expected item ids ascending within each user, in [0, {num_items}), and finite strengths; "
            f"{_USE_FROM_ARRAYS}"
        )


def _check_array(name: str, array: np.ndarray, dtype: type, length: int | None) -> None:
    if array.dtype != dtype or array.ndim != 1 or length not in (None, array.size):
        raise ValueError(
            f"expected {name} as 1-D {np.dtype(dtype)}, as long as item_ids, "
            f"got {array.dtype} {array.shape}; {_USE_FROM_ARRAYS}"
        )


def _is_ascending(indptr: np.ndarray, item_ids: np.ndarray) -> bool:
    rising = item_ids[1:] > item_ids[:-1]
    starts = indptr[(indptr > 0) & (indptr < item_ids.size)]
    rising[starts - 1] = True  # a new user may start at any item
    return bool(rising.all())
