"""Panels: lines with bands or marks on common axes, drawn for a page or for a PNG file."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fcf_jax.experiments.report.drawing import GRID, INK, MUTED, SIZE, STYLE, Color, png_of, svg_of
from fcf_jax.experiments.report.wording import count_text, percent_text, size_text

Dash = Literal["-", "--", "-.", ":", ""]  # "": marks alone
XAxis = Literal["rounds", "bytes", "logarithmic", "linear"]
YAxis = Literal["value", "excess", "share"]

_LEGEND_ROW = 0.22  # inches
_SMALLEST_EXCESS = 0.01  # percent; ALS itself stops at a decrease of a tenth of that per sweep
_LARGEST_EXCESS = 1e5  # percent; diverged curves leave the panel
_MOST_MARKERS = 40
_MOST_POINTS = 250  # of a line; more would not be seen
_MOST_TICKS = 6


class LegendEntry(NamedTuple):
    """Look and label of a line."""

    label: str
    color: Color
    dash: Dash = "-"


class Line(NamedTuple):
    """A line of a panel.

    Attributes:
        entry: look and label.
        x: place of each point.
        y: value of each point; nan where nothing is drawn.
        low: lower end of a band around the line; None: no band.
        high: upper end.
    """

    entry: LegendEntry
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def where(self, is_kept: np.ndarray) -> "Line":
        """Return the line with some of its points."""
        low, high = (None if end is None else end[is_kept] for end in (self.low, self.high))
        return Line(self.entry, self.x[is_kept], self.y[is_kept], low, high)


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
        x_axis: "rounds" from 0, "bytes" on a logarithmic axis, any "logarithmic" or "linear" numbers.
        y_axis: "value", percent in "excess" of a reference on a symmetric logarithmic axis, or a "share" in
            percent from 0.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    levels_label: str = "centralised ALS, converged"
    x_label: str = "round"
    x_axis: XAxis = "rounds"
    y_axis: YAxis = "value"

    @property
    def legend(self) -> list[LegendEntry]:
        """Distinct entries of the lines, and one for all levels."""
        levels = [LegendEntry(self.levels_label, MUTED, ":")] if self.levels else []
        return list(dict.fromkeys([*(line.entry for line in self.lines), *levels]))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(np.isfinite(line.y).any() for line in self.lines)


def svg_of_panel(panel: Panel, *, name: str) -> str:
    """Draw one panel as an `<svg>` element of a page; `name` is unique in the page."""
    return svg_of(lambda axes: _draw(axes, panel), name=name)


def png_of_panels(panels: Sequence[Panel]) -> bytes:
    """Draw all panels on one light sheet, two in a row."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # users name runs as they like
        entries = list(dict.fromkeys(entry for panel in panels for entry in panel.legend))
        num_rows = -(-len(panels) // 2)
        height = num_rows * SIZE[1] + -(-len(entries) // 3) * _LEGEND_ROW
        figure = Figure(figsize=(2 * SIZE[0], height), dpi=150, layout="constrained")
        for position, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(num_rows, 2, position)
            _draw(axes, panel)
            axes.set_title(panel.title, loc="left", fontsize="medium", color=INK.light)
        handles = [Line2D([], [], color=entry.color.light, linestyle=entry.dash) for entry in entries]
        labels = [entry.label.lstrip("_") for entry in entries]  # matplotlib hides labels with an underscore
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
        return png_of(figure)


def alt_text(panel: Panel) -> str:
    """Describe the panel in words, for screen readers."""
    return f"{panel.title}. " + " ".join(_sentences(panel))


def _sentences(panel: Panel) -> Iterator[str]:
    for line in panel.lines:
        values = line.y[np.isfinite(line.y)]
        if len(values) and line.entry.dash:
            first, last = (_value_text(panel, float(value)) for value in values[[0, -1]])
            yield f"{line.entry.label}: from {first} to {last}."
        elif len(values):
            low, high = (_value_text(panel, float(end)) for end in (values.min(), values.max()))
            yield f"{line.entry.label}: between {low} and {high}."
    if panel.levels:
        yield f"{panel.levels_label}: {', '.join(_value_text(panel, level.y) for level in panel.levels)}."


def _value_text(panel: Panel, value: float) -> str:
    return (
        f"{value:.4g}" if panel.y_axis == "value" else percent_text(value, is_signed=panel.y_axis == "excess")
    )


def _draw(axes: Axes, panel: Panel) -> None:
    for level in panel.levels:
        axes.axhline(level.y, color=level.color.light, linestyle=":", linewidth=1.4)
    for line in panel.lines:
        if np.isfinite(line.y).any():  # the layout engine fails on lines without a finite point
            _draw_line(axes, panel, _thinned(line))
    _X_AXES[panel.x_axis](axes, panel)
    _Y_AXES[panel.y_axis](axes, panel)
    axes.set_xlabel(panel.x_label, color=MUTED.light, loc="right")
    axes.grid(axis="y", color=GRID.light, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID.light)
    axes.tick_params(color=GRID.light, labelcolor=MUTED.light, length=0)
    axes.set_facecolor("none")


def _draw_line(axes: Axes, panel: Panel, line: Line) -> None:
    entry = line.entry
    marker = "o" if not entry.dash or (len(line.x) <= _MOST_MARKERS and entry.dash == "-") else None
    is_clipped = panel.y_axis == "excess" and bool(np.nanmax(line.y) > _LARGEST_EXCESS)
    axes.plot(
        line.x, line.y, color=entry.color.light, linestyle=entry.dash or "none", linewidth=1.8,
        marker=marker, markersize=3.0 if entry.dash else 5.0, clip_on=is_clipped, zorder=3,
    )  # fmt: skip
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=entry.color.light, alpha=0.15, linewidth=0)


def _thinned(line: Line) -> Line:
    if len(line.x) <= _MOST_POINTS or not line.entry.dash:
        return line
    return line.where(np.unique(np.linspace(0, len(line.x) - 1, _MOST_POINTS).round().astype(int)))


def _scale_rounds(axes: Axes, panel: Panel) -> None:
    axes.set_xlim(left=0, right=max([1.0, *(line.x.max(initial=0) for line in panel.lines)]))
    axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))


