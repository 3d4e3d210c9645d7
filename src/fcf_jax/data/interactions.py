"""Interactions: who chose what, how strongly and when, as sparse rows, one per user."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fcf_jax.data import assemble, checks
from fcf_jax.data.assemble import DuplicatePolicy


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """The histories of all users in compressed sparse rows (CSR), user by user.

    The arrays are read-only, and the instance is valid once it exists. Build one with `from_arrays`,
    `from_labels` or `from_scipy`; the constructor itself wants the exact layout. Compare two of them by
    `fingerprint()`.

    Attributes:
        indptr: int64 [num_users + 1]; user u owns the entries indptr[u] to indptr[u + 1] of the arrays below.
        item_ids: int32 [num_interactions], ascending within a user, each item once.
        strengths: float32 [num_interactions], finite: the paper's r. Zeros and negative numbers may be meant
            (centred ratings).
        num_items: Number of items, those nobody chose included.
        timestamps: int64 [num_interactions] in seconds, or None.
        user_labels: The original user ids [num_users], integers or strings; None means 0..num_users - 1.
        item_labels: The original item ids [num_items], likewise.
    """

    indptr: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int32]
    strengths: npt.NDArray[np.float32]
    num_items: int
    timestamps: npt.NDArray[np.int64] | None = None
    user_labels: np.ndarray | None = None
    item_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        checks.check_csr(
            self.indptr, self.item_ids, self.strengths, self.timestamps, num_items=self.num_items
        )
        user_labels = checks.checked_labels(self.user_labels, self.num_users, kind="user")
        item_labels = checks.checked_labels(self.item_labels, self.num_items, kind="item")
        arrays = (self.indptr, self.item_ids, self.strengths, self.timestamps, user_labels, item_labels)
        names = ("indptr", "item_ids", "strengths", "timestamps", "user_labels", "item_labels")
        for name, array in zip(names, arrays, strict=True):
            object.__setattr__(self, name, _read_only(array))

    @classmethod
    def from_arrays(
        cls,
        user_ids: npt.ArrayLike,
        item_ids: npt.ArrayLike,
        strengths: npt.ArrayLike | None = None,
        *,
        num_users: int | None = None,
        num_items: int | None = None,
        timestamps: npt.ArrayLike | None = None,
        user_labels: npt.ArrayLike | None = None,
        item_labels: npt.ArrayLike | None = None,
        duplicates: DuplicatePolicy = "sum",
    ) -> "Interactions":
        """Build from one row per observation, in any order.

        The result does not depend on the order of the rows, except for `duplicates="last"` without
        timestamps.

        Args:
            user_ids: Whole numbers in [0, num_users).
            item_ids: Whole numbers in [0, num_items).
            strengths: Finite numbers; None means 1.0 each. Zeros are kept: see `drop_zeros`.
            num_users: Defaults to the number of labels, else to the largest id + 1.
            num_items: Likewise.
            timestamps: Integers, seconds.
            user_labels: What the user ids stand for.
            item_labels: What the item ids stand for.
            duplicates: What to do with a pair that occurs more than once: "sum", "max", "last" (latest
                timestamp, of equal ones the largest strength; without timestamps, the last row) or "error".
                The latest timestamp is kept.

        Raises:
            ValueError: Naming the first id out of range or not whole, the first strength not finite, or a
                duplicate pair; or when there are 2**31 rows or more.

        Example:
            >>> views = Interactions.from_arrays([0, 0, 1], [2, 0, 2], [3.0, 1.0, 5.0])
            >>> views.history_lengths.tolist()
            [2, 1]
        """
        num_users = _number_of(user_labels) if num_users is None else num_users
        num_items = _number_of(item_labels) if num_items is None else num_items
        rows = assemble.checked_rows(
            user_ids, item_ids, strengths, timestamps, num_users=num_users, num_items=num_items
        )
        num_users = int(rows.user_ids.max(initial=-1)) + 1 if num_users is None else num_users
        num_items = int(rows.item_ids.max(initial=-1)) + 1 if num_items is None else num_items
        rows = assemble.sorted_and_merged(rows, num_items=num_items, duplicates=duplicates)
        return cls(
            indptr=_indptr(np.bincount(rows.user_ids, minlength=num_users)),
            item_ids=rows.item_ids.astype(np.int32),
            strengths=rows.strengths,
            num_items=num_items,
            timestamps=rows.timestamps,
            user_labels=checks.checked_labels(user_labels, num_users, kind="user"),
            item_labels=checks.checked_labels(item_labels, num_items, kind="item"),
        )

    @classmethod
    def from_labels(
        cls,
        user_labels: npt.ArrayLike,
        item_labels: npt.ArrayLike,
        strengths: npt.ArrayLike | None = None,
        *,
        timestamps: npt.ArrayLike | None = None,
        duplicates: DuplicatePolicy = "sum",
    ) -> "Interactions":
        """Build from one row per observation whose users and items have any integer or string for a name.

        Distinct labels are numbered in sorted order (integers by value, strings by code point), whatever the
        order of the rows.

        Args:
            user_labels: One per row.
            item_labels: One per row.
            strengths: As in `from_arrays`.
            timestamps: As in `from_arrays`.
            duplicates: As in `from_arrays`.

        Raises:
            ValueError: As `from_arrays`; and for a label that is neither an integer nor a string.
        """
        users, distinct_users = assemble.encode_labels(user_labels, kind="user")
        items, distinct_items = assemble.encode_labels(item_labels, kind="item")
        return cls.from_arrays(
            users,
            items,
            strengths,
            timestamps=timestamps,
            user_labels=distinct_users,
            item_labels=distinct_items,
            duplicates=duplicates,
        )

    @classmethod
    def from_scipy(cls, matrix: Any) -> "Interactions":
        """Build from a SciPy sparse matrix or array [users, items]; stored zeros stay, repeats are summed."""
        if not sparse.issparse(matrix) or matrix.ndim != 2:
            raise ValueError(
                f"expected a 2-D SciPy sparse matrix, got {type(matrix).__name__}; use from_arrays"
            )
        entries = matrix.tocoo()
        num_users, num_items = entries.shape
        return cls.from_arrays(
            entries.row, entries.col, entries.data, num_users=num_users, num_items=num_items
        )

    def to_scipy(self) -> sparse.csr_array:
        """Return a float32 copy [users, items] as `scipy.sparse.csr_array`; stored zeros stay."""
        return sparse.csr_array(
            (self.strengths, self.item_ids, self.indptr), shape=(self.num_users, self.num_items), copy=True
        )

    @property
    def num_users(self) -> int:
        """Number of users, those without interactions included."""
        return len(self.indptr) - 1

    @property
    def num_interactions(self) -> int:
        """Number of stored (user, item) pairs."""
        return len(self.item_ids)

    @property
    def history_lengths(self) -> npt.NDArray[np.int64]:
        """Number of items of each user, [num_users]."""
        return np.diff(self.indptr)

    @property
    def item_counts(self) -> npt.NDArray[np.int64]:
        """Number of users of each item, [num_items]."""
        return np.bincount(self.item_ids, minlength=self.num_items)

    @property
    def user_ids(self) -> npt.NDArray[np.int32]:
        """The user of each interaction, [num_interactions]."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.history_lengths)

    def transpose(self) -> "Interactions":
        """Swap users and items: the histories of the items."""
        order = np.argsort(self.item_ids, kind="stable")  # stable: users stay ascending within an item
        return Interactions(
            indptr=_indptr(self.item_counts),
            item_ids=self.user_ids[order],
            strengths=self.strengths[order],
            num_items=self.num_users,
            timestamps=None if self.timestamps is None else self.timestamps[order],
            user_labels=self.item_labels,
            item_labels=self.user_labels,
        )

    def select(self, mask: npt.NDArray[np.bool_]) -> "Interactions":
        """Keep the interactions where mask [num_interactions] is True; all users, items and labels stay."""
        if mask.dtype != np.bool_ or mask.shape != self.item_ids.shape:
            raise ValueError(
                f"expected a bool mask of shape {self.item_ids.shape}, got {mask.dtype} {mask.shape}; "
                "pass one bool per interaction"
            )
        kept_before = np.append(0, np.cumsum(mask, dtype=np.int64))
        return dataclasses.replace(
            self,
            indptr=kept_before[self.indptr],
            item_ids=self.item_ids[mask],
            strengths=self.strengths[mask],
            timestamps=None if self.timestamps is None else self.timestamps[mask],
        )

    def drop_zeros(self) -> "Interactions":
        """Remove interactions of strength zero: for implicit data, a view that never happened.

        The number removed is the difference in `num_interactions`.
        """
        return self.select(self.strengths != 0)

    def with_strengths(self, strengths: npt.ArrayLike) -> "Interactions":
        """Replace the strengths; one for each interaction, finite."""
        return dataclasses.replace(self, strengths=checks.checked_strengths(strengths, self.num_interactions))

    def binarized(self) -> "Interactions":
        """Set every strength to 1."""
        return self.with_strengths(np.ones(self.num_interactions, np.float32))

    def log_scaled(self, *, epsilon: float = 1.0) -> "Interactions":
        """Replace each strength r by log(1 + r / epsilon), which tames play counts.

        Args:
            epsilon: > 0, in units of r: strengths well below it stay linear.

        Raises:
            ValueError: For epsilon <= 0 or a negative strength.

        References:
            Hu, Koren & Volinsky (2008), equation 6.
        """
        if not epsilon > 0:
            raise ValueError(f"expected epsilon > 0, got {epsilon}; 1.0 suits counts")
        self.refuse_negative("log scaling")
        return self.with_strengths(np.log1p(self.strengths / np.float64(epsilon)))

    def refuse_negative(self, purpose: str) -> None:
        """Raise ValueError for the first strength below 0, naming user and item; purpose: for what."""
        negative = self.strengths < 0
        if negative.any():
            position = int(negative.argmax())
            raise ValueError(
                f"expected strengths >= 0 for {purpose}, got {self.strengths[position]:g} "
                f"for {self.name_of(position)}; remove it or treat the data as explicit ratings"
            )

    def name_of(self, position: int) -> str:
        """Name the user and the item of an interaction by their labels, as messages do."""
        user = int(np.searchsorted(self.indptr, position, side="right")) - 1
        item = self.item_ids[position]
        user_label = user if self.user_labels is None else self.user_labels[user]
        item_label = item if self.item_labels is None else self.item_labels[item]
        return f"user {user_label}, item {item_label}"

    def filter_min_counts(
        self, *, min_user_interactions: int = 1, min_item_interactions: int = 1
    ) -> "Interactions":
        """Drop users and items with too few interactions, again and again until all that stay have enough.

        What stays is renumbered without gaps and keeps its original labels. The defaults drop just the empty
        users and items.

        Args:
            min_user_interactions: >= 1.
            min_item_interactions: >= 1.

        Raises:
            ValueError: For a minimum below 1.
        """
        if min(min_user_interactions, min_item_interactions) < 1:
            raise ValueError(
                f"expected minima >= 1, got {min_user_interactions} and {min_item_interactions}; 1 keeps most"
            )
        kept = self
        while True:
            users = kept.history_lengths >= min_user_interactions
            items = kept.item_counts >= min_item_interactions
            stays = users[kept.user_ids] & items[kept.item_ids]
            if stays.all():
                return _renumbered(kept, users, items)
            kept = kept.select(stays)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the content, labels included; the same on every platform."""
        digest = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                array = np.asarray(value)
                array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
                digest.update(f"{field.name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.data if array.dtype.kind != "U" else array.tobytes())
        return digest.hexdigest()


def _renumbered(
    interactions: Interactions, users: npt.NDArray[np.bool_], items: npt.NDArray[np.bool_]
) -> Interactions:
    new_item_ids = np.cumsum(items, dtype=np.int32) - 1
    user_labels, item_labels = interactions.user_labels, interactions.item_labels
    return dataclasses.replace(
        interactions,
        indptr=_indptr(interactions.history_lengths[users]),
        item_ids=new_item_ids[interactions.item_ids].astype(np.int32),
        num_items=int(items.sum()),
        user_labels=np.flatnonzero(users) if user_labels is None else user_labels[users],
        item_labels=np.flatnonzero(items) if item_labels is None else item_labels[items],
    )


def _number_of(labels: npt.ArrayLike | None) -> int | None:
    return None if labels is None else np.asarray(labels).size


def _indptr(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def _read_only(array: np.ndarray | None) -> np.ndarray | None:
    if array is None:
        return None
    view = array.view()  # the caller's own array stays writable
    view.flags.writeable = False
    return view
