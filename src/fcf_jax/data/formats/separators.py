"""Separators of text tables: inferred from the first lines, or checked."""

import io
from collections.abc import Sequence

from fcf_jax.data.formats.evidence import looks_like
from fcf_jax.data.formats.names import is_common
from fcf_jax.data.formats.records import QUOTING_SEPARATORS, WHITESPACE, split_fields

__all__ = [
    "QUOTING_SEPARATORS",
    "WHITESPACE",
    "checked_separator",
    "first_lines",
    "inferred_separator",
    "refuse_unclear_separator",
    "split_fields",
]

_SEPARATORS = ("::", "\t", ";", "|", ",")  # comma last: it may be part of a text or a decimal comma
_SNIFFED_BYTES = 65536
_SNIFFED_LINES = 20
_NUM_IDS = 2  # ids are mostly the first columns, and hold no separator


def first_lines(data: bytes) -> tuple[int, list[str]]:
    """Return the number of the first line that is not blank, and up to 20 such lines from there on."""
    blank = len(data) - len(data.lstrip())
    start = max(data.rfind(b"\n", 0, blank), data.rfind(b"\r", 0, blank)) + 1
    end = start + _SNIFFED_BYTES
    if data.find(b"\n", start, end) < 0 and data.find(b"\r", start, end) < 0:
        end = data.find(b"\n", end) % (len(data) + 1) + 1  # one long line
    before = sum(1 for _ in io.StringIO(data[:start].decode(), newline=None))
    text = data[start:end].decode("utf-8", errors="ignore")
    lines = list(enumerate(io.StringIO(text, newline=None), start=before + 1))
    if len(data) > end and len(lines) > 1:
        lines = lines[:-1]  # may be incomplete
    filled = [(number, line.rstrip("\n")) for number, line in lines if line.strip()][:_SNIFFED_LINES]
    return (filled[0][0] if filled else 1), [line for _, line in filled]


def inferred_separator(lines: Sequence[str]) -> str:
    """Return the separator that splits all lines into equally many fields, and best leaves ids whole."""
    return _ranked(lines)[0][1]


def refuse_unclear_separator(where: str, lines: Sequence[str]) -> None:
    """Raise ValueError if several separators split all lines equally, and each leaves another within ids."""
    ranked = _ranked(lines)
    if ranked[0][0] and len(ranked) > 1:
        readings = " or ".join(
            " | ".join(map(repr, split_fields(lines[0], separator)))[:60] for _, separator in ranked[:2]
        )
        raise ValueError(
            f"{where}: cannot tell whether {lines[0][:60]!r} means {readings}; set data.separator "
            f"to {' or '.join(repr(separator or 'whitespace') for _, separator in ranked)}"
        )


def _ranked(lines: Sequence[str]) -> list[tuple[bool, str]]:
    """Return (ids hold another candidate, separator) of all candidates, the best first."""
    complete = lines[:-1] or lines  # the last line may be truncated
    found = [separator for separator in (*_SEPARATORS, WHITESPACE) if _is_consistent(complete, separator)]
    if "\t" in found and WHITESPACE in found:
        found.remove(WHITESPACE)  # which includes tabs
    found = found or [separator for separator in _SEPARATORS if separator in lines[0]] or [WHITESPACE]
    for separator in found:
        if sum(map(is_common, split_fields(lines[0], separator))) > 1:
            return [(False, separator)]
    return sorted(((_hides_another(complete, s, found), s) for s in found), key=lambda one: one[0])


def _is_consistent(lines: Sequence[str], separator: str) -> bool:
    counts = {len(split_fields(line, separator)) for line in lines}
    return len(counts) == 1 and counts.pop() > 1


def _hides_another(lines: Sequence[str], separator: str, candidates: Sequence[str]) -> bool:
    """Return True if an id holds another candidate; blanks within a time do not count."""
    others = [candidate or " " for candidate in candidates if candidate != separator]
    ids = [field for line in lines for field in split_fields(line, separator)[:_NUM_IDS]]
    return any(other in one for one in ids if not looks_like("time", [one]) for other in others)


def checked_separator(separator: str) -> str:
    """Return a separator as it is used, or raise ValueError: one character, "::" or "whitespace"."""
    if separator in (WHITESPACE, " ", "whitespace"):
        return WHITESPACE
    if separator != "::" and (len(separator) != 1 or separator in '"\r\n'):
        raise ValueError(
            f'expected a separator of one character, "::" or "whitespace", got {separator!r}; change it'
        )
    return separator
