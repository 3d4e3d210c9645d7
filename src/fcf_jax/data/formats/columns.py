"""Columns of a table: those the caller chose, otherwise found by their names or by their values."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from fcf_jax.data.formats.evidence import looks_like, weights_of
from fcf_jax.data.formats.names import find_common, is_event, is_no_strength
from fcf_jax.data.formats.timestamps import to_seconds
from fcf_jax.messages import count_of

_MAX_UNNAMED = 4  # columns without a header that are taken as user, item, strength, timestamp


class Columns(NamedTuple):
    """Columns of a table: a name, a 0-based number, or None to look for a common name.

    Attributes:
        user: User ids.
        item: Item ids.
        strength: Counts, ratings or kinds of events; "" if there are none, and every strength is 1.
        timestamp: Times; "" if there are none.
    """

    user: str | int | None = None
    item: str | int | None = None
    strength: str | int | None = None
    timestamp: str | int | None = None


class Positions(NamedTuple):
    """0-based column numbers.

    Attributes:
        user: User ids.
        item: Item ids.
        strength: Strengths; None if there are none.
        timestamp: Timestamps; None if there are none.
    """

    user: int
    item: int
    strength: int | None = None
    timestamp: int | None = None


class Order(NamedTuple):
    """Order of columns without names.

    Attributes:
        columns: Which is what.
        why: Evidence for it, as a sentence without its end.
    """

    columns: Positions
    why: str


def named_positions(
    where: str,
    names: Sequence[str],
    columns: Columns,
    rows: Sequence[Sequence[str]] = (),
    weights: Mapping[str, float] = MappingProxyType({}),
) -> Positions:
    """Find the columns of a table whose columns have names.

    Args:
        where: FILE or FILE:LINE, for messages.
        names: All column names, in order.
        columns: Columns that the caller chose.
        rows: First rows, which show what the columns hold; may be none.
        weights: Strengths of events that the caller chose.

    Raises:
        ValueError: For a chosen column that does not exist, when no user or item column is found, or when no
            strength column is found and a column of unknown meaning may be it; lists those found.
    """
    chosen = [_chosen(where, names, kind, column) for kind, column in columns._asdict().items()]
    taken = [position for position in chosen if position is not None]
    found = [
        find_common(kind, names, taken) if column is None else position
        for (kind, column), position in zip(columns._asdict().items(), chosen, strict=True)
    ]
    user, item, strength, timestamp = found
    if columns.strength is None and strength is not None and is_event(names[strength]):
        values = values_of(rows, strength)
        if values and not weights_of(values, weights) and not _are_numbers(values):
            strength = None  # a type of items, perhaps
    needs_strength = columns.strength is None and strength is None
    missing = [kind for kind, position in (("user", user), ("item", item)) if position is None]
    _refuse_unclear(where, names, missing, _unknown(names, found), rows, needs_strength=needs_strength)
    assert user is not None and item is not None
    if columns.timestamp is None and timestamp is not None and not _holds_times(timestamp, rows):
        timestamp = None
    return Positions(user, item, strength, timestamp)


def _chosen(where: str, names: Sequence[str], kind: str, column: str | int | None) -> int | None:
    if column is None or column == "":
        return None
    return list(names).index(str(column)) if column in names else _numbered(where, names, kind, column)


def _holds_times(position: int, rows: Sequence[Sequence[str]]) -> bool:
    """Return False for a column named like times of which none can be read: 12/1/2010, perhaps."""
    values = values_of(rows, position)
    return not values or not bool(to_seconds(values).missing.all())


def left_out(names: Sequence[str], columns: Columns, positions: Positions) -> str:
    """Return what is wrong with columns that have a usual name but were not taken; "" if there are none."""
    faults = []
    strength = find_common("strength", names) if columns.strength is None else None
    if strength is not None and positions.strength is None:
        faults.append(
            f"{names[strength]} holds words without a weight, and every row counts 1 (data.strength_values)"
        )
    unused = [names[i] for i in _unknown(names, (*positions, strength))]
    if unused and columns.strength is None and positions.strength is None:
        are = "is" if len(unused) == 1 else "are"
        faults.append(f"{_shown(unused)} {are} not numeric, and every row counts 1 (data.strength_column)")
    times = find_common("timestamp", names) if columns.timestamp is None else None
    if times is not None and positions.timestamp is None:
        faults.append(f"the times in {names[times]} are in no form that is read, and left out")
    return "; ".join(faults)


def _unknown(names: Sequence[str], found: Sequence[int | None]) -> list[int]:
    """Return the columns of unknown meaning, which may be anything."""
    return [i for i, name in enumerate(names) if i not in found and not is_no_strength(name)]


def _refuse_unclear(
    where: str,
    names: Sequence[str],
    missing: Sequence[str],
    unknown: Sequence[int],
    rows: Sequence[Sequence[str]],
    *,
    needs_strength: bool,
) -> None:
    """Refuse a table without users or items, or with a column of unknown meaning that may hold strengths.

    One error names all that is missing, and suggests the unknown columns in their order.
    """
    rest = unknown[len(missing) :]
    possible = [i for i in rest if not rows or _are_numbers(values_of(rows, i))] if needs_strength else []
    if missing:
        suggested = [names[i] for i in [*unknown[: len(missing)], *possible[:1]]]
        kinds = [*missing, *["strength"] * bool(possible)]
        pairs = itertools.zip_longest(kinds, suggested, fillvalue="NAME")
        remedy = " ".join(f"--set {shlex.quote(f'data.{kind}_column={name}')}" for kind, name in pairs)
        raise ValueError(
            f"{where}: no {' or '.join(filter(None, [', '.join(kinds[:-1]), kinds[-1]]))} column recognized "
            f"among {_shown(names)}; pass {remedy}, or others; 0-based numbers if the first line is data"
        )
    if possible:
        raise ValueError(
            f"{where}: no strength column recognized among {_shown(names)}; set data.strength_column to its "
            f'name ({_shown([names[i] for i in possible])}?), or to "" if there is none'
        )


def _are_numbers(values: Sequence[str]) -> bool:
    """Return True if most of the values are: one that is not is a mistake in the data."""
    return 2 * sum(looks_like("number", [value]) for value in values) > len(values)


def values_of(rows: Sequence[Sequence[str]], position: int) -> list[str]:
    """Return the values of a column, without empty ones."""
    return [row[position] for row in rows if len(row) > position and row[position]]


def _numbered(where: str, fields: Sequence[str], kind: str, column: str | int) -> int:
    number = int(column) if is_digits(column) else len(fields)
    if number >= len(fields):
        raise ValueError(
            f"{where}: {kind} column {column!r} not found among {_shown(fields)}; "
            f"set data.{kind}_column to a name or a number from 0 to {len(fields) - 1}"
        )
    return number


def numbered_positions(
    where: str, rows: Sequence[Sequence[str]], columns: Columns, order: Order | None
) -> Order:
    """Find the columns of a table without a header: those given by number, the others by their order.

    Args:
        where: FILE:LINE, for messages.
        rows: First rows, at least one.
        columns: Columns that the caller chose.
        order: Order of the columns, if it is known; None to take the usual one of two to four columns.

    Raises:
        ValueError: For a chosen column that does not exist, or more than four columns of unknown order.
    """
    fields = rows[0]
    if order is None and len(fields) <= _MAX_UNNAMED:
        order = usual_order(rows)
    if order is None and None in (columns.user, columns.item, columns.strength):
        raise ValueError(
            f"{where}: cannot tell {count_of(len(fields), 'column')} apart without a header "
            f"({_shown(fields)}); "
            "set data.user_column, data.item_column and data.strength_column to 0-based numbers"
        )
    taken = {str(column) for column in columns}
    defaults = Positions(-1, -1) if order is None else order.columns
    free = [None if str(position) in taken or position == -1 else position for position in defaults]
    user, item, strength, timestamp = (
        free[index]
        if column is None
        else None
        if column == ""
        else _numbered(where, fields, columns._fields[index], column)
        for index, column in enumerate(columns)
    )
    for kind, position in (("user", user), ("item", item)):
        if position is None:
            raise ValueError(f"{where}: no {kind} column left among {len(fields)}; set data.{kind}_column")
    assert user is not None and item is not None
    return Order(Positions(user, item, strength, timestamp), "" if order is None else order.why)


def usual_order(rows: Sequence[Sequence[str]]) -> Order:
    """Return user, item, strength, timestamp, unless the values of two to four columns show another order."""
    columns = [[row[i] for row in rows if len(row) == len(rows[0])] for i in range(len(rows[0]))]
    user, item, why = 0, 1, "no header: user, item, strength and time in this order"
    if looks_like("amazon_item", columns[0]) and looks_like("amazon_user", columns[1]):
        user, item, why = 1, 0, "column 0 holds item numbers of Amazon, column 1 reviewers"
    are_times = [looks_like("time", values) for values in columns[2:]]
    if are_times == [True]:
        return Order(Positions(user, item, None, 2), f"{why}; column 2 holds times")
    if are_times == [True, False]:
        return Order(Positions(user, item, 3, 2), f"{why}; column 2 holds times")
    rest = [i if i < len(columns) else None for i in (2, 3)]
    return Order(Positions(user, item, *rest), why)


def is_digits(column: str | int | None) -> bool:
    """Return True for a column that is given by its number."""
    return str(column).isdigit()


def _shown(fields: Sequence[str]) -> str:
    return ", ".join(field[:40] for field in fields[:20])
