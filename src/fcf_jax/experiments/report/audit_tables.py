"""An audit on paper: JSON, a CSV with a row for each figure, and a table."""

from pathlib import Path
from typing import Any

import pandas as pd

from fcf_jax.experiments.store.files import write_atomically, write_json

AUDIT = "audit.json"
HEADINGS = ("attack", "figure", "value", "95 % interval")
_UNKNOWN = "-"


def write_tables(folder: Path, document: dict[str, Any]) -> None:
    """Write `audit.csv`, `audit.md` and, last, `audit.json`."""
    rows = [
        (attack, name, figure["value"], figure["low"], figure["high"])
        for attack, found in document["attacks"].items()
        for name, figure in found.items()
    ]
    table = pd.DataFrame(rows, columns=["attack", "figure", "value", "low", "high"])
    write_atomically(folder / "audit.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "audit.md", markdown(document).encode())
    write_json(folder / AUDIT, document)


def markdown(document: dict[str, Any]) -> str:
    """Write the table with what was attacked above, and what is known and what it says below."""
    lines = [
        title(document) + ":",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
        *(f"| {' | '.join(row)} |" for row in table_rows(document)),
        "",
        *(sentence + "\n" for sentence in (document["verdict"], *document["notes"])),
        "What the attacker sees:",
        "",
        *(f"- {name}: {knows}" for name, knows in document["knows"].items()),
        "",
        "Facts:",
        "",
        *(f"- {name}: {value}" for name, value in document["facts"].items()),
    ]
    return "\n".join(lines) + "\n"


def title(document: dict[str, Any]) -> str:
    """Say what was attacked."""
    facts = document["facts"]
    noise = f", noise multiplier {facts['noise_multiplier']:.3g}" if facts["noise_multiplier"] else ""
    return (
        f"Audit of {document['mode']}, {document['upload']} uploads{noise}: {facts['num_users']} users x "
        f"{facts['num_items']} items, K = {facts['num_factors']}, cohorts of {facts['cohort_size']}"
    )


def table_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Arrange the figures for the eye, a cell for each of HEADINGS."""
    return [
        (attack, name, *_cells(figure))
        for attack, found in document["attacks"].items()
        for name, figure in found.items()
    ]


def _cells(figure: dict[str, float]) -> tuple[str, str]:
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value != value:
        return _UNKNOWN, _UNKNOWN
    return f"{value:.4g}", _UNKNOWN if low == high else f"[{low:.3g}, {high:.3g}]"
