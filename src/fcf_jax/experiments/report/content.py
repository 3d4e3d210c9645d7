"""Content of a report: whatever was stored, arranged for the page template."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.report.audit_content import audit_content
from fcf_jax.experiments.report.comparison_content import comparison_content
from fcf_jax.experiments.report.read import (
    Stored,
    StoredAudit,
    StoredComparison,
    StoredRun,
    StoredSweep,
    StoredTuning,
)
from fcf_jax.experiments.report.run_content import Content, run_content
from fcf_jax.experiments.report.side_by_side import side_by_side
from fcf_jax.experiments.report.sweep_content import sweep_content
from fcf_jax.experiments.report.tuning_content import tuning_content
from fcf_jax.experiments.report.wording import (
    NOT_PRIVATE_NOTE,
    SECURE_SUM_NOTE,
    UNFINISHED_NOTE,
    listed,
    privacy_note,
)
from fcf_jax.messages import count_of

_MOST_SECTIONS = 8  # of one page, with all details


class _Kind(NamedTuple):
    """Kind of page.

    Attributes:
        name: of one.
        template: macro of the template that shows one.
        content: (stored, anchor=...) -> what the macro shows.
    """

    name: str
    template: str
    content: Callable[..., Content]


_KINDS: dict[type[Stored], _Kind] = {
    StoredRun: _Kind("run", "run.html", run_content),
    StoredComparison: _Kind("comparison", "comparison.html", comparison_content),
    StoredTuning: _Kind("tuning", "tuning.html", tuning_content),
    StoredSweep: _Kind("sweep", "sweep.html", sweep_content),
    StoredAudit: _Kind("audit", "audit.html", audit_content),
}


def page_content(everything: Sequence[Stored]) -> Content:
    """Arrange all that the page shows: details as long as there are few, and runs side by side."""
    runs = [stored for stored in everything if isinstance(stored, StoredRun)]
    is_single, kinds = len(everything) == 1, [_KINDS[type(stored)].name for stored in everything]
    counts = [count_of(kinds.count(kind.name), kind.name) for kind in _KINDS.values() if kind.name in kinds]
    detailed, left_out = _detailed(everything)
    return {
        "title": everything[0].name if is_single else listed(counts),
        "kind": kinds[0] if is_single else "side by side",
        "is_single": is_single,
        "sections": [_section(stored, position) for position, stored in enumerate(detailed, start=1)],
        "left_out": [stored.name for stored in left_out],
        "joint": side_by_side(runs) if len(runs) > 1 else None,
        "privacy_note": " ".join(sorted({_note_of(stored) for stored in everything})),
    }


def _detailed(everything: Sequence[Stored]) -> tuple[list[Stored], list[Stored]]:
    """Split into what gets a section and what does not: of many, first the runs go, which have a table."""
    others: list[Stored] = [stored for stored in everything if not isinstance(stored, StoredRun)]
    detailed = list(everything) if len(everything) <= _MOST_SECTIONS else others[:_MOST_SECTIONS]
    return detailed, [stored for stored in everything if all(stored is not one for one in detailed)]


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
    anchor, kind = f"outcome-{position}", _KINDS[type(stored)]
    return {
        "anchor": anchor,
        "name": stored.name,
        "kind": kind.name,
        "template": kind.template,
        "warnings": [],
        "settings": _settings(stored.config),
        "environment": _environment(stored.environment),
        **kind.content(stored, anchor=anchor),
    }


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
