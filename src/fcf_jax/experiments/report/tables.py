"""Tables of comparisons and audits as JSON, CSV, Markdown and on the console."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from fcf_jax.evaluation import ModelDifference
from fcf_jax.experiments.audit.verdicts import OUTCOMES_LEGEND, legend_of, verdicts_of
from fcf_jax.experiments.compare.statistics import distinct_metrics
from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.report.wording import p_text
from fcf_jax.experiments.store.files import Document, write_atomically
from fcf_jax.experiments.store.run_directory import AUDIT, COMPARISON
from fcf_jax.messages import count_of

_AUDIT_COLUMNS = ("attack", "figure", "value", "95 % interval")
_COMPARISON_COLUMNS = (
    "metric", "popularity", "centralised ALS", "federated", "difference % [95 % CI]", "per user % [95 % CI]",
    "TOST p",
)  # fmt: skip
_SCREEN_COLUMNS = ("metric", "popularity", "ALS", "FCF", "difference % [CI]", "TOST p")  # fit 80 characters
_UNKNOWN = "-"
_WIDTH = 160  # characters of a table that no terminal confines

Row = tuple[str, ...]


def write_comparison_tables(
    folder: Path, document: Document, sides: dict[str, dict[str, np.ndarray]]
) -> None:
    """Write `comparison.csv` (a row per replicate, side and metric), `comparison.md` and `comparison.json`.

    Args:
        folder: of the comparison.
        document: content of `comparison.json`.
        sides: metrics of each side, an array over the replicates for each.
    """
    values = [
        (replicate, side, name, value)
        for side, metrics in sides.items()
        for name, by_replicate in metrics.items()
        for replicate, value in enumerate(by_replicate.tolist())
    ]
    table = _markdown(_comparison_title(document), _COMPARISON_COLUMNS, _comparison_rows(document))
    items, users, scores = (
        f"{100 * document[f'{name}_difference']:.3g} %" for name in ModelDifference._fields
    )
    apart = (
        f"The final models differ by {items} in the item factors, aligned by a rotation, by {users} in the "
        f"user factors and by {scores} in the scores of all users and items."
    )
    below = [*_conclusions(document), _comparison_legend(document) + "\n", apart]
    write_atomically(folder / "comparison.csv", csv_text(("build", "side", "metric", "value"), values))
    write_atomically(folder / "comparison.md", "\n".join([*table, *below, ""]).encode())
    COMPARISON.write(folder, document)  # last: marks the comparison as finished


def write_audit_tables(folder: Path, document: Document) -> None:
    """Write `audit.csv` (a row for each figure), `audit.md` and, last, `audit.json`."""
    values = [
        (attack, name, figure["value"], figure["low"], figure["high"])
        for attack, found in document["attacks"].items()
        for name, figure in found.items()
    ]
    table = _markdown(_audit_title(document), _AUDIT_COLUMNS, _audit_rows(document))
    knows, facts = (
        [f"- {name}: {value}" for name, value in document[key].items()] for key in ("knows", "facts")
    )
    legend = [f"- {name}: {meaning}" for name, meaning in legend_of(document).items()]
    below = [*_audit_conclusions(document), "What the attacker sees:", "", *knows, "", "Facts:", "", *facts]
    below += ["", "Figures:", "", *legend]
    write_atomically(folder / "audit.csv", csv_text(("attack", "figure", "value", "low", "high"), values))
    write_atomically(folder / "audit.md", "\n".join([*table, *below, ""]).encode())
    AUDIT.write(folder, document)


def show_comparison(document: Document) -> None:
    """Print the means of the plain metrics, the verdict in one line, and the notes."""
    rows = [
        (
            name,
            *(
                _spread(found.get(f"{side}_mean"), None)
                for side in ("popularity", "centralized", "federated")
            ),
            _difference(found),
            _p(found),
        )
        for name, found in document["metrics"].items()
        if not name.startswith("normalized_")
    ]
    _show_sparsely(_comparison_title(document), _SCREEN_COLUMNS, rows, num_names=1)
    legend = (
        "Difference in percent of the mean of ALS, paired over the replicates; TOST with a margin of "
        f"{document['margin_percent']:g} %. comparison.md adds standard "
        "deviations, the differences of users and all tests."
    )
    say("\n".join([legend, *document["notes"], document["headline"]]))


def show_audit(document: Document) -> None:
    """Print the figures of all attacks, what they mean, a verdict on each attack and the notes."""
    rows, above = [], None
    for attack, *cells in _audit_rows(document):
        rows.append(["" if attack == above else attack, *cells])
        above = attack
    _show_sparsely(_audit_title(document), _AUDIT_COLUMNS, rows, num_names=2)
    _show_aligned(legend_of(document))
    say()
    _show_aligned({f"{name} {one.outcome}": one.sentence for name, one in verdicts_of(document).items()})
    say("\n".join(["", OUTCOMES_LEGEND, *document["notes"]]))


def show(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as a table, with the keys of the first row as headings and numbers to the right."""
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        is_number = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console = new_console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return _UNKNOWN if value != value else f"{value:.4g}"
    return str(value)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return CSV with a heading line; None and nan become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([None if cell != cell else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def _show_sparsely(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, num_names: int
) -> None:
    """Print a table without vertical lines, `num_names` columns to the left and the others to the right."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(columns):
        is_name = index < num_names
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    new_console().print(table)


def _markdown(title: str, columns: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table with its title above and an empty line below."""
    ruled = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return [f"{title}:", "", ruled[0], "|---" * len(columns) + "|", *ruled[1:], ""]


def _show_aligned(pairs: Mapping[str, str]) -> None:
    """Print names and sentences in two columns, the sentences wrapped to the width of the console."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, sentence in pairs.items():
        table.add_row(name, sentence)
    new_console().print(table)


def _audit_conclusions(document: Document) -> list[str]:
    """Return the strongest verdict, one on each attack and the notes, in Markdown."""
    each = [f"- {name} {one.outcome}: {one.sentence}" for name, one in verdicts_of(document).items()]
    notes = [f"{note}\n" for note in document["notes"]]
    return [document["verdict"], "", *each, "", OUTCOMES_LEGEND, "", *notes]


def _conclusions(document: Document) -> list[str]:
    return [sentence + "\n" for sentence in (document["verdict"], *document["notes"])]


def _comparison_title(document: Document) -> str:
    is_everybody = document["cohort_size"] == document["num_users"]
    cohort = "all clients" if is_everybody else f"{document['cohort_size']} clients"
    replicates = count_of(document["num_builds"], "replicate")
    sizes = [count_of(document[f"num_{what}s"], what) for what in ("user", "item", "round", "sweep")]
    users, items, rounds, sweeps = sizes
    return (
        f"{replicates} of {users} x {items}, {document['num_train_interactions']} training interactions; "
        f"K = {document['num_factors']}, alpha = {document['alpha']:g}, "
        f"lambda = {document['regularization']:g}; "
        f"{rounds} of {document['server_step']} with {cohort}, {sweeps} of ALS"
    )


def _comparison_legend(document: Document) -> str:
    return (
        "Mean ± sd over the replicates; difference relative to the mean of ALS, paired over them, and "
        "paired over the users after averaging each user over them; TOST with a margin of "
        f"{document['margin_percent']:g} %. Normalised metrics that equal the plain ones are left out."
    )


def _comparison_rows(document: Document) -> list[Row]:
    """Return a row for each metric, with a cell for each of _COMPARISON_COLUMNS."""
    return [
        (
            name,
            _spread(found.get("popularity_mean"), None),
            _spread(found["centralized_mean"], found["centralized_sd"]),
            _spread(found["federated_mean"], found["federated_sd"]),
            _difference(found),
            _difference(found["per_user"]) if found["per_user"] else _UNKNOWN,
            _p(found),
        )
        for name, found in distinct_metrics(document["metrics"]).items()
    ]


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return _UNKNOWN
    decimals = 4 if abs(mean) < 100 else 0
    return f"{mean:.{decimals}f}" + ("" if sd is None else f" ± {sd:.{decimals}f}")


def _p(found: Mapping[str, float | None]) -> str:
    return _UNKNOWN if found["tost_p"] is None else p_text(found["tost_p"])


def _difference(found: Mapping[str, float | None]) -> str:
    middle, low, high = (found[f"difference{end}_percent"] for end in ("", "_low", "_high"))
    if middle is None:
        return _UNKNOWN
    return f"{middle:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


def _audit_title(document: Document) -> str:
    facts = document["facts"]
    noise = f", noise multiplier {facts['noise_multiplier']:.3g}" if facts["noise_multiplier"] else ""
    return (
        f"Audit of {document['mode']}, {document['upload']} uploads{noise}: {facts['num_users']} users x "
        f"{facts['num_items']} items, K = {facts['num_factors']}, cohorts of {facts['cohort_size']}"
    )


def _audit_rows(document: Document) -> list[Row]:
    """Return a row for each figure of each attack, with a cell for each of _AUDIT_COLUMNS."""
    return [
        (attack, name, *_interval(figure["value"], figure["low"], figure["high"]))
        for attack, found in document["attacks"].items()
        for name, figure in found.items()
    ]


def _interval(value: float, low: float, high: float) -> tuple[str, str]:
    if value != value:  # nan
        return _UNKNOWN, _UNKNOWN
    return f"{value:.4g}", _UNKNOWN if low == high else f"[{low:.3g}, {high:.3g}]"
