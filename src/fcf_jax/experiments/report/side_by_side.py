"""Content of a report about several runs: groups of them in one table, their curves and what differs."""

from collections.abc import Callable, Sequence

import numpy as np

from fcf_jax.experiments.report.groups import MOST_GROUPS, Group, Reference, groups_of, references_of
from fcf_jax.experiments.report.read import StoredRun
from fcf_jax.experiments.report.run_content import Content, drawn_panels
from fcf_jax.experiments.report.run_panels import panels_of_runs, reference_text
from fcf_jax.experiments.report.wording import (
    UNKNOWN,
    count_text,
    loss_text,
    metric_text,
    number_text,
    percent_text,
    seconds_text,
    size_text,
)

_MOST_ROWS = 200  # of the table of all runs
_MOST_KEYS = 60  # that differ
Text = Callable[[float], str]


def side_by_side(runs: Sequence[StoredRun]) -> Content:
    """Arrange groups of runs: mean ± sd over their seeds, common curves, and the keys that differ."""
    groups = groups_of(runs)
    shown = groups[:MOST_GROUPS]
    references = references_of(runs)
    names = list(dict.fromkeys(name for run in runs for name in run.main_metrics))
    has_epsilon = any(_epsilon(run) is not None for run in runs)
    columns = _columns(names, references, has_epsilon=has_epsilon)
    return {
        "head": [*columns, *(["runs"] if len(runs) > len(groups) else [])],
        "rows": [_row(group, columns, has_count=len(runs) > len(groups)) for group in shown],
        "floor": _floor(runs, names, len(columns) + (len(runs) > len(groups))),
        "reference": reference_text(list(references.values())),
        "is_spread": len(runs) > len(groups),
        "figures": drawn_panels(panels_of_runs(runs), "joint"),
        "groups": [group.entry for group in shown],
        "differences": _differences(shown),
        "num_more_groups": len(groups) - len(shown),
        "members": _members(groups, references, runs[0].leading_metric) if len(runs) > len(groups) else [],
        "member_head": ["loss", "excess loss", metric_text(runs[0].leading_metric), "rounds"],
        "num_more_runs": max(len(runs) - _MOST_ROWS, 0),
    }  # fmt: skip


Column = tuple[Callable[[StoredRun], float | None], Text]


def _columns(
    names: Sequence[str], references: dict[str, Reference], *, has_epsilon: bool
) -> dict[str, Column]:
    """Return the columns of the table: heading, (run) -> value, and how to write one."""

    def metric(name: str) -> Column:
        return (lambda run: run.side("federated").get(name)), number_text

    columns = {metric_text(name): metric(name) for name in names}
    columns["loss"] = (lambda run: run.side("federated").get("loss")), loss_text
    columns["excess loss"] = (
        lambda run: _excess(run, references[run.name]),
        percent_text,
    )
    if has_epsilon:
        columns["epsilon"] = _epsilon, "{:.3g}".format
    return {
        **columns,
        "rounds": (lambda run: (run.summary or {}).get("num_rounds", run.num_rounds), count_text),
        "clients per round": (lambda run: (run.summary or {}).get("cohort_size"), count_text),
        "payload per client": (_payload_per_client, size_text),
        "time per round": (lambda run: (run.summary or {}).get("seconds_per_round"), seconds_text),
    }


def _row(group: Group, columns: dict[str, Column], *, has_count: bool) -> Content:
    cells = [_cell(group, *column) for column in columns.values()]
    return {
        "entry": group.entry,
        "num_unfinished": sum(run.summary is None for run in group.runs),
        "num_runs": len(group.runs),
        "cells": [*cells, *([count_text(len(group.runs))] if has_count else [])],
    }


def _cell(group: Group, value_of: Callable[[StoredRun], float | None], text: Text) -> str:
    mean, sd = group.spread(value_of)
    if not np.isfinite(mean):
        return UNKNOWN
    if not sd:
        return text(mean)
    spread = loss_text(sd, scale=mean) if text is loss_text else text(sd).lstrip("+")
    return f"{text(mean)} ±\N{NO-BREAK SPACE}{spread}"


def _floor(runs: Sequence[StoredRun], names: Sequence[str], num_columns: int) -> list[str]:
    """Return the row of the ranking by popularity, the mean over the runs; empty where it is unknown."""
    cells = []
    for name in names:
        values = [run.side("popularity").get(name) for run in runs]
        known = [value for value in values if value is not None]
        cells.append(number_text(float(np.mean(known))) if known else UNKNOWN)
    if set(cells) <= {UNKNOWN}:
        return []
    return [*cells, *[""] * (num_columns - len(cells))]


def _excess(run: StoredRun, reference: Reference) -> float | None:
    loss = run.side("federated").get("loss")
    return None if loss is None else 100 * (loss - reference.loss) / (abs(reference.loss) or np.nan)


def _epsilon(run: StoredRun) -> float | None:
    statement = (run.summary or {}).get("privacy")
    return statement["epsilon"] if statement and statement["is_private"] else None


def _payload_per_client(run: StoredRun) -> float | None:
    summary = run.summary
    if summary is None:
        return None
    return run.bytes_per_round * summary["num_rounds"] / max(summary["num_users"], 1)


def _members(groups: Sequence[Group], references: dict[str, Reference], name: str) -> list[Content]:
    """Return a row for each run, in the order of the groups."""
    rows = [
        {
            "entry": group.entry,
            "name": run.name,
            "is_finished": run.summary is not None,
            "cells": [
                loss_text(run.side("federated").get("loss")),
                percent_text(_excess(run, references[run.name])),
                number_text(run.side("federated").get(name)),
                count_text((run.summary or {}).get("num_rounds", run.num_rounds)),
            ],
        }
        for group in groups
        for run in group.runs
    ]
    return rows[:_MOST_ROWS]


def _differences(groups: Sequence[Group]) -> Content:
    """Return a row for each key of the configurations whose values are not all the same."""
    keys = list(groups[0].settings)
    rows = [(key, [group.settings[key] for group in groups]) for key in keys[:_MOST_KEYS]]
    return {"rows": rows, "num_more": len(keys) - len(rows)}
