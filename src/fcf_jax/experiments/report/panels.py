"""Curves of runs: loss above ALS and metrics, by round and by payload, as one PNG or as an SVG per panel."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fcf_jax.experiments.report.figures import png_of
from fcf_jax.experiments.report.read import Series, StoredRun
from fcf_jax.experiments.report.wording import count_text, metric_text, percent_text, size_text

Dash = Literal["-", "--", "-.", ":"]


class Color(NamedTuple):
    """A color with a contrast of at least 3 to the page, on light and on dark pages.

    Attributes:
        name: of the CSS variable.
        light: on a light page.
        dark: on a dark page.
    """

    name: str
    light: str
    dark: str


INK = Color("ink", "#1c2128", "#e6eaf0")
MUTED = Color("muted", "#5b6675", "#9aa6b5")
GRID = Color("grid", "#e3e7ec", "#2b323c")
SERIES = (
    Color("series-0", "#1f6feb", "#6cb2ff"),
    Color("series-1", "#c2410c", "#ff9a5c"),
    Color("series-2", "#15803d", "#66cf8a"),
    Color("series-3", "#7e22ce", "#cb9dff"),
    Color("series-4", "#0e7490", "#46cfe0"),
    Color("series-5", "#a16207", "#e0bd48"),
    Color("series-6", "#be185d", "#ff86b6"),
)
COLORS = (INK, MUTED, GRID, *SERIES)

_SIZE = (5.0, 3.2)  # inches of a panel
_LEGEND_ROW = 0.22  # inches
_SMALLEST_EXCESS = 0.01  # percent; ALS itself stops at a decrease of a tenth of that per sweep
_LARGEST_EXCESS = 1e5  # percent; diverged curves leave the panel
_DASHES: tuple[Dash, ...] = ("-", "--", "-.")
_MOST_MARKERS = 40
_MOST_TICKS = 6
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "DejaVu Sans",
}


class LegendEntry(NamedTuple):
    """Look and label of a line."""

    label: str
    color: Color
    dash: Dash = "-"


class Line(NamedTuple):
    """A line of a panel; `y` is nan where nothing is drawn."""

    entry: LegendEntry
    x: np.ndarray
    y: np.ndarray


class Level(NamedTuple):
    """A value to compare with, drawn as a horizontal line."""

    y: float
    color: Color = MUTED


class Panel(NamedTuple):
    """Lines on common axes.

    Attributes:
        title: of the panel.
        lines: drawn in order.
        levels: values to compare with.
        levels_label: legend entry of all levels together.
        x_label: of the x axis.
        is_excess: y is in percent above a reference: symmetric logarithmic axis.
        is_bytes: x is in bytes: logarithmic axis.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    levels_label: str = "centralised ALS, converged"
    x_label: str = "round"
    is_excess: bool = False
    is_bytes: bool = False

    @property
    def legend(self) -> list[LegendEntry]:
        """Distinct entries of the lines, and one for all levels."""
        levels = [LegendEntry(self.levels_label, MUTED, ":")] if self.levels else []
        return list(dict.fromkeys([*(line.entry for line in self.lines), *levels]))


_FEDERATED = LegendEntry("federated", SERIES[0])
_ALS = LegendEntry("centralised ALS, by sweep", SERIES[1], "--")
_Drawn = tuple[LegendEntry, StoredRun, Series]


def panels_of_run(run: StoredRun) -> list[Panel]:
    """Return the panels of one run: loss and metrics by round, then both by payload if it is known."""
    centralized, sweeps = run.side("centralized"), run.excess_loss("als_sweep")
    entries = {
        name: LegendEntry(metric_text(name), color)
        for name, color in zip(run.main_metrics, SERIES[2:], strict=False)
    }
    levels = [
        Level(centralized[name], entry.color)
        for name, entry in entries.items()
        if centralized.get(name) is not None
    ]
    return _panels(
        [run],
        "Metrics",
        losses=[(_FEDERATED, run, run.excess_loss())],
        sweeps=[Line(_ALS, *sweeps)] if len(sweeps.rounds) else [],
        metrics=[(entry, run, run.series("evaluation", name)) for name, entry in entries.items()],
        levels=levels,
    )


