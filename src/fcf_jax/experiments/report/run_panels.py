"""Curves of runs: loss and metrics by round, by payload and, where known, by virtual time and epsilon."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fcf_jax.experiments.report.drawing import MUTED, SERIES
from fcf_jax.experiments.report.groups import MOST_GROUPS, Group, Reference, groups_of, references_of
from fcf_jax.experiments.report.panels import LegendEntry, Level, Line, Panel, XAxis
from fcf_jax.experiments.report.read import Series, StoredRun
from fcf_jax.experiments.report.wording import metric_text

_FEDERATED = LegendEntry("federated", SERIES[0])
_ALS = LegendEntry("centralised ALS, by sweep", SERIES[1], "--")
_CONVERGED = "centralised ALS, converged"
_LOWEST = "lowest loss of these runs"


class _Axis(NamedTuple):
    """What stands on the x axis.

    Attributes:
        suffix: of the panel's title.
        label: of the axis.
        scale: of the axis.
        excess: (run, reference loss) -> percent above it.
        metric: (run, name of a metric) -> its values.
        has_sweeps: whether sweeps of ALS can be drawn beside.
    """

    suffix: str
    label: str
    scale: XAxis
    excess: Callable[[StoredRun, float], Series]
    metric: Callable[[StoredRun, str], Series]
    has_sweeps: bool = False


def _sent(run: StoredRun, series: Series) -> Series:
    is_sent = series.rounds > 0  # before that nothing is sent, and the axis is logarithmic
    return Series(series.rounds[is_sent] * run.bytes_per_round, series.values[is_sent])


_BY_ROUND = _Axis(
    "by round",
    "round",
    "rounds",
    lambda run, reference: run.excess_loss(reference=reference),
    lambda run, name: run.series("evaluation", name),
    has_sweeps=True,
)
_BY_PAYLOAD = _Axis(
    "by payload",
    "sent and received by all clients",
    "bytes",
    lambda run, reference: _sent(run, run.excess_loss(reference=reference)),
    lambda run, name: _sent(run, run.series("evaluation", name)),
)
_BY_VIRTUAL_TIME = _Axis(
    "by virtual time",
    "seconds on the clock of the clients' devices",
    "logarithmic",
    lambda run, reference: run.by_virtual_time(run.excess_loss(reference=reference)),
    lambda run, name: run.by_virtual_time(run.series("evaluation", name)),
)
_BY_EPSILON = _Axis(
    "by epsilon",
    "epsilon spent",
    "logarithmic",
    lambda run, reference: run.by_epsilon("loss").above(reference),
    lambda run, name: run.by_epsilon(name),
)


def panels_of_run(run: StoredRun) -> list[Panel]:
    """Return the panels of one run: loss and metrics by round, by payload if it is known, and by epsilon."""
    centralized = run.side("centralized")
    reference = references_of([run])[run.name]
    entries = {
        name: LegendEntry(metric_text(name), color)
        for name, color in zip(run.main_metrics, SERIES[2:], strict=False)
    }
    levels = [
        Level(centralized[name], entry.color)
        for name, entry in entries.items()
        if centralized.get(name) is not None
    ]
    sweeps = [Line(_ALS, *run.excess_loss("als_sweep"))] if centralized else []
    panels: list[Panel] = []
    for axis in _axes([run]):
        excess = [Line(_FEDERATED, *axis.excess(run, reference.loss))]
        metrics = [Line(entry, *axis.metric(run, name)) for name, entry in entries.items()]
        panels.append(_loss_panel(axis, excess, sweeps, [run], [reference]))
        panels.append(_panel(axis, "Metrics", metrics, levels))
    return [panel for panel in panels if not panel.is_empty]


def panels_of_runs(runs: Sequence[StoredRun]) -> list[Panel]:
    """Return panels with all groups of runs in each: loss and leading metric, on the axes of one run."""
    groups, references = groups_of(runs)[:MOST_GROUPS], references_of(runs)
    levels = _levels(groups)
    title = " or ".join(dict.fromkeys(metric_text(run.leading_metric) for run in runs))
    panels: list[Panel] = []
    for axis in _axes(runs):
        excess = [
            group.line(lambda run, axis=axis: axis.excess(run, references[run.name].loss)) for group in groups
        ]
        metrics = [
            group.line(lambda run, axis=axis: axis.metric(run, run.leading_metric)) for group in groups
        ]
        panels.append(
            _loss_panel(
                axis, excess, _sweeps(groups, len(set(references.values()))), runs, list(references.values())
            )
        )
        panels.append(_panel(axis, title, metrics, levels))
    return [panel for panel in panels if not panel.is_empty]


def reference_text(references: Sequence[Reference]) -> str:
    """Return what losses are compared with, as a phrase."""
    have_als = {reference.is_als for reference in references}
    if have_als == {True}:
        return "ALS"
    return "the lowest" if have_als == {False} else "ALS, or the lowest where ALS was not trained"


def _axes(runs: Sequence[StoredRun]) -> list[_Axis]:
    is_payload_known = np.isfinite([run.bytes_per_round for run in runs]).all()
    has_epsilon = any(len(run.by_epsilon("loss").rounds) for run in runs)
    has_clock = all(np.isfinite(run.series("round", "virtual_seconds").values).any() for run in runs)
    by_costs = [_BY_PAYLOAD] * bool(is_payload_known) + [_BY_VIRTUAL_TIME] * has_clock
    return [_BY_ROUND, *by_costs, *([_BY_EPSILON] * has_epsilon)]


def _levels(groups: Sequence[Group]) -> list[Level]:
    """Return the leading metric of ALS: one level, or one of each group in its color; none for many."""
    found = {}
    for group in groups:
        final, _ = group.spread(lambda run: run.side("centralized").get(run.leading_metric))
        if np.isfinite(final):
            found[group.entry.color] = final
    if len(set(found.values())) == 1:
        return [Level(final) for final in set(found.values())]
    return [Level(final, color) for color, final in found.items()] if len(groups) <= len(SERIES) else []


def _sweeps(groups: Sequence[Group], num_problems: int) -> list[Line]:
    """Return the mean losses of ALS by sweep, if all runs have the same problem."""
    trained = [run for group in groups for run in group.runs if run.als_loss is not None]
    if num_problems > 1 or not trained:
        return []
    together = Group(LegendEntry(_ALS.label, MUTED, "--"), trained, {})
    line = together.line(lambda run: run.excess_loss("als_sweep"))
    return [line._replace(low=None, high=None)]


def _loss_panel(
    axis: _Axis,
    lines: Sequence[Line],
    sweeps: Sequence[Line],
    runs: Sequence[StoredRun],
    references: Sequence[Reference],
) -> Panel:
    label = _CONVERGED if any(reference.is_als for reference in references) else _LOWEST
    shown = [*lines, *sweeps] if axis.has_sweeps else lines
    has_mixed = len({reference.is_als for reference in references}) > 1
    title = "Excess loss" if has_mixed else f"Loss above {reference_text(references)}"
    panel = _panel(axis, title, shown, [Level(0.0)])._replace(levels_label=label, y_axis="excess")
    if not axis.has_sweeps:
        return panel
    last = max([1.0, *(float(run.losses().rounds.max(initial=0)) for run in runs)])
    return panel._replace(lines=[line.where(line.x <= last) for line in panel.lines])


def _panel(axis: _Axis, title: str, lines: Sequence[Line], levels: Sequence[Level]) -> Panel:
    return Panel(f"{title}, {axis.suffix}", lines, levels, x_label=axis.label, x_axis=axis.scale)
