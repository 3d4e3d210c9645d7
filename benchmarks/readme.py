"""Tables of README.md that scripts write from their JSON, each between two marks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")


def marks(name: str) -> tuple[str, str]:
    """Return the comments before and after the table of this name."""
    return f"<!-- table: {name} -->", f"<!-- end of {name} -->"


def with_table(text: str, name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Put rows in the place of the table of this name; the first row names the columns.

    Raises:
        ValueError: if the page lacks a mark.
    """
    begin, end = marks(name)
    if not text.count(begin) == text.count(end) == 1:
        raise ValueError(f"expected one {begin} and one {end}; put them back")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return "\n".join([before + begin, "", *markdown(rows), "", end + after])


def write_table(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table of this name into README.md."""
    README.write_text(with_table(README.read_text(), name, rows))


def markdown(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Arrange rows of equal keys as lines of Markdown; None becomes a dash, a column of None is left out."""
    rows = list(rows)
    keys = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    cells = [keys, ["---"] * len(keys), *([cell(row[key]) for key in keys] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in cells]


def cell(value: Any) -> str:
    """Write one value: numbers with three digits, without a zero before the point."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def spread_cell(found: Mapping[str, float] | None, *, is_bold: bool = False) -> str | None:
    """Write a median with its range."""
    if found is None:
        return None
    median = f"**{cell(found['median'])}**" if is_bold else cell(found["median"])
    return f"{median} ({cell(found['min'])}-{cell(found['max'])})"
