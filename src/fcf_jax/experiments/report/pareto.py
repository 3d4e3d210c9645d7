"""The Pareto picture of a sweep: its leading metric against each cost, and what no other configuration beats.

Above and to the left of such a front there is nothing, so that its labels stand there.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fcf_jax.experiments.report.drawing import GRID, INK, MUTED, SERIES, SIZE, STYLE, png_of
from fcf_jax.experiments.report.panels import LegendEntry, round_ticks
from fcf_jax.experiments.report.wording import metric_text, size_text
from fcf_jax.experiments.store.files import Document
from fcf_jax.experiments.sweep.outcome import non_dominated
from fcf_jax.experiments.sweep.plan import settings_text

ON_FRONT = LegendEntry("not dominated", SERIES[0], "")
DOMINATED = LegendEntry("dominated", MUTED, "")
BEST, OTHERS = ON_FRONT._replace(label="the best"), DOMINATED._replace(label="others")
POPULARITY = LegendEntry("popularity", INK, ":")
_FRONT_STYLE: dict[str, Any] = {"marker": "o"}
_DOMINATED_STYLE: dict[str, Any] = {"marker": "o", "markerfacecolor": "none"}
_WIDE = 10.0  # largest over smallest cost from which an axis is logarithmic
_MOST_LABELS = 9
_MOST_RANKED = 24  # configurations of a ranking
_LABEL_SIZE, _LABEL_STEP = 8.0, 11.0  # points
_CHARACTER = 0.55 * _LABEL_SIZE  # points, on average
_PANEL = (6.4, 4.4)  # inches, in a file
_USED = (0.82, 0.78)  # share of a picture that the axes fill, about
_NO_NOISE = 3.0  # times the largest finite epsilon: where runs without noise are drawn


class _Cost(NamedTuple):
    """A cost as an axis.

    Attributes:
        label: of the axis, with its unit.
        text: of a tick.
    """

    label: str
    text: Callable[[float], str]


_COSTS = {
    "bytes_per_client": _Cost(
        "bytes that a client sends and receives in all rounds",
        lambda value: size_text(value, is_round=True),
    ),
    "epsilon": _Cost("epsilon of a run", "{:g}".format),
    "virtual_seconds": _Cost("seconds on the clients' clock", "{:g}".format),
}


class _Points(NamedTuple):
    """Configurations that can be drawn; arrays over them."""

    x: np.ndarray
    y: np.ndarray
    sd: np.ndarray
    is_marked: np.ndarray
    labels: list[str]


def cost_text(cost: str) -> str:
    """Return what a cost is, for people."""
    return _COSTS[cost].label


def draw_costs(axes: Axes, document: Document, cost: str, size: tuple[float, float] = SIZE) -> None:
    """Draw the leading metric of all configurations against a cost.

    Args:
        axes: to draw on.
        document: content of `sweep.json`.
        cost: one of its `costs`.
        size: of the picture in inches, in which labels must find room.
    """
    points, no_noise, shared = _points(document, cost)
    sign = 1.0 if document["is_lower_better"] else -1.0
    is_front = non_dominated(np.stack([points.x, sign * points.y], axis=1))
    _draw_steps(axes, points, is_front)
    for chosen, entry, style in (
        (~points.is_marked, DOMINATED, _DOMINATED_STYLE),
        (points.is_marked, ON_FRONT, _FRONT_STYLE),
    ):
        axes.errorbar(
            points.x[chosen], points.y[chosen], yerr=points.sd[chosen], color=entry.color.light,
            linestyle="none", markersize=5.5, elinewidth=0.9, capsize=0, zorder=3, **style,
        )  # fmt: skip
    _draw_floor(axes, document, axes.axhline)
    _scale_costs(axes, points.x, _COSTS[cost], no_noise)
    axes.set_xlabel(_COSTS[cost].label, color=MUTED.light)
    axes.set_ylabel(_metric_label(document), color=MUTED.light)
    if shared:
        axes.set_title(f"not dominated: all with {shared}", loc="left", fontsize=_LABEL_SIZE, color=INK.light)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    labeled = np.flatnonzero(is_front & points.is_marked)  # others are marked for the sake of another cost
    _label(axes, points, labeled, size, is_lower_better=document["is_lower_better"])
    _style(axes, "y")


def draw_ranking(axes: Axes, document: Document) -> None:
    """Draw the leading metric of the best configurations below each other, where no cost differs."""
    ranked = [one for one in document["configurations"] if _mean(document, one) is not None][:_MOST_RANKED]
    for place, one in enumerate(ranked):
        entry = ON_FRONT if one["is_non_dominated"] else DOMINATED
        style = _FRONT_STYLE if one["is_non_dominated"] else _DOMINATED_STYLE
        axes.errorbar(
            [_mean(document, one) or 0.0], [place], xerr=_sd(document, one), color=entry.color.light,
            linestyle="none", markersize=5.5, elinewidth=0.9, **style,
        )  # fmt: skip
    axes.set_yticks(range(len(ranked)), [settings_text(one["values"]) or "as configured" for one in ranked])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    _draw_floor(axes, document, axes.axvline)
    axes.set_xlabel(_metric_label(document), color=MUTED.light)
    _style(axes, "x")


def ranking_size(document: Document) -> tuple[float, float]:
    """Return width and height, in inches, of a ranking."""
    return _PANEL[0], 1.0 + 0.24 * min(len(document["configurations"]), _MOST_RANKED)


def legend_of(document: Document) -> list[LegendEntry]:
    """Return the entries of the legend that are drawn."""
    shown = [one for one in document["configurations"] if _mean(document, one) is not None]
    marks = {one["is_non_dominated"] for one in shown}
    best, others = (ON_FRONT, DOMINATED) if document["costs"] else (BEST, OTHERS)
    entries = [best] * (True in marks) + [others] * (False in marks)
    return entries + [POPULARITY] * _is_floor_near(document)


def floor_of(document: Document) -> float | None:
    """Return the leading metric of popularity, if it is the same for all configurations."""
    floors = [one.get("popularity") for one in document["configurations"]]
    known = [floor for floor in floors if floor is not None and math.isfinite(floor)]
    return known[0] if known and math.isclose(min(known), max(known), rel_tol=1e-6) else None


def _is_floor_near(document: Document) -> bool:
    """Return whether popularity is not so far from all configurations that they could not be told apart."""
    floor = floor_of(document)
    means = [mean for one in document["configurations"] if (mean := _mean(document, one)) is not None]
    if floor is None or not means:
        return False
    return abs(floor - min(means, key=lambda mean: abs(mean - floor))) <= 1.5 * (max(means) - min(means))


def pareto_files(document: Document) -> dict[str, bytes]:
    """Return the picture as PNG and as SVG, by file name."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "pareto"}):
        costs = document["costs"]
        num_panels = max(len(costs), 1)
        width, height = _PANEL if costs else ranking_size(document)
        figure = Figure(figsize=(width * num_panels, height + 0.25), dpi=150, layout="constrained")
        panels = figure.subplots(1, num_panels, squeeze=False)[0]
        for axes, cost in zip(panels, costs, strict=False):
            draw_costs(axes, document, cost, _PANEL)
        if not costs:
            draw_ranking(panels[0], document)
        _add_legend(figure, document)
        png, text = png_of(figure), io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return {"pareto.png": png, "pareto.svg": text.getvalue().encode()}


