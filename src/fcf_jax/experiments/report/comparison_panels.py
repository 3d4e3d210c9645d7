"""Curves of a comparison, the differences that it found, and those of its users."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fcf_jax.evaluation.metrics import RANKING
from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED
from fcf_jax.experiments.report.drawing import GRID, INK, MUTED, SERIES
from fcf_jax.experiments.report.panels import LegendEntry, Level, Line, Panel
from fcf_jax.experiments.report.read import StoredComparison
from fcf_jax.experiments.report.wording import metric_text

_SIDES = {
    FEDERATED: LegendEntry("federated, mean ± sd", SERIES[0]),
    CENTRALIZED: LegendEntry("centralised ALS, mean ± sd", SERIES[1], "--"),
}
_FACTORS = {
    "item_factors": LegendEntry("item factors, aligned", SERIES[0]),
    "user_factors": LegendEntry("user factors, same rotation", SERIES[1], "--"),
    "scores": LegendEntry("scores", SERIES[2], "-."),
}
OVER_REPLICATES = LegendEntry("paired over the replicates, 95 % interval", SERIES[0])
OVER_USERS = LegendEntry("paired over the users", SERIES[1], "--")
_OFFSET = 0.16  # of the two intervals of a metric from its line
_ROW = 0.3  # inches for each metric


def panels_of_comparison(stored: StoredComparison) -> list[Panel]:
    """Return the panels: loss and metrics by round, by payload; differences of models and of users."""
    names = [f"{name}_at_{stored.document.get('k', 10)}" for name in RANKING]
    panels = [_loss_panel(stored), *(_metric_panel(stored, name) for name in names), _factors_panel(stored)]
    panels += [_payload_panel(panel, stored) for panel in panels[:1]]
    panels += [_users_panel(stored, name) for name in names if name.startswith("map")]
    return [panel for panel in panels if not panel.is_empty]


def forest_size(metrics: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches of the picture of the differences."""
    return 5.0, 0.6 + _ROW * len(metrics)


def draw_forest(axes: Axes, metrics: Mapping[str, Mapping[str, Any]], margin: float) -> None:
    """Draw the difference in each metric in percent, with confidence intervals, and the margin."""
    axes.axvspan(-margin, margin, color=SERIES[2].light, alpha=0.15, linewidth=0)
    axes.axvline(0, color=MUTED.light, linewidth=0.8)
    pairs = ((OVER_REPLICATES, "o", -_OFFSET), (OVER_USERS, "D", _OFFSET))
    for entry, marker, offset in pairs:
        found = [one if entry == OVER_REPLICATES else one.get("per_user") or {} for one in metrics.values()]
        ends = [[one.get(f"difference{end}_percent") for end in ("", "_low", "_high")] for one in found]
        values, low, high = np.array(ends, np.float64).reshape(-1, 3).T
        places = np.arange(len(found)) + offset
        axes.hlines(places, low, high, color=entry.color.light, linewidth=1.4)
        axes.plot(values, places, marker, color=entry.color.light, markersize=4)
    axes.set_yticks(range(len(metrics)), [_title(name) for name in metrics])
    axes.invert_yaxis()
    axes.set_xlabel("federated - centralised, % of the centralised mean", color=MUTED.light, loc="right")
    axes.grid(axis="x", color=GRID.light, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID.light)
    axes.tick_params(color=GRID.light, labelcolor=MUTED.light, length=0)
    axes.tick_params(axis="y", labelcolor=INK.light)
    axes.set_facecolor("none")


def _title(name: str) -> str:
    return metric_text(name) + (", normalised" if name.startswith("normalized_") else "")


def _loss_panel(stored: StoredComparison) -> Panel:
    last, lines = stored.document.get("num_rounds", np.inf), []
    for side, entry in _SIDES.items():
        rounds, values = stored.curves.get(side, "loss")
        if len(rounds):
            final = stored.curves.get(CENTRALIZED, "loss").values[-1]
            line = _with_band(entry, rounds, 100 * values / final - 100)
            lines.append(line.where(line.x <= max(last, 1)))
    title, label = "Loss above converged ALS, by round", "round of FCF, sweep of ALS"
    return Panel(title, lines, [Level(0.0)], x_label=label, y_axis="excess")


def _metric_panel(stored: StoredComparison, name: str) -> Panel:
    last = stored.document.get("num_rounds", np.inf)
    lines = [
        _with_band(entry, *curve).where(curve.rounds <= max(last, 1))
        for side, entry in _SIDES.items()
        if len((curve := stored.curves.get(side, name)).rounds)
    ]
    return Panel(f"{metric_text(name)}, by round", lines, x_label="round of FCF, sweep of ALS")


def _payload_panel(panel: Panel, stored: StoredComparison) -> Panel:
    document = stored.document
    lines = [line for line in panel.lines if line.entry == _SIDES[FEDERATED] and document]
    if lines:
        share = document["cohort_size"] / document["num_users"]
        per_round = share * (document["payload_bytes_up"] + document["payload_bytes_down"])
        (line,) = (line.where(line.x > 0) for line in lines)
        lines = [line._replace(x=line.x * per_round)]
    title, label = "Loss above converged ALS, by payload", "sent and received per client"
    return panel._replace(title=title, lines=lines, x_label=label, x_axis="bytes")


def _factors_panel(stored: StoredComparison) -> Panel:
    lines = []
    for name, entry in _FACTORS.items():
        rounds, values = stored.curves.get(BOTH, f"{name}_difference")
        if len(rounds):
            lines.append(_with_band(entry, rounds, 100 * values))
    label = "rounds of FCF, sweeps of ALS"
    return Panel("Relative difference of the two models", lines, x_label=label, y_axis="share")


def _users_panel(stored: StoredComparison, name: str) -> Panel:
    rows = [row for row in stored.users if row["metric"] == name]
    ends = np.array([(row["low"], row["high"], row["users"]) for row in rows], np.float64).reshape(-1, 3)
    low, high, counts = ends.T
    entry = LegendEntry("users, averaged over the replicates first", SERIES[0])
    share = 100 * counts / max(counts.sum(), 1)
    title = f"Difference in {metric_text(name)} of a user"
    return Panel(title, [Line(entry, (low + high) / 2, share)], x_label="federated - centralised",
                 x_axis="linear", y_axis="share")  # fmt: skip


def _with_band(entry: LegendEntry, rounds: np.ndarray, values: np.ndarray) -> Line:
    """Return the mean over the replicates, [rounds, replicates], and a band of one standard deviation."""
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=min(values.shape[1] - 1, 1))
    return Line(entry, rounds, mean, mean - sd, mean + sd)
