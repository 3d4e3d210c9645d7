"""Content of a report about an audit: a verdict on each attack, figures with intervals, and leakage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fcf_jax.experiments.audit.verdicts import OUTCOMES_LEGEND, legend_of, verdicts_of
from fcf_jax.experiments.report.drawing import SERIES
from fcf_jax.experiments.report.panels import LegendEntry, Line, Panel
from fcf_jax.experiments.report.read import StoredAudit
from fcf_jax.experiments.report.run_content import Content, drawn_panels
from fcf_jax.experiments.report.wording import UNKNOWN

_LINKED = {
    "fitted": LegendEntry("the sum alone", SERIES[0]),
    "knows_gram": LegendEntry("sum of x xᵀ sent as well", SERIES[1]),
}
_UNDER_NOISE = {
    "in_out": LegendEntry("participation, one round", SERIES[0]),
    "all_rounds": LegendEntry("participation, all rounds", SERIES[2]),
    "items": LegendEntry("held items, one upload", SERIES[1]),
}


def audit_content(stored: StoredAudit, *, anchor: str) -> Content:
    """Arrange verdicts, figures, what attackers know, facts and the leakage curve."""
    document = stored.document
    if not document:
        return {
            "headline": "This audit did not finish: it has no audit.json.",
            "is_finished": False,
            "attacks": [],
        }
    verdicts, legend = verdicts_of(document), legend_of(document)
    return {
        "headline": document["verdict"],
        "is_finished": True,
        "attacks": [
            {
                "name": name,
                "outcome": verdict.outcome,
                "sentence": verdict.sentence,
                "knows": document.get("knows", {}).get(name, ""),
                "rows": [_row(figure, value) for figure, value in document["attacks"][name].items()],
            }
            for name, verdict in verdicts.items()
        ],
        "outcomes_legend": OUTCOMES_LEGEND,
        "legend": list(legend.items()),
        "notes": document.get("notes", []),
        "facts": [(name.replace("_", " "), _text(value)) for name, value in document["facts"].items()],
        "figures": drawn_panels(_panels(document.get("leakage", [])), anchor),
        "configured": _configured(document),
    }


def _configured(document: Mapping[str, Any]) -> str:
    facts = document["facts"]
    if facts.get("epsilon") is None:
        return f"As configured: {facts['cohort_size']} clients in a sum."
    return f"As configured: epsilon {facts['epsilon']:.3g} in {facts['num_rounds']} rounds."


def _row(name: str, figure: Mapping[str, float | None]) -> tuple[str, str, str]:
    value, low, high = (figure[end] for end in ("value", "low", "high"))
    if value is None or low is None or high is None or value != value:
        return name, UNKNOWN, UNKNOWN
    return name, f"{value:.4g}", UNKNOWN if low == high else f"{low:.3g} to {high:.3g}"


def _text(value: object) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _panels(points: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Return leakage by cohort size, or under noise by epsilon."""
    if not points:
        return []
    if "cohort_size" in points[0]:
        lines = [_line(entry, points, "cohort_size", name, 100.0) for name, entry in _LINKED.items()]
        title = "Interactions linked to one client by a sum"
        return [Panel(title, lines, x_label="clients in the sum", x_axis="logarithmic", y_axis="share")]
    shown = {name: entry for name, entry in _UNDER_NOISE.items() if name in points[0]}
    lines = [_line(entry, points, "epsilon", name) for name, entry in shown.items()]
    for name, entry in shown.items():
        ceiling = np.array([point[f"{name}_ceiling"] for point in points], np.float64)
        ceiling_entry = LegendEntry(f"ceiling: {entry.label}", entry.color, ":")
        lines.append(Line(ceiling_entry, lines[0].x, ceiling))
    title = "AUC of the strongest attacker; 0.5 is chance"
    return [Panel(title, lines, x_label="epsilon of the whole run", x_axis="logarithmic")]


def _line(
    entry: LegendEntry, points: Sequence[Mapping[str, Any]], by: str, name: str, scale: float = 1.0
) -> Line:
    ends = [[point[name][end] for end in ("value", "low", "high")] for point in points]
    values, low, high = scale * np.array(ends, np.float64).T
    return Line(entry, np.array([point[by] for point in points], np.float64), values, low, high)
