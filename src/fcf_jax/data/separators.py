"""Separators of text tables: inferred from the first lines, or checked."""

import io
from collections.abc import Sequence

from fcf_jax.data.records import QUOTING_SEPARATORS, WHITESPACE, split_fields

__all__ = [
    "QUOTING_SEPARATORS",
    "WHITESPACE",
    "checked_separator",
    "first_lines",
    "inferred_separator",
    "split_fields",
]

_SEPARATORS = ("::", "\t", ";", "|", ",")  # comma last: it may be part of a text or a decimal comma
_SNIFFED_BYTES = 65536
_SNIFFED_LINES = 20


def first_lines(data: bytes) -> tuple[int, list[str]]:
    """Return the number of the first line that is not blank, and up to 20 such lines from there on."""
    text = data[:_SNIFFED_BYTES].decode("utf-8", errors="ignore")
    lines = list(enumerate(io.StringIO(text, newline=None), start=1))
    if len(data) > _SNIFFED_BYTES and len(lines) > 1:
        lines = lines[:-1]  # may be incomplete
    filled = [(number, line.rstrip("\n")) for number, line in lines if line.strip()][:_SNIFFED_LINES]
    return (filled[0][0] if filled else 1), [line for _, line in filled]


def inferred_separator(lines: Sequence[str]) -> str:
    """Return the separator that occurs equally often in all lines, otherwise the first that occurs."""
    complete = lines[:-1] or lines  # the last line may be truncated
    for separator in _SEPARATORS:
        counts = {line.count(separator) for line in complete}
        if len(counts) == 1 and 0 not in counts:
            return separator
    return next((separator for separator in _SEPARATORS if separator in lines[0]), WHITESPACE)


def checked_separator(separator: str) -> str:
    """Return a separator as it is used, or raise ValueError: one character, "::" or "whitespace"."""
    if separator in (WHITESPACE, " ", "whitespace"):
        return WHITESPACE
    if separator != "::" and len(separator) != 1:
        raise ValueError(
            f'expected a separator of one character, "::" or "whitespace", got {separator!r}; change it'
        )
    return separator
