"""What is refused, and in which words, before it can become an `Interactions`."""

import numpy as np
import numpy.typing as npt

MAX_IDS = 2**31 - 1  # ids are int32 on the device
MAX_INTERACTIONS = 2**31 - 1  # so are positions in the packed arrays
_MAX_EXACT_FLOAT = 2**53  # beyond this, two different whole ids may be the same float64
_REMEDY = "use Interactions.from_arrays"


def check_num_interactions(num_interactions: int) -> None:
    """Refuse, before anything is copied, what 32-bit positions cannot address."""
    if num_interactions > MAX_INTERACTIONS:
        gibibytes = 8 * num_interactions / 2**30  # int32 item id + float32 strength
        raise ValueError(
            f"expected at most {MAX_INTERACTIONS} interactions, got {num_interactions} "
            f"({gibibytes:.1f} GiB); select fewer users or split the data set"
        )


def checked_ids(ids: npt.ArrayLike, num_ids: int | None, *, kind: str) -> npt.NDArray[np.int64]:
    """Return ids as int64, exactly as given, or refuse them.

    Args:
        ids: Whole numbers in [0, num_ids); floats only if every one of them is whole and below 2**53.
        num_ids: Number of users or items; None means that the largest id decides.
        kind: "user" or "item", for the message.

    Raises:
        ValueError: Naming the first bad id and its position.
    """
    if num_ids is not None and not 0 <= num_ids <= MAX_IDS:
        raise ValueError(f"expected num_{kind}s in [0, {MAX_IDS}], got {num_ids}; ids are 32-bit integers")
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(
            f"expected one {kind} id per row, got an array of shape {array.shape}; pass a 1-D array"
        )
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"expected whole {kind} ids, got dtype {array.dtype}; map labels with Interactions.from_labels"
        )
    limit = MAX_IDS if num_ids is None else num_ids
    # Compared in the dtype they came in: a cast first would turn 2**32 + 5 into 5.
    _refuse_first(~((array >= 0) & (array < limit)), array, f"expected {kind} ids in [0, {limit})", kind)
    if array.dtype.kind == "f":
        whole = (array == np.floor(array)) & (array < _MAX_EXACT_FLOAT)
        _refuse_first(~whole, array, f"expected whole {kind} ids", kind)
    return array.astype(np.int64)


def _refuse_first(bad: npt.NDArray[np.bool_], array: np.ndarray, expected: str, kind: str) -> None:
    if bad.any():
        position = int(bad.argmax())
        raise ValueError(
            f"{expected}, got {array[position]} at position {position}; "
            f"correct it, raise num_{kind}s, or map labels with Interactions.from_labels"
        )


def checked_strengths(strengths: npt.ArrayLike | None, num_rows: int) -> npt.NDArray[np.float32]:
    """Return strengths as float32, one for each row; None means 1.0 each.

    Raises:
        ValueError: For a NaN, an infinity or a number beyond float32, naming its position; for a wrong
            length.
    """
    if strengths is None:
        return np.ones(num_rows, np.float32)
    given = np.asarray(strengths)
    if given.shape != (num_rows,) or given.dtype.kind not in "biuf":
        raise ValueError(
            f"expected {num_rows} numeric strengths, one per row, got shape {given.shape} of {given.dtype}; "
            "pass as many strengths as user ids"
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the next line refuses
        array = given.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        position = int(finite.argmin())
        raise ValueError(
            f"expected finite strengths, got {given[position]} at position {position}; correct or drop it"
        )
    return array


def checked_timestamps(timestamps: npt.ArrayLike | None, num_rows: int) -> npt.NDArray[np.int64] | None:
    """Return timestamps (whole seconds) as int64, one for each row, or None."""
    if timestamps is None:
        return None
    array = np.asarray(timestamps)
    if array.shape != (num_rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"expected {num_rows} integer timestamps in seconds, got shape {array.shape} of {array.dtype}; "
            "convert them to whole seconds"
        )
    return array.astype(np.int64)


def checked_labels(labels: npt.ArrayLike | None, num_labels: int, *, kind: str) -> np.ndarray | None:
    """Return labels as an integer or unicode array (savable without pickle), or None for 0..n-1."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        array = array.astype(np.str_)
    if array.shape != (num_labels,) or (array.dtype.kind not in "iuU" and num_labels):
        raise ValueError(
            f"expected {num_labels} {kind} labels, integers or strings, got {array.dtype} {array.shape}; "
            f"pass one label for each {kind}"
        )
    return array


def check_csr(
    indptr: np.ndarray,
    item_ids: np.ndarray,
    strengths: np.ndarray,
    timestamps: np.ndarray | None,
    *,
    num_items: int,
) -> None:
    """Refuse anything but finished rows: exact dtypes and lengths, ascending item ids in range."""
    _check_array("indptr", indptr, np.int64, None)
    _check_array("item_ids", item_ids, np.int32, None)
    _check_array("strengths", strengths, np.float32, item_ids.size)
    if timestamps is not None:
        _check_array("timestamps", timestamps, np.int64, item_ids.size)
    if indptr.size == 0 or indptr[0] != 0 or indptr[-1] != item_ids.size or (np.diff(indptr) < 0).any():
        raise ValueError(f"expected indptr to rise from 0 to {item_ids.size}, got {indptr}; {_REMEDY}")
    in_range = item_ids.size == 0 or (item_ids.min() >= 0 and item_ids.max() < num_items)
    if not (in_range and _ascending(indptr, item_ids) and np.isfinite(strengths).all()):
        raise ValueError(
            f"expected item ids ascending within each user, in [0, {num_items}), and finite strengths; "
            f"{_REMEDY}"
        )


def _check_array(name: str, array: np.ndarray, dtype: type, length: int | None) -> None:
    if array.dtype != dtype or array.ndim != 1 or length not in (None, array.size):
        raise ValueError(
            f"expected {name} as 1-D {np.dtype(dtype)}, as long as item_ids, "
            f"got {array.dtype} {array.shape}; {_REMEDY}"
        )


def _ascending(indptr: np.ndarray, item_ids: np.ndarray) -> bool:
    rising = item_ids[1:] > item_ids[:-1]
    starts = indptr[(indptr > 0) & (indptr < item_ids.size)]
    rising[starts - 1] = True  # a new user may start again at any item
    return bool(rising.all())