def _add_legend(figure: Figure, document: Document) -> None:
    on_front, dominated = ({**style, "linestyle": "none"} for style in (_FRONT_STYLE, _DOMINATED_STYLE))
    looks = {ON_FRONT: on_front, BEST: on_front, DOMINATED: dominated, OTHERS: dominated}
    looks[POPULARITY] = {"linestyle": ":"}
    entries = legend_of(document)
    handles = [
        matplotlib.lines.Line2D([], [], color=entry.color.light, **looks[entry])  # type: ignore[arg-type]
        for entry in entries
    ]
    labels = [entry.label for entry in entries]
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)


def _points(document: Document, cost: str) -> tuple[_Points, float | None, str]:
    """Return what can be drawn, where runs without noise are, and what the marked ones have in common."""
    shown = [one for one in document["configurations"] if _mean(document, one) is not None]
    costs = np.array([one.get(cost, math.inf if cost == "epsilon" else math.nan) for one in shown], float)
    costs[np.array([one.get(cost) is None and cost == "epsilon" for one in shown], bool)] = math.inf
    no_noise = None
    if np.isinf(costs).any():
        no_noise = _NO_NOISE * max(costs[np.isfinite(costs)], default=1.0)
        costs[np.isinf(costs)] = no_noise
    marked = [one["values"] for one in shown if one["is_non_dominated"]]
    shared = {
        key: value
        for key, value in (marked[0] if len(marked) > 1 else {}).items()
        if all(values[key] == value for values in marked)
    }
    points = _Points(
        costs,
        np.array([_mean(document, one) for one in shown], float),
        np.array([_sd(document, one) for one in shown], float),
        np.array([one["is_non_dominated"] for one in shown], bool),
        [_label_text(one["values"], shared) for one in shown],
    )
    return points, no_noise, _label_text(shared, {})


def _label_text(values: Document, without: Document) -> str:
    own = {key: value for key, value in values.items() if key not in without and value is not None}
    return settings_text(own).replace("num_", "") or ("" if without or not values else "nothing set")