def _scale_logarithmic(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    axes.set_xticks(round_ticks(*axes.get_xlim()))
    axes.xaxis.set_minor_locator(NullLocator())
    text: Callable[[float], str] = lambda value: size_text(value, is_round=True)  # noqa: E731
    if panel.x_axis == "logarithmic":
        text = "{:g}".format
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _scale_linear(axes: Axes, panel: Panel) -> None:
    is_integer = all(np.all(line.x == np.round(line.x)) for line in panel.lines)
    axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=is_integer, steps=[1, 2, 2.5, 5, 10]))


def round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the ends of a logarithmic axis, as many as fit."""
    ticks: list[float] = []
    for mantissas in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [mantissa * 10.0**exponent for exponent in exponents for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]


def _scale_value(axes: Axes, panel: Panel) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _scale_share(axes: Axes, panel: Panel) -> None:
    _scale_value(axes, panel)
    axes.set_ylim(bottom=0)
    text = FuncFormatter(lambda value, _: percent_text(value, decimals=None, is_signed=False))
    axes.yaxis.set_major_formatter(text)


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


_X_AXES: dict[XAxis, Callable[[Axes, Panel], None]] = {
    "rounds": _scale_rounds,
    "bytes": _scale_logarithmic,
    "logarithmic": _scale_logarithmic,
    "linear": _scale_linear,
}
_Y_AXES: dict[YAxis, Callable[[Axes, Panel], None]] = {
    "value": _scale_value,
    "excess": _scale_excess,
    "share": _scale_share,
}
