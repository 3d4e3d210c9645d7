"""A comparison on paper: JSON, a tidy CSV, and the table that fits a README."""

from pathlib import Path
from typing import Any

import pandas as pd

from fcf_jax.evaluation import ModelDifference
from fcf_jax.experiments.compare.statistics import Figures, Values, distinct_metrics
from fcf_jax.experiments.store.files import write_atomically, write_json

COMPARISON = "comparison.json"
PER_USER = "per user % [95 % CI]"
HEADINGS = ("metric", "centralised ALS", "federated", "difference % [95 % CI]", PER_USER, "TOST p")
_UNKNOWN = "-"


def write_tables(folder: Path, document: dict[str, Any], sides: dict[str, dict[str, Values]]) -> None:
    """Write `comparison.json`, `comparison.csv` (a row for each build, side and metric) and `comparison.md`.

    Args:
        folder: where to.
        document: the content of `comparison.json`.
        sides: of each side the metrics, [builds] each.
    """
    rows = [
        (build, side, name, value)
        for side, metrics in sides.items()
        for name, values in metrics.items()
        for build, value in enumerate(values.tolist())
    ]
    table = pd.DataFrame(rows, columns=["build", "side", "metric", "value"])
    write_atomically(folder / "comparison.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "comparison.md", markdown(document).encode())
    write_json(folder / COMPARISON, document)  # last: it says that all is done


def markdown(document: dict[str, Any]) -> str:
    """Write the table with what was compared above and what it says below."""
    lines = [
        title(document) + ":",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
        *(f"| {' | '.join(row)} |" for row in table_rows(document)),
        "",
        *(sentence + "\n" for sentence in (document["verdict"], *document["notes"])),
        legend(document) + "\n",
        _apart(document),
    ]
    return "\n".join(lines) + "\n"


def title(document: dict[str, Any]) -> str:
    """Say what was compared."""
    everybody = document["cohort_size"] == document["num_users"]
    cohort = "everybody" if everybody else f"{document['cohort_size']} clients"
    sizes = [_count(document[f"num_{what}s"], what) for what in ("build", "user", "item", "round", "sweep")]
    builds, users, items, rounds, sweeps = sizes
    return (
        f"{builds} of {users} x {items}, {document['num_train_interactions']} interactions to train on; "
        f"K = {document['num_factors']}, alpha = {document['alpha']:g}, "
        f"lambda = {document['regularization']:g}; "
        f"{rounds} of {document['server_step']} with {cohort}, {sweeps} of ALS"
    )


def legend(document: dict[str, Any]) -> str:
    """Explain the columns."""
    return (
        "Mean ± sd over the builds; the difference relative to ALS's mean, paired over the builds, and "
        "paired over the users after averaging each user's builds; TOST at a margin of "
        f"{document['margin_percent']:g} %. Normalised forms are left out where they equal the plain ones."
    )


def _apart(document: dict[str, Any]) -> str:
    items, users, scores = (
        f"{100 * document[f'{name}_difference']:.3g} %" for name in ModelDifference._fields
    )
    return (
        f"At their ends the models differ by {items} in the item factors, turned onto each other, by {users} "
        f"in the user factors and by {scores} in the scores of all users and items."
    )


def table_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Arrange the metrics for the eye, a cell for each of HEADINGS."""
    return [_row(name, one) for name, one in distinct_metrics(document["metrics"]).items()]


def _row(name: str, figures: Figures) -> tuple[str, ...]:
    return (
        name,
        _spread(figures["centralized_mean"], figures["centralized_sd"]),
        _spread(figures["federated_mean"], figures["federated_sd"]),
        _difference(figures),
        _difference(figures["per_user"]) if figures["per_user"] else _UNKNOWN,
        _p_value(figures["tost_p"]),
    )


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return _UNKNOWN
    digits = 4 if abs(mean) < 100 else 0
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _difference(figures: Figures) -> str:
    if figures["difference_percent"] is None:
        return _UNKNOWN
    middle = f"{figures['difference_percent']:+.2f}"
    if figures["difference_low_percent"] is None:
        return middle
    return f"{middle} [{figures['difference_low_percent']:+.2f}, {figures['difference_high_percent']:+.2f}]"


def _p_value(p: float | None) -> str:
    if p is None:
        return _UNKNOWN
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
