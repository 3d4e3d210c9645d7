"""What a report says: the numbers of outcomes, arranged for its template."""

import base64
import itertools
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.report import curves
from fcf_jax.experiments.report.curves import bytes_per_round, side
from fcf_jax.experiments.report.outcomes import ComparisonOutcome, Outcome, RunOutcome, TuningOutcome
from fcf_jax.experiments.report.pictures import Line
from fcf_jax.experiments.report.run_content import Content, figures_of, num_rounds, run_content
from fcf_jax.experiments.report.wording import (
    NOTHING,
    count_text,
    listed,
    loss_text,
    number_text,
    percent_text,
    seconds_text,
    several,
    size_text,
)

_MOST_TRIALS = 100
_KINDS = {RunOutcome: "run", ComparisonOutcome: "comparison", TuningOutcome: "tuning"}


class Picture(NamedTuple):
    """A PNG that somebody else drew."""

    title: str
    data: str  # base64


class Setting(NamedTuple):
    """A key of the configuration."""

    key: str
    value: str
    is_changed: bool  # from the default


def content_of(outcomes: Sequence[Outcome]) -> Content:
    """Arrange everything that the page shows."""
    runs = [outcome for outcome in outcomes if isinstance(outcome, RunOutcome)]
    sections = [_section(outcome, position) for position, outcome in enumerate(outcomes, start=1)]
    counts = [
        several(sum(isinstance(one, kind) for one in outcomes), noun)
        for kind, noun in _KINDS.items()
        if any(isinstance(one, kind) for one in outcomes)
    ]
    return {
        "title": outcomes[0].name if len(outcomes) == 1 else listed(counts),
        "kind": _KINDS[type(outcomes[0])] if len(outcomes) == 1 else "side by side",
        "is_single": len(outcomes) == 1,
        "sections": sections,
        "joint": _joint(runs) if len(runs) > 1 else None,
    }


def _section(outcome: Outcome, position: int) -> Content:
    common = {
        "anchor": f"outcome-{position}",
        "name": outcome.name,
        "kind": _KINDS[type(outcome)],
        "settings": _settings(outcome.config),
        "environment": _environment(outcome.environment),
    }
    if isinstance(outcome, RunOutcome):
        return common | run_content(outcome, anchor=common["anchor"])
    if isinstance(outcome, ComparisonOutcome):
        return common | _comparison(outcome)
    return common | _tuning(outcome)


def _comparison(outcome: ComparisonOutcome) -> Content:
    comparison = outcome.comparison
    metrics = comparison.get("metrics", {})
    groups = [
        [name for name in metrics if name.startswith("normalized_") == which] for which in (False, True)
    ]
    return {
        "headline": comparison.get("verdict", "This comparison did not finish: it has no verdict."),
        "is_finished": "verdict" in comparison,
        "num_builds": comparison.get("num_builds"),
        "margin": percent_text(comparison.get("margin_percent"), digits=None).lstrip("+"),
        "tables": [[_comparison_row(name, metrics[name]) for name in names] for names in groups if names],
        "pictures": _pictures(outcome.pictures),
    }


def _comparison_row(name: str, values: Content) -> Content:
    p = values.get("tost_p")
    return {
        "name": name,
        "federated": _spread(name, values, "federated"),
        "centralized": _spread(name, values, "centralized"),
        "difference": percent_text(values.get("difference_percent")),
        "tost_p": NOTHING if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}",
    }


def _spread(name: str, values: Content, which: str) -> str:
    mean, deviation = values.get(f"{which}_mean"), values.get(f"{which}_sd")
    if name == "loss":
        return f"{loss_text(mean)} ± {loss_text(deviation, beside=mean)}"
    return f"{number_text(mean)} ± {number_text(deviation)}"


def _tuning(outcome: TuningOutcome) -> Content:
    is_finished = bool(outcome.config)
    trials = several(len(outcome.trials), "trial")
    return {
        "headline": f"Tuned in {trials}." if is_finished else f"This tuning did not finish: {trials} so far.",
        "is_finished": is_finished,
        "head": [name.replace("_", " ") for name in outcome.trials[0]] if outcome.trials else [],
        "rows": [[_cell(text) for text in trial.values()] for trial in outcome.trials[:_MOST_TRIALS]],
        "num_more": max(len(outcome.trials) - _MOST_TRIALS, 0),
        "pictures": _pictures(outcome.pictures),
    }


def _cell(text: str) -> str:
    try:
        return f"{float(text):.5g}"
    except (TypeError, ValueError):
        return str(text)


def _pictures(pictures: dict[str, bytes]) -> list[Picture]:
    return [
        Picture(name.replace("_", " ").replace("-", " ").capitalize(), base64.b64encode(image).decode())
        for name, image in pictures.items()
    ]


def _settings(config: dict[str, Any]) -> dict[str, list[Setting]]:
    defaults = ExperimentConfig().to_dict()
    return {
        section: [
            Setting(key, _value(value), defaults.get(section, {}).get(key) != value)
            for key, value in keys.items()
        ]
        for section, keys in config.items()
        if isinstance(keys, dict)
    }


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment(environment: dict[str, Any]) -> Content:
    machine = {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in environment.items()
        if name not in ("versions", "arguments")
    }
    arguments = environment.get("arguments")
    command = None if arguments is None else shlex.join(["fcf", *map(str, arguments)])
    return {"machine": machine, "versions": environment.get("versions", {}), "command": command}


def _joint(runs: Sequence[RunOutcome]) -> Content:
    lines = [curves.line_of(run, position) for position, run in enumerate(runs)]
    names = list(dict.fromkeys(name for run in runs for name in curves.main_metrics(run)))
    return {
        "names": names,
        "rows": [_joint_row(run, runs, line, names) for run, line in zip(runs, lines, strict=True)],
        "figures": figures_of(curves.panels_of_all(runs), "joint"),
        "differences": _differences(runs),
        "lines": lines,
    }


def _joint_row(run: RunOutcome, runs: Sequence[RunOutcome], line: Line, names: Sequence[str]) -> Content:
    summary, federated = run.summary or {}, side(run, "federated")
    rounds, users = summary.get("num_rounds", num_rounds(run)), summary.get("num_users", np.nan)
    total = bytes_per_round(run) * rounds
    return {
        "line": line,
        "is_finished": run.summary is not None,
        "cells": [
            *(number_text(federated.get(name)) for name in names),
            loss_text(federated.get("loss")),
            percent_text(_against_als(run, runs)),
            count_text(rounds),
            count_text(summary.get("cohort_size")),
            size_text(total / users),
            size_text(total),
            seconds_text(summary.get("seconds_per_round")),
        ],
    }


def _against_als(run: RunOutcome, runs: Sequence[RunOutcome]) -> float | None:
    loss, reference = side(run, "federated").get("loss"), curves.als_loss(run, runs)
    return 100 * (loss - reference) / abs(reference) if loss is not None and reference else None


def _differences(runs: Sequence[RunOutcome]) -> Content:
    """The keys of the configurations that are not the same in all runs."""
    flat = [
        {
            f"{section}.{key}": _value(value)
            for section, keys in run.config.items()
            for key, value in keys.items()
        }
        for run in runs
    ]
    keys = [
        key
        for key in dict.fromkeys(itertools.chain(*flat))
        if len({settings.get(key) for settings in flat}) > 1
    ]
    return {"keys": keys, "rows": [[settings.get(key, "unset") for key in keys] for settings in flat]}
