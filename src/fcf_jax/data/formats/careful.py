"""Rows of text that are checked one by one: each is taken, or refused with its line."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcf_jax.data.arrow import memory_pool
from fcf_jax.data.formats.dialect import Dialect
from fcf_jax.data.formats.evidence import event_word
from fcf_jax.data.formats.regular import Pieces
from fcf_jax.data.formats.table import MAX_STRENGTH, BadLinePolicy, Table, TableBuilder, bad_line
from fcf_jax.data.formats.timestamps import EXPECTED, to_seconds


class Fields(NamedTuple):
    """Texts of one row, or what is wrong with it.

    Attributes:
        line: Number of its line.
        user: User id.
        item: Item id.
        strength: "" if there are none.
        timestamp: "" if there are none.
        problem: Why the row cannot be taken; "" if nothing but its timestamp may be wrong.
    """

    line: int
    user: str = ""
    item: str = ""
    strength: str = ""
    timestamp: str = ""
    problem: str = ""


class TakenRows:
    """Rows of a file so far.

    Args:
        dialect: Which columns there are.
        path: For messages.
        on_bad_line: "error", or "skip" to omit and count bad rows.
        num_lines: Number of lines, if it is known.
    """

    def __init__(
        self, dialect: Dialect, path: Path, on_bad_line: BadLinePolicy, *, num_lines: int = 0
    ) -> None:
        self._dialect = dialect
        self._path = path
        self._on_bad_line = on_bad_line
        self._builder = TableBuilder(str(path), num_lines)
        self._num_skipped = 0

    def add_pieces(self, pieces: Pieces) -> None:
        """Take the rows of a regular block."""
        self._builder.add(*pieces)

    def add(self, rows: Sequence[Fields]) -> None:
        """Take rows in order, and refuse those with a problem or without a timestamp.

        Raises:
            ValueError: With FILE:LINE of the first bad row, unless bad rows are skipped.
        """
        import pyarrow as pa

        columns, problems, seconds = self._dialect.columns, [row.problem for row in rows], None
        if columns.timestamp is not None:
            seconds, missing = to_seconds(pa.array([row.timestamp for row in rows], pa.string()))
            for position in np.flatnonzero(missing).tolist():
                got = rows[position].timestamp.strip()[:40]
                problems[position] = problems[position] or f"expected {EXPECTED}, got {got!r}"
            seconds = seconds[[not problem for problem in problems]]
        for row, problem in zip(rows, problems, strict=True):
            if problem:
                self.refuse(row.line, problem)
        good = [row for row, problem in zip(rows, problems, strict=True) if not problem]
        if good:
            has_strengths = columns.strength is not None
            self._builder.add(
                pa.array([row.user for row in good], pa.string()),
                pa.array([row.item for row in good], pa.string()),
                np.array([_strength_of(row.strength.strip(), self._dialect) for row in good])
                if has_strengths
                else None,
                seconds,
            )

    def refuse(self, line: int, problem: str) -> None:
        """Raise ValueError for a bad line, or count it."""
        if self._on_bad_line == "error":
            raise bad_line(self._path, line, problem)
        self._num_skipped += 1

    def finish(self) -> Table:
        """Return all rows."""
        memory_pool().release_unused()
        return self._builder.finish(self._num_skipped)


def strength_problem(text: str, dialect: Dialect, *, implicit: bool) -> str:
    """Return what is wrong with the text of a strength; "" if nothing is."""
    if dialect.weights:
        known = ", ".join(dialect.weights)
        is_known = event_word(text) in dialect.weights
        return "" if is_known else f"expected one of {known} (data.strength_values), got {text[:40]!r}"
    if not _is_finite(text):
        return f"expected a finite number as strength, got {text[:40]!r}"
    if implicit and float(text) < 0 and float(text) not in dialect.unrated:
        return (
            f"expected a strength >= 0 for implicit feedback, got {text}; set data.feedback = explicit for "
            "ratings, data.strength_values if it means seen, not rated"
        )
    return ""


def _is_finite(text: str) -> bool:
    try:
        return "_" not in text and abs(float(text)) < MAX_STRENGTH  # False for NaN
    except ValueError:
        return False


def _strength_of(text: str, dialect: Dialect) -> float:
    """Return the strength that a text stands for, if `strength_problem` finds nothing wrong with it."""
    return dialect.weights[event_word(text)] if dialect.weights else float(text)
