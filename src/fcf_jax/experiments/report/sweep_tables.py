"""Files and table of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.report.pareto import floor_of, pareto_files
from fcf_jax.experiments.report.wording import UNKNOWN, metric_text, size_text
from fcf_jax.experiments.store.files import Document, write_atomically
from fcf_jax.experiments.store.run_directory import SWEEP, SWEEP_ROWS
from fcf_jax.experiments.sweep.plan import value_text
from fcf_jax.messages import count_of

_MOST_ROWS = 40  # on the screen
_DECIMALS = 4
_MARK = "*"
_OF_ATTACKS = ("er_at_10",)  # shown beside the leading metric


def write_sweep(folder: Path, document: Document, rows: Sequence[Document]) -> None:
    """Write `sweep.csv` (a row for each run), `pareto.png`, `pareto.svg` and, last, `sweep.json`."""
    SWEEP_ROWS.write(folder, list(rows))
    for name, content in pareto_files(document).items():
        write_atomically(folder / name, content)
    SWEEP.write(folder, document)  # last: marks the sweep as finished


def show_sweep(document: Document) -> None:
    """Print the configurations, the best first, what the mark means, and the cautions."""
    head, rows = table_of(document)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    num_keys = len(document["configurations"][0]["values"])
    for position, heading in enumerate(head):
        table.add_column(heading, justify="left" if 0 < position <= num_keys else "right")
    for row in rows[:_MOST_ROWS]:
        table.add_row(*row)
    new_console().print(table)
    if len(rows) > _MOST_ROWS:
        say(f"{len(rows) - _MOST_ROWS} more are in sweep.csv.")
    say(legend_text(document))
    for caution in document["cautions"]:
        say(f"warning: {caution}")


def table_of(document: Document) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows, one for each configuration; the first column marks the non-dominated ones."""
    configurations = document["configurations"]
    keys = list(configurations[0]["values"])
    names = [key.partition(".")[2] for key in keys]
    shown = [name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)]
    known = {name for one in configurations for name in one}
    costs = {name: heading for name, heading in _HEADINGS.items() if name in known}
    measured = {name for one in configurations for name in one["metrics"]}
    metrics = [document["metric"], *(name for name in _OF_ATTACKS if name in measured)]
    head = ["", *shown, *map(metric_text, metrics), *costs.values()]
    has_failures = any(one["num_failed"] for one in configurations)
    return [*head, *(["failed"] if has_failures else [])], [
        [
            _MARK if one["is_non_dominated"] else "",
            *(value_text(one["values"][key]) for key in keys),
            *(_spread(one["metrics"].get(name)) for name in metrics),
            *(_cost_text(name, one.get(name)) for name in costs),
            *([f"{one['num_failed']} of {one['num_runs']}"] if has_failures else []),
        ]
        for one in configurations
    ]


def legend_text(document: Document) -> str:
    """Return what the table shows, in sentences."""
    configurations, metric = document["configurations"], metric_text(document["metric"])
    num_seeds = max(one["num_runs"] for one in configurations)
    floor, costs = floor_of(document), [_PLAIN[name] for name in document["costs"]]
    better = "lower" if document["is_lower_better"] else "higher"
    sentences = [
        f"{count_of(document['num_runs'], 'run')} in {count_of(document['num_programs'], 'program')}.",
        f"{_MARK} no other is as good in {' and '.join([metric, *costs])} and better in one."
        if costs
        else f"{_MARK} the best: the costs are the same.",
        f"{metric}: {better} is better" + (f", mean ± sd over {num_seeds} seeds" if num_seeds > 1 else "")
        + (f"; popularity has {floor:.{_DECIMALS}f}." if floor is not None else "."),
    ]  # fmt: skip
    return " ".join(sentences)


_HEADINGS = {"bytes_per_client": "per client", "epsilon": "epsilon", "virtual_seconds": "virtual s"}
_PLAIN = {"bytes_per_client": "bytes", "epsilon": "epsilon", "virtual_seconds": "virtual time"}


def _spread(found: Document | None) -> str:
    mean = None if found is None else found.get("mean")
    if found is None or mean is None or mean != mean:
        return UNKNOWN
    sd = found.get("sd")
    return f"{mean:.{_DECIMALS}f}" + ("" if sd is None or sd != sd else f" ± {sd:.{_DECIMALS}f}")


def _cost_text(name: str, value: float | None) -> str:
    if value is None or value != value:
        return UNKNOWN
    return size_text(value) if name == "bytes_per_client" else f"{value:.3g}"