def panels_of_runs(runs: Sequence[StoredRun]) -> list[Panel]:
    """Return panels with all runs in each: loss and leading metric by round, then both by payload."""
    entries = [legend_entry(run, position) for position, run in enumerate(runs)]
    pairs = list(zip(entries, runs, strict=True))
    finals = [run.side("centralized").get(run.leading_metric) for run in runs]
    # runs on the same data share their ALS: it is drawn once
    trained = {run.side("centralized").get("loss"): run for run in runs if run.side("centralized")}
    by_sweep = LegendEntry(_ALS.label, MUTED, "--")
    return _panels(
        runs,
        " or ".join(dict.fromkeys(metric_text(run.leading_metric) for run in runs)),
        losses=[(entry, run, run.excess_loss(others=runs)) for entry, run in pairs],
        sweeps=[Line(by_sweep, *run.excess_loss("als_sweep")) for run in trained.values()],
        metrics=[(entry, run, run.series("evaluation", run.leading_metric)) for entry, run in pairs],
        levels=[Level(final) for final in sorted({final for final in finals if final is not None})],
    )


def legend_entry(run: StoredRun, position: int) -> LegendEntry:
    """Return the legend entry of the run at this position among others."""
    cycle, color = divmod(position, len(SERIES))
    return LegendEntry(run.name, SERIES[color], _DASHES[cycle % len(_DASHES)])


