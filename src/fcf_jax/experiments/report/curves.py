"""What the pictures of runs show: losses relative to ALS's and metrics, by round and by bytes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.experiments.report.outcomes import RunOutcome
from fcf_jax.experiments.report.pictures import MUTED, SERIES, Curve, Level, Line, LineStyle, Panel
from fcf_jax.experiments.report.wording import metric_text, percent_text

_FEDERATED, _ALS = Line("federated", SERIES[0]), Line("centralised ALS, by sweep", SERIES[1], "--")
_RANKING = ("precision", "recall", "map", "ndcg")
_STYLES: tuple[LineStyle, ...] = ("-", "--", "-.")
_LOSS_LEVELS = (10.0, 1.0, 0.1)  # percent above ALS's
_METRIC_SHARE = 0.995  # of ALS's


class Series(NamedTuple):
    """Values over rounds or sweeps."""

    rounds: np.ndarray
    values: np.ndarray


class Milestone(NamedTuple):
    """How soon a goal was reached; None where it was not, or where nobody looked."""

    goal: str
    rounds: int | None
    bytes: float | None
    sweeps: int | None


def main_metrics(run: RunOutcome) -> list[str]:
    """Name the metrics that tell how good a run is: RMSE for explicit ratings, otherwise the ranking's."""
    if run.config.get("data", {}).get("feedback") == "explicit":
        return ["rmse"]
    k = run.config.get("evaluation", {}).get("k", 10)
    return [f"{name}_at_{k}" for name in _RANKING]


def leading_metric(run: RunOutcome) -> str:
    """Name the one metric to tell runs apart by: MAP, or RMSE for explicit ratings."""
    return next((name for name in main_metrics(run) if name.startswith("map")), "rmse")


def side(run: RunOutcome, name: str) -> dict[str, Any]:
    """Return the final values of a side, such as "centralized"; empty where there are none."""
    return (run.summary or {}).get(name) or {}


def bytes_per_round(run: RunOutcome) -> float:
    """Count what all clients of a round send and receive; nan for an unfinished run."""
    summary = run.summary or {}
    each = summary.get("payload_bytes_up", np.nan) + summary.get("payload_bytes_down", np.nan)
    return each * summary.get("cohort_size", np.nan)


def losses(run: RunOutcome, kind: str = "round") -> Series:
    """Return the losses of the federation ("round") or of ALS ("als_sweep"), with the last that was measured.

    A round's loss is that of the item factors it began with. A cohort only estimates it: there the exact
    losses of the evaluations are returned.
    """
    is_cohort = kind == "round" and "cohort_size" in run.config.get("federation", {})
    exact = _series(run, "evaluation", "loss")
    if is_cohort and np.isfinite(exact.values).any():
        return exact
    rounds, values = _series(run, kind, "loss")
    last = side(run, "federated" if kind == "round" else "centralized").get("loss")
    if last is None:
        return Series(rounds, values)
    return Series(np.append(rounds, len(rounds)), np.append(values, last))


def als_loss(run: RunOutcome, others: Sequence[RunOutcome] = ()) -> float | None:
    """Return where ALS ended in this run, or in another one with the same data and model."""
    problem = {name: run.config.get(name) for name in ("data", "model")}
    for one in (run, *others):
        if all(one.config.get(name) == keys for name, keys in problem.items()) and side(one, "centralized"):
            return side(one, "centralized").get("loss")
    return None


def excess_loss(run: RunOutcome, kind: str = "round", *, others: Sequence[RunOutcome] = ()) -> Series:
    """Compute by how many percent each loss is above that of `als_loss`, or above the run's own best."""
    rounds, values = losses(run, kind)
    reference = als_loss(run, others)
    if reference is None:
        reference = min(values[np.isfinite(values)], default=np.nan)
    return Series(rounds, 100 * (values - reference) / (abs(reference) or np.nan))


def metric(run: RunOutcome, name: str) -> Series:
    """Return a metric by round."""
    return _series(run, "evaluation", name)


def panels_of(run: RunOutcome) -> list[Panel]:
    """Arrange the panels of one run: loss and metrics by round, then both by bytes where these are known."""
    centralized, names = side(run, "centralized"), main_metrics(run)
    lines = {name: Line(metric_text(name), color) for name, color in zip(names, SERIES[2:], strict=False)}
    levels = [Level(centralized[name], lines[name].color) for name in names if _is_known(centralized, name)]
    panels = []
    for by_bytes in _axes([run]):
        fit = [_curve(_FEDERATED, run, excess_loss(run), by_bytes)]
        sweeps = excess_loss(run, "als_sweep")
        if len(sweeps.rounds) and not by_bytes:
            fit.append(Curve(_ALS, *sweeps))
        metrics = [_curve(line, run, metric(run, name), by_bytes) for name, line in lines.items()]
        panels += [
            _loss_panel([run], fit, by_bytes),
            _panel("Metrics", [run], metrics, by_bytes, levels=levels),
        ]
    return _with_values(panels)


