"""Dialect of a text table, inferred from its first lines."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fcf_jax.data.formats.columns import (
    Columns,
    Order,
    Positions,
    is_digits,
    left_out,
    named_positions,
    numbered_positions,
    values_of,
)
from fcf_jax.data.formats.evidence import looks_like, weights_of
from fcf_jax.data.formats.names import is_common
from fcf_jax.data.formats.separators import (
    checked_separator,
    inferred_separator,
    refuse_unclear_separator,
    split_fields,
)
from fcf_jax.data.formats.timestamps import to_seconds

_NUMBERS: Mapping[str, float] = MappingProxyType({})  # weights of a column of numbers


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Syntax of a text table.

    Attributes:
        separator: Between fields; `WHITESPACE` for runs of blanks.
        num_fields: Fields of each line.
        has_header: Whether the first line names the columns.
        columns: Where to find users, items, strengths and timestamps.
        has_quotes: Whether double quotes enclose fields.
        weights: Strength of each event, by `event_word`; empty if the strength column holds numbers.
        unrated: Numbers of the strength column that mean "seen, not rated"; never refused as negative.
        names: Names of the columns; empty if there is no header.
        why: How columns without names were told apart, or why a column is left out.
    """

    separator: str
    num_fields: int
    has_header: bool
    columns: Positions
    has_quotes: bool = True
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    unrated: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    why: str = ""


def infer_dialect(
    where: str,
    lines: Sequence[str],
    columns: Columns,
    separator: str | None,
    *,
    order: Order | None = None,
    weights: Mapping[str, float] = _NUMBERS,
    has_quotes: bool = True,
) -> Dialect:
    """Infer separator, header and columns from the first lines of a file.

    The first line is a header if it has two common column names, if `columns` has names, or if none of its
    fields is a number. If `columns` has numbers for user and item, it is a header only if it has two common
    names, or strengths or timestamps and no number, time or event. Without a header,
    two to four columns are user, item, strength, timestamp, unless their values show another order.

    Args:
        where: FILE:LINE of the first line, for messages.
        lines: First lines, at least one.
        columns: Columns that the caller chose.
        separator: One character, "::", or "whitespace" or " " for runs of blanks; None to infer it.
        order: Order of the columns of a table that has no header; None to infer both.
        weights: Strengths of events; empty for `EVENT_WEIGHTS`.
        has_quotes: Whether double quotes enclose fields.

    Raises:
        ValueError: For a single column, or a required column that is not found; lists those found.
    """
    if separator is None:
        refuse_unclear_separator(where, lines)
    separator = inferred_separator(lines) if separator is None else checked_separator(separator)
    rows = [split_fields(line, separator, has_quotes=has_quotes) for line in lines]
    fields = rows[0]
    if len(fields) < 2:
        raise ValueError(
            f"{where}: expected a user and an item column, got one column ({', '.join(fields)[:40]}); "
            "separate the columns with commas or tabs"
        )
    has_header, why = order is None and _is_header(fields, columns), ""
    if has_header:
        positions = named_positions(where, fields, columns, rows[1:], weights)
        why = left_out(fields, columns, positions)
    else:
        positions, why = numbered_positions(where, rows, columns, order)
    return Dialect(
        separator,
        len(fields),
        has_header,
        positions,
        has_quotes=has_quotes,
        weights=event_weights(rows[has_header:], positions, weights),
        names=tuple(fields) if has_header else (),
        why=why,
    )


def event_weights(
    rows: Sequence[Sequence[str]], positions: Positions, given: Mapping[str, float]
) -> Mapping[str, float]:
    """Return the weights of events if the strength column holds events; empty if it holds numbers."""
    if positions.strength is None:
        return _NUMBERS
    return weights_of(values_of(rows, positions.strength), given)


def _is_value(field: str) -> bool:
    """Return True for a number, a time or a kind of event."""
    return (
        looks_like("number", [field]) or bool(weights_of([field], {})) or not to_seconds([field]).missing[0]
    )


def _is_header(fields: Sequence[str], columns: Columns) -> bool:
    num_common = sum(map(is_common, fields))
    has_numbers = any(looks_like("number", [field]) for field in fields)
    if num_common > 1:
        return True
    if is_digits(columns.user) and is_digits(columns.item):
        has_values = columns.strength not in (None, "") or columns.timestamp not in (None, "")
        return has_values and not any(map(_is_value, fields))
    has_names = any(column not in (None, "") and not is_digits(column) for column in columns)
    return has_names or not has_numbers
