"""Rows of one file, built piece by piece from columns of texts or numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.labels import Labels, LabelsBuilder
from fcf_jax.data.memory import check_fits_memory

if TYPE_CHECKING:
    import pyarrow as pa

BadLinePolicy = Literal["error", "skip"]

MAX_STRENGTH = float(np.finfo(np.float32).max)

BYTES_A_ROW = 32  # held at once: codes of user and item, strength and timestamp, while they are sorted

_DTYPES = {"users": np.int32, "items": np.int32, "strengths": np.float32, "timestamps": np.int64}


def bad_line(path: Path, line: int, problem: str) -> ValueError:
    """Return the error of a line that cannot be read, with its place and the remedy."""
    return ValueError(
        f'{path}:{line}: {problem}; correct or remove the line, or set data.on_bad_line = "skip"'
    )


class Table(NamedTuple):
    """Rows of one file.

    Attributes:
        users: Of each row.
        items: Of each row.
        strengths: float32; None if there are none.
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

    def __init__(self, where: str, capacity: int = 0) -> None:
        """Make room for rows.

        Args:
            where: The file, for messages.
            capacity: Number of rows that are expected; more are taken, too.

        Raises:
            ValueError: If so many rows do not fit into memory.
        """
        self._where = where
        self._num_rows = 0
        self._users = LabelsBuilder()
        self._items = LabelsBuilder()
        self._columns: dict[str, np.ndarray] = {}
        self._check_memory(capacity)
        self._capacity = capacity

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
        start, self._num_rows = self._num_rows, self._num_rows + len(users)
        if self._num_rows > self._capacity:
            self._capacity = max(2 * self._capacity, self._num_rows)
            self._check_memory(self._num_rows)
        pieces = {
            "users": self._users.codes_of(users),
            "items": self._items.codes_of(items),
            "strengths": strengths,
            "timestamps": timestamps,
        }
        for name, piece in pieces.items():
            if piece is not None:
                self._column(name, start)[start : self._num_rows] = piece

    def finish(self, num_skipped: int = 0) -> Table:
        """Return all rows; the builder is empty afterwards."""
        columns = {name: column[: self._num_rows] for name, column in self._columns.items()}
        self._columns = {}
        no_codes = np.zeros(0, np.int32)
        return Table(
            self._users.finish(columns.get("users", no_codes)),
            self._items.finish(columns.get("items", no_codes)),
            columns.get("strengths"),
            columns.get("timestamps"),
            num_skipped,
        )

    def _column(self, name: str, num_filled: int) -> np.ndarray:
        """Return a column of the present capacity. Memory that is never written is never used."""
        column = self._columns.get(name)
        if column is None or len(column) < self._capacity:
            larger = np.empty(self._capacity, _DTYPES[name])
            if column is not None:
                larger[:num_filled] = column[:num_filled]
            self._columns[name] = column = larger
        return column

    def _check_memory(self, num_rows: int) -> None:
        num_bytes = BYTES_A_ROW * num_rows
        check_fits_memory(num_bytes, f"{num_rows:,} rows", "read a part of the file", where=self._where)
