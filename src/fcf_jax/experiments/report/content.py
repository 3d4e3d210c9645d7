"""Content of a report: stored runs, comparisons and tunings arranged for the page template."""

import base64
import itertools
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.report.panels import LegendEntry, legend_entry, panels_of_runs
from fcf_jax.experiments.report.read import Stored, StoredComparison, StoredRun, StoredTuning
from fcf_jax.experiments.report.run_content import Content, drawn_panels, plain_and_normalized, run_content
from fcf_jax.experiments.report.wording import (
    NOT_PRIVATE_NOTE,
    SECURE_SUM_NOTE,
    UNFINISHED_NOTE,
    count_text,
    listed,
    loss_text,
    number_text,
    p_text,
    percent_text,
    privacy_note,
    seconds_text,
    several,
    size_text,
)

_MOST_TRIALS = 100
_KINDS = {StoredRun: "run", StoredComparison: "comparison", StoredTuning: "tuning"}


def page_content(everything: Sequence[Stored]) -> Content:
    """Arrange all that the page shows."""
    runs = [stored for stored in everything if isinstance(stored, StoredRun)]
    is_single, kinds = len(everything) == 1, [_KINDS[type(stored)] for stored in everything]
    counts = [several(kinds.count(kind), kind) for kind in _KINDS.values() if kind in kinds]
    return {
        "title": everything[0].name if is_single else listed(counts),
        "kind": kinds[0] if is_single else "side by side",
        "is_single": is_single,
        "sections": [_section(stored, position) for position, stored in enumerate(everything, start=1)],
        "joint": _side_by_side(runs) if len(runs) > 1 else None,
        "privacy_note": " ".join(sorted({_note_of(stored) for stored in everything})),
    }


def _note_of(stored: Stored) -> str:
    """Return the privacy note, from the summary of a finished run, otherwise from the configuration."""
    summary = stored.summary if isinstance(stored, StoredRun) else None
    privacy = stored.config.get("privacy", {})
    mode = PRIVACY_MODES[privacy.get("mode", "plain")]
    if summary is not None or not mode.protects_uploads:
        return privacy_note(summary)
    if mode.sums_securely:
        return SECURE_SUM_NOTE.format(privacy["min_cohort"])
    return UNFINISHED_NOTE if privacy.get("seed") is None else NOT_PRIVATE_NOTE


def _section(stored: Stored, position: int) -> Content:
    anchor = f"outcome-{position}"
    common = {
        "anchor": anchor,
        "name": stored.name,
        "kind": _KINDS[type(stored)],
        "settings": _settings(stored.config),
        "environment": _environment(stored.environment),
    }
    if isinstance(stored, StoredRun):
        return common | run_content(stored, anchor=anchor)
    if isinstance(stored, StoredComparison):
        return common | _comparison(stored)
    return common | _tuning(stored)


def _comparison(stored: StoredComparison) -> Content:
    document = stored.document
    metrics = document.get("metrics", {})
    groups = [names for names in plain_and_normalized(metrics) if names]
    return {
        "headline": document.get("verdict", "This comparison did not finish: it has no verdict."),
        "is_finished": "verdict" in document,
        "num_builds": document.get("num_builds"),
        "margin": percent_text(document.get("margin_percent"), decimals=None, is_signed=False),
        "tables": [[_comparison_row(name, metrics[name]) for name in names] for names in groups],
        "pictures": _images(stored.images),
    }


def _comparison_row(name: str, found: Content) -> Content:
    return {
        "name": name,
        "federated": _spread(name, found, "federated"),
        "centralized": _spread(name, found, "centralized"),
        "difference": percent_text(found.get("difference_percent")),
        "tost_p": p_text(found.get("tost_p")),
    }


def _spread(name: str, found: Content, side: str) -> str:
    mean, deviation = found.get(f"{side}_mean"), found.get(f"{side}_sd")
    if name == "loss":
        return f"{loss_text(mean)} ± {loss_text(deviation, scale=mean)}"
    return f"{number_text(mean)} ± {number_text(deviation)}"


def _tuning(stored: StoredTuning) -> Content:
    is_finished = bool(stored.config)
    count, shown = several(len(stored.trials), "trial"), stored.trials[:_MOST_TRIALS]
    return {
        "headline": f"Tuned in {count}." if is_finished else f"This tuning did not finish: {count} so far.",
        "is_finished": is_finished,
        "head": [name.replace("_", " ") for name in stored.trials[0]] if stored.trials else [],
        "rows": [[_cell(text) for text in trial.values()] for trial in shown],
        "num_more": len(stored.trials) - len(shown),
        "pictures": _images(stored.images),
    }


def _cell(text: str) -> str:
    try:
        return f"{float(text):.5g}"
    except (TypeError, ValueError):
        return str(text)


def _images(images: dict[str, bytes]) -> list[tuple[str, str]]:
    """Return a title for each PNG file, and its content in base64."""
    return [
        (name.replace("_", " ").replace("-", " ").capitalize(), base64.b64encode(image).decode())
        for name, image in images.items()
    ]


def _settings(config: dict[str, Any]) -> dict[str, list[tuple[str, str, bool]]]:
    """Return for each section its keys, their values, and whether these differ from the defaults."""
    defaults = ExperimentConfig().to_dict()
    return {
        section: [
            (key, _value(value), defaults.get(section, {}).get(key) != value) for key, value in keys.items()
        ]
        for section, keys in config.items()
    }


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment(environment: dict[str, Any]) -> Content:
    machine = {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in environment.items()
        if name not in ("versions", "arguments", "earlier")
    }
    arguments = environment.get("arguments")
    command = None if arguments is None else shlex.join(["fcf", *map(str, arguments)])
    return {"machine": machine, "versions": environment.get("versions", {}), "command": command}


def _side_by_side(runs: Sequence[StoredRun]) -> Content:
    entries = [legend_entry(run, position) for position, run in enumerate(runs)]
    names = list(dict.fromkeys(name for run in runs for name in run.main_metrics))
    return {
        "names": names,
        "rows": [_row(run, runs, entry, names) for run, entry in zip(runs, entries, strict=True)],
        "figures": drawn_panels(panels_of_runs(runs), "joint"),
        "differences": _differences(runs),
        "entries": entries,
    }


def _row(run: StoredRun, runs: Sequence[StoredRun], entry: LegendEntry, names: Sequence[str]) -> Content:
    summary, federated = run.summary or {}, run.side("federated")
    rounds = summary.get("num_rounds", run.num_rounds)
    total = run.bytes_per_round * rounds
    return {
        "entry": entry,
        "is_finished": run.summary is not None,
        "cells": [
            *(number_text(federated.get(name)) for name in names),
            loss_text(federated.get("loss")),
            percent_text(_against_als(run, runs)),
            count_text(rounds),
            count_text(summary.get("cohort_size")),
            size_text(total / summary.get("num_users", np.nan)),
            size_text(total),
            seconds_text(summary.get("seconds_per_round")),
        ],
    }


def _against_als(run: StoredRun, runs: Sequence[StoredRun]) -> float | None:
    loss, reference = run.side("federated").get("loss"), run.als_loss(runs)
    return 100 * (loss - reference) / abs(reference) if loss is not None and reference else None


def _differences(runs: Sequence[StoredRun]) -> Content:
    """Return the keys of the configurations whose values are not the same in all runs."""
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
