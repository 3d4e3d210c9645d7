"""Interactions of users with items, as sparse rows: which items, how strongly and when."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fcf_jax.data import rows
from fcf_jax.data.csr import compressed
from fcf_jax.data.feedback import refuse_negative
from fcf_jax.data.formats.columns import Columns
from fcf_jax.data.labels import Labels
from fcf_jax.data.rows import DuplicatePolicy

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """The histories of all users in compressed sparse rows (CSR), user by user.

    Arrays are read-only. Build with `from_frame`, `from_arrays`, `from_labels` or `from_scipy`: the
    constructor accepts only the exact layout below. `repr` shows sizes, the range of strengths and the first
    labels. Compare two by their `fingerprint()`.

    Attributes:
        indptr: int64 [num_users + 1]; the interactions of user u are at positions indptr[u] to
            indptr[u + 1] - 1 of the arrays below.
        item_ids: int32 [num_interactions], ascending within a user, each item once.
        strengths: float32 [num_interactions], finite: the paper's r. Zeros and negative numbers are allowed
            (centred ratings).
        num_items: Number of items, including those without interactions.
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
        rows.check_csr(self.indptr, self.item_ids, self.strengths, self.timestamps, num_items=self.num_items)
        labels = {
            "user_labels": rows.checked_labels(self.user_labels, self.num_users, kind="user"),
            "item_labels": rows.checked_labels(self.item_labels, self.num_items, kind="item"),
        }
        for name, value in (vars(self) | labels).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, rows.read_only(value))

    def __repr__(self) -> str:
        sizes = ("num_users", "num_items", "num_interactions")
        parts = [f"{name}={getattr(self, name)}" for name in sizes]
        if self.num_interactions:
            parts.append(f"strengths={self.strengths.min():g}..{self.strengths.max():g}")
        for name in ("user_labels", "item_labels"):
            labels = getattr(self, name)
            parts += [] if labels is None else [f"{name}={rows.first_of(labels)}"]
        return f"Interactions({', '.join(parts)})"

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

        Args:
            user_ids: Whole numbers in [0, num_users).
            item_ids: Whole numbers in [0, num_items).
            strengths: Finite numbers; None means 1.0 each. Zeros are kept: see `drop_zeros`.
            num_users: Defaults to the number of labels, else to the largest id + 1.
            num_items: Likewise.
            timestamps: Integers, seconds.
            user_labels: The original id of each user [num_users], integers or strings.
            item_labels: The original id of each item [num_items], likewise.
            duplicates: How to merge the rows of one (user, item) pair: "sum" or "max" of the strengths;
                "last", the strength with the latest timestamp (the largest if several share it; without
                timestamps, the last row); "error" refuses them. A merged row has the latest timestamp.

        Raises:
            ValueError: For an id out of range or not whole, a strength that is not finite, or a duplicate
                pair under "error", with the first position; for 2**31 rows or more.

        Example:
            >>> views = Interactions.from_arrays([0, 0, 1], [2, 0, 2], [3.0, 1.0, 5.0])
            >>> views.history_lengths.tolist()
            [2, 1]
        """
        if num_users is None and user_labels is not None:
            num_users = np.size(user_labels)
        if num_items is None and item_labels is not None:
            num_items = np.size(item_labels)
        checked = rows.checked_rows(
            user_ids, item_ids, strengths, timestamps, num_users=num_users, num_items=num_items
        )
        num_users = int(checked.user_ids.max(initial=-1)) + 1 if num_users is None else num_users
        num_items = int(checked.item_ids.max(initial=-1)) + 1 if num_items is None else num_items
        csr = compressed(checked, num_users=num_users, num_items=num_items, duplicates=duplicates)
        return cls(
            indptr=csr.indptr,
            item_ids=csr.item_ids,
            strengths=csr.strengths,
            num_items=num_items,
            timestamps=csr.timestamps,
            user_labels=rows.checked_labels(user_labels, num_users, kind="user"),
            item_labels=rows.checked_labels(item_labels, num_items, kind="item"),
        )

    @classmethod
    def from_labels(
        cls,
        user_labels: npt.ArrayLike | Labels,
        item_labels: npt.ArrayLike | Labels,
        strengths: npt.ArrayLike | None = None,
        *,
        timestamps: npt.ArrayLike | None = None,
        duplicates: DuplicatePolicy = "sum",
    ) -> "Interactions":
        """Build from one row per observation, with integers or strings that name users and items.

        Distinct labels are numbered in sorted order: integers by value, strings by code point.

        Args:
            user_labels: One per row.
            item_labels: One per row.
            strengths, timestamps, duplicates: As in `from_arrays`.

        Raises:
            ValueError: As `from_arrays`, and for a label that is neither an integer nor a string.
        """
        users, distinct_users = rows.encode_labels(user_labels, kind="user")
        items, distinct_items = rows.encode_labels(item_labels, kind="item")
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
    def from_frame(
        cls,
        frame: "pd.DataFrame",
        *,
        user: str | int | None = None,
        item: str | int | None = None,
        strength: str | int | None = None,
        timestamp: str | int | None = None,
        duplicates: DuplicatePolicy = "sum",
    ) -> "Interactions":
        """Build from a pandas DataFrame with one row per observation.

        Args:
            frame: The table; the levels of a named index count as columns.
            user, item, strength, timestamp: Columns, as in `Columns`; None looks for a common name.
            duplicates: As in `from_arrays`.

        Raises:
            ValueError: For a column that is not found, with those that are; for a missing id or a strength
                that is not finite, with its row; as `from_labels`.

        Example:
            >>> import pandas as pd
            >>> plays = pd.DataFrame({"listener": ["ann", "bob"], "song": [7, 7], "plays": [3, 1]})
            >>> Interactions.from_frame(plays, user="listener", item="song")
            Interactions(num_users=2, num_items=1, num_interactions=2, strengths=1..3,
                         user_labels=['ann', 'bob'], item_labels=[7])
        """
        from fcf_jax.data.formats.columnar import read_frame

        columns = Columns(user, item, strength, timestamp)
        table = read_frame(frame, columns, on_bad_line="error", implicit=False)
        return cls.from_labels(
            table.users, table.items, table.strengths, timestamps=table.timestamps, duplicates=duplicates
        )

    @classmethod
    def from_scipy(cls, matrix: Any) -> "Interactions":
        """Build from a 2-D SciPy sparse matrix or array [users, items].

        Explicitly stored zeros are kept; duplicate entries are summed.
        """
        from scipy import sparse

        if not sparse.issparse(matrix) or matrix.ndim != 2:
            raise ValueError(
                f"expected a 2-D SciPy sparse matrix, got {type(matrix).__name__}; use from_arrays"
            )
        entries = matrix.tocoo()
        num_users, num_items = entries.shape
        return cls.from_arrays(
            entries.row, entries.col, entries.data, num_users=num_users, num_items=num_items
        )

    def to_scipy(self) -> "sparse.csr_array":
        """Return a float32 copy as CSR array [users, items]; zeros stay stored.

        Indices are int32, which other packages expect, unless there are 2**31 interactions or more.
        """
        from scipy import sparse

        small = np.int32 if self.num_interactions < 2**31 else np.int64
        arrays = self.strengths, self.item_ids.astype(small), self.indptr.astype(small)
        return sparse.csr_array(arrays, shape=(self.num_users, self.num_items), copy=True)

    @property
    def num_users(self) -> int:
        """Number of users, including those without interactions."""
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
        """Return the transpose: items as users, and users as items."""
        order = np.argsort(self.item_ids, kind="stable")  # stable: users stay ascending within an item
        return Interactions(
            indptr=rows.indptr_of(self.item_counts),
            item_ids=self.user_ids[order],
            strengths=self.strengths[order],
            num_items=self.num_users,
            timestamps=None if self.timestamps is None else self.timestamps[order],
            user_labels=self.item_labels,
            item_labels=self.user_labels,
        )

    def select(self, mask: npt.NDArray[np.bool_]) -> "Interactions":
        """Return the interactions where mask [num_interactions] is True, over the same users and items."""
        if mask.dtype != np.bool_ or mask.shape != self.item_ids.shape:
            raise ValueError(
                f"expected a bool mask of shape {self.item_ids.shape}, got {mask.dtype} {mask.shape}; "
                "pass one bool per interaction"
            )
        return dataclasses.replace(
            self,
            indptr=self.indptr - np.searchsorted(np.flatnonzero(~mask), self.indptr),
            item_ids=self.item_ids[mask],
            strengths=self.strengths[mask],
            timestamps=None if self.timestamps is None else self.timestamps[mask],
        )

    def drop_zeros(self) -> "Interactions":
        """Remove interactions of strength zero, which implicit feedback treats as unobserved."""
        return self if self.strengths.all() else self.select(self.strengths != 0)

    def with_strengths(self, strengths: npt.ArrayLike) -> "Interactions":
        """Replace the strengths by these finite numbers [num_interactions]."""
        return dataclasses.replace(self, strengths=rows.checked_strengths(strengths, self.num_interactions))

    def binarized(self) -> "Interactions":
        """Set every strength to 1."""
        return self.with_strengths(np.ones(self.num_interactions, np.float32))

    def log_scaled(self, *, epsilon: float = 1.0) -> "Interactions":
        """Replace each strength r by log(1 + r / epsilon), for counts with a long tail.

        Args:
            epsilon: > 0, in the units of r; strengths well below it stay nearly linear.

        Raises:
            ValueError: For epsilon <= 0 or a negative strength.

        References:
            Hu, Koren & Volinsky (2008), equation 6.
        """
        if not epsilon > 0:
            raise ValueError(f"expected epsilon > 0, got {epsilon}; 1.0 suits counts")
        refuse_negative(self, "log scaling")
        return self.with_strengths(np.log1p(self.strengths / np.float64(epsilon)))

    def filter_min_counts(
        self, *, min_user_interactions: int = 1, min_item_interactions: int = 1
    ) -> "Interactions":
        """Drop users and items with too few interactions, repeatedly, until all that remain have enough.

        The remaining users and items are renumbered without gaps and keep their original labels. The defaults
        drop only users and items without interactions. Minima are >= 1.
        """
        if min(min_user_interactions, min_item_interactions) < 1:
            raise ValueError(
                f"expected minima >= 1, got {min_user_interactions} and {min_item_interactions}; 1 keeps most"
            )
        kept = self
        while True:
            users = kept.history_lengths >= min_user_interactions
            items = kept.item_counts >= min_item_interactions
            remains = users[kept.user_ids] & items[kept.item_ids]
            if remains.all():
                return _renumbered(kept, users, items)
            kept = kept.select(remains)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of arrays and labels, equal on all platforms."""
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
        indptr=rows.indptr_of(interactions.history_lengths[users]),
        item_ids=new_item_ids[interactions.item_ids].astype(np.int32),
        num_items=int(items.sum()),
        user_labels=np.flatnonzero(users) if user_labels is None else user_labels[users],
        item_labels=np.flatnonzero(items) if item_labels is None else item_labels[items],
    )