def _mean(document: Document, configuration: Document) -> float | None:
    mean = configuration["metrics"].get(document["metric"], {}).get("mean")
    return None if mean is None or not math.isfinite(mean) else mean


def _sd(document: Document, configuration: Document) -> float:
    sd = configuration["metrics"][document["metric"]].get("sd")
    return 0.0 if sd is None or not math.isfinite(sd) else sd


def _metric_label(document: Document) -> str:
    has_seeds = any(one["num_runs"] > 1 for one in document["configurations"])
    direction = " (lower is better)" if document["is_lower_better"] else ""
    return metric_text(document["metric"]) + direction + (", mean ± sd over seeds" if has_seeds else "")


def _draw_steps(axes: Axes, points: _Points, is_front: np.ndarray) -> None:
    """Draw the best value for each cost: what is on the other side is out of reach."""
    order = np.flatnonzero(is_front)[np.argsort(points.x[is_front], kind="stable")]
    x, y = points.x[order], points.y[order]
    if len(x):
        x, y = np.append(x, points.x.max()), np.append(y, y[-1])
        axes.step(x, y, where="post", color=SERIES[0].light, linewidth=1.0, alpha=0.6, zorder=2)


def _draw_floor(axes: Axes, document: Document, draw: Callable) -> None:
    if _is_floor_near(document) and (floor := floor_of(document)) is not None:
        draw(floor, color=POPULARITY.color.light, linestyle=":", linewidth=1.2, zorder=1)


def _scale_costs(axes: Axes, x: np.ndarray, cost: _Cost, no_noise: float | None) -> None:
    is_wide = x.min() > 0 and x.max() / x.min() >= _WIDE
    if is_wide:
        axes.set_xscale("log")
        axes.set_xlim(x.min() / 1.3, x.max() * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        ticks = [float(tick) for tick in round_ticks(*axes.get_xlim())]
    else:
        margin = 0.06 * float(np.ptp(x) or x.max() or 1.0)
        axes.set_xlim(x.min() - margin, x.max() + margin)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*axes.get_xlim())
    if no_noise is not None:
        ticks = [tick for tick in ticks if tick < 0.7 * no_noise] + [no_noise]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "no noise" if value == no_noise else cost.text(value))
    )


def _label(
    axes: Axes, points: _Points, chosen: np.ndarray, size: tuple[float, float], *, is_lower_better: bool
) -> None:
    """Write labels to the upper left of points, or the lower left where lower is better, one above the other.

    The axes are made longer until the labels fit.
    """
    if not len(chosen):
        return
    chosen = chosen[np.argsort(points.x[chosen], kind="stable")]
    if len(chosen) > _MOST_LABELS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_LABELS).round().astype(int)]
    width, height = (72 * side * used for side, used in zip(size, _USED, strict=True))
    _make_room(axes, points.x[chosen], [points.labels[one] for one in chosen], width)
    low, high = axes.get_ylim()
    towards, last = (-1.0 if is_lower_better else 1.0), -math.inf
    offsets = []
    for one in chosen:
        place = towards * (points.y[one] - low) / (high - low) * height  # points from an end of the axis
        last = max(place + 0.5 * _LABEL_STEP, last + _LABEL_STEP)
        offsets.append(last - place)
    overshoot = last + _LABEL_STEP - (0.0 if is_lower_better else height)
    if overshoot > 0:
        more = float(overshoot / (height - min(overshoot, 0.5 * height)) * (high - low))
        axes.set_ylim(low - more * is_lower_better, high + more * (not is_lower_better))
    for one, offset in zip(chosen, offsets, strict=True):
        is_far = offset > 1.5 * _LABEL_STEP
        axes.annotate(
            points.labels[one], (points.x[one], points.y[one]), xytext=(-3, towards * offset),
            textcoords="offset points", ha="right", va="center", fontsize=_LABEL_SIZE, color=INK.light,
            arrowprops={"arrowstyle": "-", "color": MUTED.light, "linewidth": 0.5} if is_far else None,
        )  # fmt: skip


def _make_room(axes: Axes, x: np.ndarray, labels: Sequence[str], width: float) -> None:
    """Move the left end of the axis so far that the longest label to the left of its point fits."""
    is_log = axes.get_xscale() == "log"
    to_line = np.log10 if is_log else np.asarray
    left, right = (float(to_line(end)) for end in axes.get_xlim())
    places = (to_line(x) - left) / (right - left)
    needed = np.minimum([_CHARACTER * (len(label) + 2) / width for label in labels], 0.5)
    extra = max(0.0, float(np.max((needed - places) / (1 - needed))))
    left -= extra * (right - left)
    axes.set_xlim(left=10**left if is_log else left)


def _style(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID.light, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID.light)
    axes.tick_params(color=GRID.light, labelcolor=MUTED.light, length=0)
    axes.set_facecolor("none")
