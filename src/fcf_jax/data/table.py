"""Rows of one file, built piece by piece from columns of texts or numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.labels import Labels, as_dictionary, joined_chunks, labels_of
from fcf_jax.data.memory import check_fits_memory

if TYPE_CHECKING:
    import pyarrow as pa

BadLinePolicy = Literal["error", "skip"]

MAX_STRENGTH = float(np.finfo(np.float32).max)

_BYTES_A_ROW = 40  # codes of user and item, strength and timestamp, and as much again while they are sorted


class Table(NamedTuple):
    """Rows of one file.

    Attributes:
        users: Of each row.
        items: Of each row.
        strengths: float32 or float64; None if there are none.
        timestamps: int64, seconds; None if there are none.
        num_skipped: Malformed lines that were skipped.
        names: Name of the column of each kind, if columns have names and types.
    """

    users: Labels
    items: Labels
    strengths: np.ndarray | None
    timestamps: np.ndarray | None
    num_skipped: int = 0
    names: Mapping[str, str] | None = None


class TableBuilder:
    """Collects the rows of a file; every piece has the same columns."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._num_rows = 0
        self._users: list[pa.DictionaryArray] = []
        self._items: list[pa.DictionaryArray] = []
        self._strengths: list[npt.NDArray[np.float32]] = []
        self._timestamps: list[npt.NDArray[np.int64]] = []

    def add(
        self,
        users: "pa.Array",
        items: "pa.Array",
        strengths: np.ndarray | None,
        timestamps: npt.NDArray[np.int64] | None,
    ) -> None:
        """Append rows: ids as Arrow texts or integers without nulls, finite strengths, seconds.

        Raises:
            ValueError: If all rows so far do not fit into memory.
        """
        self._num_rows += len(users)
        check_fits_memory(
            _BYTES_A_ROW * self._num_rows, f"{self._where} ({self._num_rows} rows)", "read a part of it"
        )
        self._users.append(as_dictionary(users))
        self._items.append(as_dictionary(items))
        if strengths is not None:
            self._strengths.append(strengths.astype(np.float32, copy=False))
        if timestamps is not None:
            self._timestamps.append(timestamps)

    def finish(self, num_skipped: int = 0) -> Table:
        """Return all rows; the builder is empty afterwards."""
        if not self._num_rows:
            return Table(labels_of([]), labels_of([]), None, None, num_skipped)
        return Table(
            joined_chunks(_emptied(self._users)),
            joined_chunks(_emptied(self._items)),
            np.concatenate(_emptied(self._strengths)) if self._strengths else None,
            np.concatenate(_emptied(self._timestamps)) if self._timestamps else None,
            num_skipped,
        )


def _emptied(pieces: list) -> list:
    """Return the pieces and empty the list, so that they are freed once they are joined."""
    taken = pieces[:]
    pieces.clear()
    return taken
