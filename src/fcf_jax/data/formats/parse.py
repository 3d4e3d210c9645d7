"""Parsing of one text table into columns, exact or with the number of the line at fault.

A regular block is parsed by Arrow (`regular`), any other line by line. Both give the same rows: what a record
is stands in `records`, what an id, a strength and a timestamp are in `labels`, `careful` and `timestamps`.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fcf_jax.data.formats.careful import Fields, TakenRows, strength_problem
from fcf_jax.data.formats.dialect import Dialect
from fcf_jax.data.formats.records import Record, RecordError, records
from fcf_jax.data.formats.regular import parse_regular
from fcf_jax.data.formats.table import BadLinePolicy, Table
from fcf_jax.data.formats.text import num_line_breaks
from fcf_jax.messages import count_of

_BATCH_RECORDS = 2**14
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")


def parse_text(
    blocks: Iterable[bytes] | bytes,
    dialect: Dialect,
    path: Path,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    num_lines: int = 0,
) -> Table:
    """Parse the content of a text table.

    Args:
        blocks: UTF-8, in blocks of whole lines or as one.
        dialect: Syntax of the file.
        path: For messages.
        on_bad_line: "error", or "skip" to omit and count malformed lines, negative strengths among them.
        implicit: Whether a negative strength is an error.
        num_lines: Number of lines, if it is known.

    Raises:
        ValueError: With FILE:LINE, the fault and the remedy.
    """
    rows = TakenRows(dialect, path, on_bad_line, num_lines=num_lines)
    parser = _Parser(dialect, path, rows, implicit=implicit)
    for block in [blocks] if isinstance(blocks, bytes) else blocks:
        parser.add(block)
    return parser.finish()


class _Parser:
    """Rows so far, and where the next block starts."""

    def __init__(self, dialect: Dialect, path: Path, rows: TakenRows, *, implicit: bool) -> None:
        self._dialect = dialect
        self._path = path
        self._rows = rows
        self._implicit = implicit
        self._line = 1
        self._open = ""  # lines of a record whose quotes have not been closed yet
        self._needs_header = dialect.has_header
        self._header = b""  # the part of the header that earlier blocks held

    def add(self, block: bytes) -> None:
        """Parse whole lines."""
        if self._needs_header:
            block = self._after_header(block)
        if not self._open:
            pieces = parse_regular(block, self._dialect, implicit=self._implicit)
            if pieces is not None:
                self._rows.add_pieces(pieces)
                self._line += num_line_breaks(block)
                return
        self._parse_carefully(self._open + block.decode())

    def finish(self) -> Table:
        """Return all rows."""
        if self._open:
            self._rows.refuse(self._line, "expected closing quotes, got the end of the file")
        return self._rows.finish()

    def _after_header(self, block: bytes) -> bytes:
        """Drop blank lines and the first record; keep what there is of it if it is not complete."""
        block, self._header = self._header + block, b""
        blank = len(block) - len(block.lstrip())
        end = max(block.rfind(b"\n", 0, blank), block.rfind(b"\r", 0, blank)) + 1
        self._line += num_line_breaks(block[:end])
        block = block[end:]
        for line_break in _LINE_BREAK.finditer(block):
            end = line_break.end()
            if any(not record.rest for record in self._records(block[:end].decode())):
                self._needs_header = False
                self._line += num_line_breaks(block[:end])
                return block[end:]
        self._header = block
        return b""

    def _records(self, text: str) -> Iterator[Record]:
        dialect = self._dialect
        try:
            yield from records(text, dialect.separator, has_quotes=dialect.has_quotes, first_line=self._line)
        except RecordError as error:
            raise ValueError(
                f"{self._path}:{error.line}: {error}; close the quotes or remove the line"
            ) from error

    def _parse_carefully(self, text: str) -> None:
        found = self._records(text)
        self._open = ""
        while batch := list(itertools.islice(found, _BATCH_RECORDS)):
            if batch[-1].rest:
                self._open = batch.pop().rest
            self._rows.add([self._fields(record) for record in batch])
        self._line += num_line_breaks(text.encode()) - num_line_breaks(self._open.encode())

    def _fields(self, record: Record) -> Fields:
        if problem := _problem(record.fields, self._dialect, implicit=self._implicit):
            return Fields(record.line, problem=problem)
        positions = self._dialect.columns
        return Fields(record.line, *("" if one is None else record.fields[one] for one in positions))


def _problem(fields: Sequence[str], dialect: Dialect, *, implicit: bool) -> str:
    """Return what is wrong with a record apart from its timestamp; "" if nothing is."""
    columns = dialect.columns
    if len(fields) != dialect.num_fields:
        separator = repr(dialect.separator) if dialect.separator else "blanks"
        is_longer = dialect.has_header and len(fields) == dialect.num_fields + 1
        hint = " (row names without a header of their own? R: row.names = FALSE)" if is_longer else ""
        return (
            f"expected {count_of(dialect.num_fields, 'field')} separated by {separator}, got "
            f"{len(fields)}{hint}"
        )
    user, item = fields[columns.user].strip(), fields[columns.item].strip()
    if not user or not item:
        return f"expected a user and an item id, got {user[:40]!r} and {item[:40]!r}"
    if "\0" in user + item:
        return f"expected ids without null characters, got {user[:40]!r} and {item[:40]!r}"
    if columns.strength is None:
        return ""
    return strength_problem(fields[columns.strength].strip(), dialect, implicit=implicit)
