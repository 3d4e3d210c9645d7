r"""Records of a text table: which lines belong together, and their fields.

The definition that every faster way of reading must agree with. Lines end with \n, \r\n or \r. A line of
blanks is no record. With a comma, semicolon, tab, bar or blanks between fields, double quotes may enclose a
field with separators, line breaks and doubled quotes in it; other separators know no quotes.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

WHITESPACE = ""  # the separator that means any run of spaces or tabs
QUOTING_SEPARATORS = ("\t", ";", "|", ",", WHITESPACE)


class Record(NamedTuple):
    """Fields of a record.

    Attributes:
        line: Number of its first line, from 1 on.
        fields: With the blanks around them.
        rest: The lines of a record that ends within quotes at the end of the text; "" for whole records.
    """

    line: int
    fields: list[str]
    rest: str = ""


class RecordError(ValueError):
    """A record that cannot be split, with its line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def records(text: str, separator: str, *, has_quotes: bool = True, first_line: int = 1) -> Iterator[Record]:
    """Yield the records of a text.

    Args:
        text: Whole lines.
        separator: Between fields; `WHITESPACE` for runs of blanks.
        has_quotes: Whether double quotes may enclose fields.
        first_line: Number of the first line.

    Raises:
        RecordError: For a field of more than 128 KiB, as an open quote makes.
    """
    lines = io.StringIO(text, newline="")  # split at all line ends, which stay as they are
    if has_quotes and separator in QUOTING_SEPARATORS and '"' in text:
        skips_blanks = has_blank_before_quote(text, separator)
        found = _quoted(lines, separator, first_line, skips_blanks=skips_blanks)
    else:
        found = _plain(lines, separator, first_line)
    return (record for record in found if record.rest or not _is_blank(record.fields))


def _is_blank(fields: list[str]) -> bool:
    return len(fields) < 2 and not any(field.strip() for field in fields)


def has_blank_before_quote(text: str, separator: str) -> bool:
    """Return True if a field may be enclosed in quotes behind a blank."""
    return separator == WHITESPACE or re.search(rf"(^|[\r\n{re.escape(separator)}]) +\"", text) is not None


def split_fields(line: str, separator: str, *, has_quotes: bool = True) -> list[str]:
    """Split one line into fields without blanks around them."""
    try:
        record = next(records(line, separator, has_quotes=has_quotes), None)
    except RecordError:
        return [line]
    return [] if record is None else [field.strip() for field in record.fields]


def _plain(lines: Iterable[str], separator: str, first_line: int) -> Iterator[Record]:
    for number, line in enumerate(lines, start=first_line):
        if separator == WHITESPACE:
            fields = [field for field in line.rstrip("\r\n").replace("\t", " ").split(" ") if field]
        else:
            fields = line.rstrip("\r\n").split(separator)
        yield Record(number, fields)


def _quoted(lines: Iterable[str], separator: str, first_line: int, *, skips_blanks: bool) -> Iterator[Record]:
    source = _Lines(_single_blanks(lines) if separator == WHITESPACE else lines)
    reader = csv.reader(source, delimiter=separator or " ", skipinitialspace=skips_blanks)
    line = first_line
    try:
        for fields in reader:
            yield Record(line, fields, "".join(source.taken) if source.is_exhausted else "")
            source.taken.clear()
            line = first_line + reader.line_num
    except csv.Error as error:
        raise RecordError(line, str(error)) from error


class _Lines:
    """Lines for a reader of CSV: those of the present record, and whether it asked for one too many."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.taken: list[str] = []
        self.is_exhausted = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.is_exhausted = True
            raise StopIteration
        self.taken.append(line)
        return line


def _single_blanks(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        content = line.rstrip("\r\n")
        yield content.replace("\t", " ").strip(" ") + line[len(content) :]