def png_of_panels(panels: Sequence[Panel]) -> bytes:
    """Draw all panels on one light sheet, two in a row."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # users name runs as they like
        entries = list(dict.fromkeys(entry for panel in panels for entry in panel.legend))
        num_rows = -(-len(panels) // 2)
        height = num_rows * _SIZE[1] + -(-len(entries) // 3) * _LEGEND_ROW
        figure = Figure(figsize=(2 * _SIZE[0], height), dpi=150, layout="constrained")
        for position, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(num_rows, 2, position)
            _draw(axes, panel)
            axes.set_title(panel.title, loc="left", fontsize="medium", color=INK.light)
        handles = [Line2D([], [], color=entry.color.light, linestyle=entry.dash) for entry in entries]
        labels = [entry.label.lstrip("_") for entry in entries]  # matplotlib hides labels with an underscore
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
        return png_of(figure)


def svg_of_panel(panel: Panel, *, name: str) -> str:
    """Draw one panel as an `<svg>` element of a page, its text as text.

    Its colors are the page's CSS variables `--NAME` of `COLORS`.

    Args:
        panel: what to draw; the page adds title and legend.
        name: unique in the page; keeps the ids of its pictures apart.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE, layout="constrained", facecolor="none")
        canvas = FigureCanvasSVG(figure)
        _draw(figure.subplots(), panel)
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # would style the page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # unused, and the same in every picture
    for color in COLORS:
        svg = svg.replace(color.light, f"var(--{color.name})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()


def alt_text(panel: Panel) -> str:
    """Describe the panel in words, for screen readers."""
    return f"{panel.title}. " + " ".join(_sentences(panel))


def _panels(
    runs: Sequence[StoredRun],
    metric_title: str,
    *,
    losses: Sequence[_Drawn],
    sweeps: Sequence[Line],
    metrics: Sequence[_Drawn],
    levels: Sequence[Level],
) -> list[Panel]:
    is_payload_known = np.isfinite([run.bytes_per_round for run in runs]).all()
    panels = []
    for by_bytes in (False, True) if is_payload_known else (False,):
        fit = [_line(*drawn, by_bytes) for drawn in losses] + ([] if by_bytes else [*sweeps])
        values = [_line(*drawn, by_bytes) for drawn in metrics]
        for panel in (_loss_panel(runs, fit), Panel(metric_title, values, levels)):
            panels.append(_over_bytes(panel) if by_bytes else _over_rounds(panel, runs))
    return [panel for panel in panels if any(np.isfinite(line.y).any() for line in panel.lines)]


def _line(entry: LegendEntry, run: StoredRun, series: Series, by_bytes: bool) -> Line:
    if not by_bytes:
        return Line(entry, *series)
    sent = series.rounds > 0  # before that nothing is sent, and the axis is logarithmic
    return Line(entry, series.rounds[sent] * run.bytes_per_round, series.values[sent])


def _loss_panel(runs: Sequence[StoredRun], lines: Sequence[Line]) -> Panel:
    have_als = [run.als_loss(runs) is not None for run in runs]
    best = "the run's best"
    title = "Loss above ALS" if all(have_als) else f"Loss above {best}"
    if len(set(have_als)) == 2:
        title = f"Loss above ALS, or {best}"
    label = "centralised ALS, converged" if any(have_als) else best
    return Panel(title, lines, [Level(0.0)], label, is_excess=True)


def _over_bytes(panel: Panel) -> Panel:
    return panel._replace(
        title=f"{panel.title}, by payload", x_label="sent and received by all clients", is_bytes=True
    )


def _over_rounds(panel: Panel, runs: Sequence[StoredRun]) -> Panel:
    last = max([1.0, *(float(run.losses().rounds.max(initial=0)) for run in runs)])
    lines = [line._replace(x=line.x[line.x <= last], y=line.y[line.x <= last]) for line in panel.lines]
    return panel._replace(title=f"{panel.title}, by round", lines=lines)


def _sentences(panel: Panel) -> Iterator[str]:
    for line in panel.lines:
        values = line.y[np.isfinite(line.y)]
        if len(values):
            first, last = (_value_text(panel, float(value)) for value in values[[0, -1]])
            yield f"{line.entry.label}: from {first} to {last}."
    if panel.levels:
        yield f"{panel.levels_label}: {', '.join(_value_text(panel, level.y) for level in panel.levels)}."


def _value_text(panel: Panel, value: float) -> str:
    return percent_text(value) if panel.is_excess else f"{value:.4g}"


def _draw(axes: Axes, panel: Panel) -> None:
    for level in panel.levels:
        axes.axhline(level.y, color=level.color.light, linestyle=":", linewidth=1.4)
    for line in panel.lines:
        if not np.isfinite(line.y).any():
            continue  # the layout engine fails on lines without a finite point
        marker = "o" if len(line.x) <= _MOST_MARKERS and line.entry.dash == "-" else None
        is_clipped = panel.is_excess and bool(np.nanmax(line.y) > _LARGEST_EXCESS)
        axes.plot(
            line.x, line.y, line.entry.dash, color=line.entry.color.light,
            linewidth=1.8, marker=marker, markersize=3.0, clip_on=is_clipped, zorder=3,
        )  # fmt: skip
    _scale_x(axes, panel)
    if panel.is_excess:
        _scale_excess(axes, panel)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(panel.x_label, color=MUTED.light, loc="right")
    axes.grid(axis="y", color=GRID.light, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID.light)
    axes.tick_params(color=GRID.light, labelcolor=MUTED.light, length=0)
    axes.set_facecolor("none")


def _scale_x(axes: Axes, panel: Panel) -> None:
    if not panel.is_bytes:
        axes.set_xlim(left=0, right=max([1.0, *(line.x.max(initial=0) for line in panel.lines)]))
        axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
        return
    axes.set_xscale("log")
    axes.set_xticks(_round_ticks(*axes.get_xlim()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value, is_round=True)))


def _round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the ends of a logarithmic axis, as many as fit."""
    ticks: list[float] = []
    for mantissas in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [mantissa * 10.0**exponent for exponent in exponents for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]


def _scale_excess(axes: Axes, panel: Panel) -> None:
    values = np.concatenate([*(line.y for line in panel.lines), np.zeros(1)])
    low, high = np.nanmin(values), np.clip(np.nanmax(values), _SMALLEST_EXCESS, _LARGEST_EXCESS)
    axes.set_yscale("symlog", linthresh=_SMALLEST_EXCESS, linscale=0.6)
    exponents = np.arange(np.log10(_SMALLEST_EXCESS), np.ceil(np.log10(max(high, -low))) + 1)
    magnitudes = 10.0**exponents
    axes.set_yticks([*-magnitudes, 0.0, *magnitudes])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value, decimals=None)))
    axes.set_ylim(min(1.6 * low, -0.4 * _SMALLEST_EXCESS), 1.6 * high)
