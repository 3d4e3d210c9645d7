"""Content of a report about a tuning: what was gained, the best values, then all trials."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcf_jax.experiments.report.drawing import SERIES
from fcf_jax.experiments.report.panels import LegendEntry, Line, Panel
from fcf_jax.experiments.report.read import StoredTuning
from fcf_jax.experiments.report.run_content import Content, drawn_panels
from fcf_jax.experiments.report.wording import UNKNOWN, metric_text, number_text, percent_text
from fcf_jax.messages import count_of

_MOST_TRIALS = 100
_NOT_PARAMETERS = ("stage", "trial", "number", "state", "value", "last_step")
_COMPLETE = LegendEntry("complete", SERIES[0], "")
_PRUNED = LegendEntry("pruned", SERIES[1], "")
_BEST = LegendEntry("best so far", SERIES[2])
_WIDE = 20.0  # largest over smallest value from which an axis is logarithmic

Trial = dict[str, str]


def tuning_content(stored: StoredTuning, *, anchor: str) -> Content:
    """Arrange the gain, the best values of each study, its pictures and the trials."""
    is_finished, document = bool(stored.config), stored.document
    count = count_of(len(stored.trials), "trial")
    stages = _stages(stored.trials)
    metric = document.get("metric", "value")
    is_lower_better = metric.endswith("rmse")
    shown = stored.trials[:_MOST_TRIALS]
    return {
        "headline": _headline(document, count)
        if is_finished
        else f"This tuning did not finish: {count} so far.",
        "is_finished": is_finished,
        "warnings": document.get("at_bounds", []),
        "tiles": _tiles(document, stored.trials) if document else [],
        "best": [
            {"stage": stage, "rows": rows}
            for stage, trials in stages.items()
            if (rows := _best_rows(trials, metric, is_lower_better=is_lower_better))
        ],
        "figures": drawn_panels(
            [
                panel
                for stage, trials in stages.items()
                for panel in _panels(stage, trials, metric, is_lower_better=is_lower_better)
            ],
            anchor,
        ),
        "head": [name.replace("_", " ") for name in stored.trials[0]] if stored.trials else [],
        "rows": [[_cell(text) for text in trial.values()] for trial in shown],
        "num_more": len(stored.trials) - len(shown),
    }


def _gain(document: dict[str, Any]) -> float | None:
    start, best = document.get("start_value"), document.get("best_value")
    if start is None or best is None or not start:
        return None
    return 100 * (best - start) / abs(start)


def _headline(document: dict[str, Any], count: str) -> str:
    if not document:
        return f"Tuned in {count}."
    name, best = metric_text(document["metric"]), number_text(document["best_value"])
    if (gain := _gain(document)) is None:
        return f"Tuned in {count}: {name} on the validation set is {best}."
    start = number_text(document["start_value"])
    if not gain:
        return f"Nothing better was found in {count}: {name} on the validation set stays {start}."
    return (
        f"Tuned in {count}: {name} on the validation set went from {start} to {best}, {percent_text(gain)}."
    )


def _tiles(document: dict[str, Any], trials: Sequence[Trial]) -> list[tuple[str, str, str]]:
    name, states = metric_text(document["metric"]), [trial.get("state") for trial in trials]
    num_pruned = states.count("pruned")
    note = "lower is better" if document["metric"].endswith("rmse") else "higher is better"
    tiles = [
        ("gain", percent_text(_gain(document)), f"{name} on the validation set"),
        (f"{name}, tuned", number_text(document["best_value"]), note),
        (f"{name}, as configured", number_text(document.get("start_value")), ""),
        ("trials", str(len(trials)), f"{num_pruned} stopped early"),
    ]
    if (floor := document.get("popularity")) is not None:
        tiles.append((f"{name} of popularity", number_text(floor), "the floor"))
    return tiles


def _stages(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    stages: dict[str, list[Trial]] = {}
    for trial in trials:
        stages.setdefault(trial.get("stage", ""), []).append(trial)
    return stages


def _parameters(trials: Sequence[Trial]) -> list[str]:
    """Return the parameters of a study: those that have a value in one of its trials."""
    return [key for key in trials[0] if key not in _NOT_PARAMETERS and any(trial[key] for trial in trials)]


def _best_rows(trials: Sequence[Trial], metric: str, *, is_lower_better: bool) -> list[tuple[str, str, str]]:
    """Return for each parameter, and for the metric, the value of the first and of the best trial."""
    complete = [
        trial for trial in trials if trial.get("state") == "complete" and _is_number(trial.get("value", ""))
    ]
    if not complete:
        return []
    start = next(trial for trial in trials if trial.get("value", "") or trial.get("state") == "pruned")
    best = (min if is_lower_better else max)(complete, key=lambda trial: float(trial.get("value", "")))
    keys = _parameters(trials)
    value = (metric_text(metric), _cell(start["value"]) or UNKNOWN, _cell(best["value"]))
    return [value, *((key, _cell(start[key]) or UNKNOWN, _cell(best[key])) for key in keys)]


def _panels(stage: str, trials: Sequence[Trial], metric: str, *, is_lower_better: bool) -> list[Panel]:
    """Return the history of a study, and its values against each parameter that is a number."""
    if not _is_number_in(trials, "value"):
        return []
    positions = np.arange(len(trials), dtype=np.float64)
    title = metric_text(metric)
    complete = [trial.get("value", "") if trial.get("state") == "complete" else "" for trial in trials]
    best_of = np.fmin if is_lower_better else np.fmax
    best = Line(_BEST, positions, best_of.accumulate(np.array([_number(text) for text in complete])))
    history = Panel(
        f"{title} by trial of the {stage}", [*_marks(trials, positions), best], x_label="trial",
        x_axis="linear",
    )  # fmt: skip
    slices = []
    for key in _parameters(trials):
        places = np.array([_number(trial[key]) for trial in trials])
        known = places[np.isfinite(places)]
        if len(set(known)) < 2:
            continue
        is_wide = known.min() > 0 and known.max() / known.min() > _WIDE
        marks = _marks(trials, places)
        slices.append(
            Panel(f"{title} by {key}", marks, x_label=key, x_axis="logarithmic" if is_wide else "linear")
        )
    return [panel for panel in (history, *slices) if not panel.is_empty]


def _marks(trials: Sequence[Trial], places: np.ndarray) -> list[Line]:
    values = np.array([_number(trial.get("value", "")) for trial in trials])
    is_pruned = np.array([trial.get("state") == "pruned" for trial in trials])
    shown = np.isfinite(values) & np.isfinite(places)
    lines = [
        Line(_COMPLETE, places, values).where(shown & ~is_pruned),
        Line(_PRUNED, places, values).where(shown & is_pruned),
    ]
    return [line for line in lines if len(line.x)]


def _is_number_in(trials: Sequence[Trial], key: str) -> bool:
    return any(_is_number(trial.get(key, "")) for trial in trials)


def _is_number(text: str) -> bool:
    return math.isfinite(_number(text))


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _cell(text: str) -> str:
    number = _number(text)
    return f"{number:.5g}" if math.isfinite(number) else str(text or "")