def panels_of_all(runs: Sequence[RunOutcome]) -> list[Panel]:
    """Lay runs over each other: loss and the leading metric by round, then both by bytes."""
    names = [leading_metric(run) for run in runs]
    finals = {
        side(run, "centralized")[name]
        for run, name in zip(runs, names, strict=True)
        if _is_known(side(run, "centralized"), name)
    }
    title = " or ".join(dict.fromkeys(map(metric_text, names)))
    panels = []
    for by_bytes in _axes(runs):
        fit = [
            _curve(line_of(run, position), run, excess_loss(run, others=runs), by_bytes)
            for position, run in enumerate(runs)
        ]
        metrics = [
            _curve(line_of(run, position), run, metric(run, name), by_bytes)
            for position, (run, name) in enumerate(zip(runs, names, strict=True))
        ]
        if not by_bytes:
            fit += _distinct_sweeps(runs)
        panels += [
            _loss_panel(runs, fit, by_bytes),
            _panel(title, runs, metrics, by_bytes, levels=[Level(final) for final in sorted(finals)]),
        ]
    return _with_values(panels)


def line_of(run: RunOutcome, position: int) -> Line:
    """Choose the line of the run at this position among others."""
    cycle, color = divmod(position, len(SERIES))
    return Line(run.name, SERIES[color], _STYLES[cycle % len(_STYLES)])


def milestones(run: RunOutcome) -> list[Milestone]:
    """Find the first round within 10, 1 and 0.1 % of ALS's loss, and at 99.5 % of its MAP.

    Empty without ALS to compare with.
    """
    centralized, name = side(run, "centralized"), leading_metric(run)
    if not centralized:
        return []
    rounds, sweeps = excess_loss(run), excess_loss(run, "als_sweep")
    found = [
        _milestone(
            f"loss within {percent_text(level, digits=None).lstrip('+')} of ALS's",
            run,
            _first(rounds.rounds, rounds.values <= level),
            _first(sweeps.rounds, sweeps.values <= level),
        )
        for level in _LOSS_LEVELS
    ]
    if name != "rmse" and _is_known(centralized, name):
        evaluated, share = metric(run, name), percent_text(100 * _METRIC_SHARE, digits=None).lstrip("+")
        reached = _first(evaluated.rounds, evaluated.values >= _METRIC_SHARE * centralized[name])
        found.append(_milestone(f"{metric_text(name)} at {share} of ALS's", run, reached, None))
    return found


def _milestone(goal: str, run: RunOutcome, rounds: int | None, sweeps: int | None) -> Milestone:
    return Milestone(goal, rounds, None if rounds is None else rounds * bytes_per_round(run), sweeps)


def _first(rounds: np.ndarray, is_reached: np.ndarray) -> int | None:
    return int(rounds[is_reached.argmax()]) if is_reached.any() else None


def _series(run: RunOutcome, kind: str, name: str) -> Series:
    points = [(one["round"], one.get(name)) for one in run.records if one["kind"] == kind]
    return Series(*np.array(points, np.float64).reshape(-1, 2).T)


def _curve(line: Line, run: RunOutcome, series: Series, by_bytes: bool) -> Curve:
    if not by_bytes:
        return Curve(line, *series)
    started = series.rounds > 0  # nothing is sent before; the axis is logarithmic
    return Curve(line, series.rounds[started] * bytes_per_round(run), series.values[started])


def _loss_panel(runs: Sequence[RunOutcome], curves: Sequence[Curve], by_bytes: bool) -> Panel:
    have_als = [als_loss(run, runs) is not None for run in runs]
    own = "the best of its run"
    title = "Loss above ALS's" if all(have_als) else f"Loss above {own}"
    if len(set(have_als)) == 2:
        title = f"Loss above ALS's, or {own}"
    label = "centralised ALS, converged" if any(have_als) else own
    return _panel(title, runs, curves, by_bytes, levels=[Level(0.0)], levels_label=label, is_excess=True)


def _panel(
    title: str, runs: Sequence[RunOutcome], curves: Sequence[Curve], by_bytes: bool, **options: Any
) -> Panel:
    if by_bytes:
        x_label = "sent and received by all clients"
        return Panel(f"{title}, by payload", curves, x_label=x_label, is_bytes=True, **options)
    last = max([1.0, *(float(losses(run).rounds.max(initial=0)) for run in runs)])
    seen = [Curve(curve.line, curve.x[curve.x <= last], curve.y[curve.x <= last]) for curve in curves]
    return Panel(f"{title}, by round", seen, **options)


def _with_values(panels: Sequence[Panel]) -> list[Panel]:
    return [panel for panel in panels if any(np.isfinite(curve.y).any() for curve in panel.curves)]


def _axes(runs: Sequence[RunOutcome]) -> list[bool]:
    """By rounds (False) always; by bytes (True) where every run tells them."""
    return [False, True] if np.isfinite([bytes_per_round(run) for run in runs]).all() else [False]


def _distinct_sweeps(runs: Sequence[RunOutcome]) -> list[Curve]:
    """ALS once for each end that it came to: runs on the same data share it."""
    distinct = {side(run, "centralized").get("loss"): run for run in runs if side(run, "centralized")}
    line = Line("centralised ALS, by sweep", MUTED, "--")
    return [Curve(line, *excess_loss(run, "als_sweep")) for run in distinct.values()]


def _is_known(values: dict[str, Any], name: str) -> bool:
    return values.get(name) is not None
