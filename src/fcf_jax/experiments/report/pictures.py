"""Panels of curves, drawn as a PNG of all of them or as one SVG each that takes the colours of its page."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from fcf_jax.experiments.report.wording import count_text, percent_text, size_text

LineStyle = Literal["-", "--", "-.", ":"]


class Color(NamedTuple):
    """One colour on a light and on a dark page, with a contrast of at least 3 on either."""

    name: str  # of the CSS variable
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
_SMALLEST_EXCESS = 0.01  # percent; ALS itself stops at falls of a tenth of that in a sweep
_LARGEST_EXCESS = 1e5  # percent; what diverged leaves the picture
_MOST_MARKERS = 40
_MOST_TICKS = 6
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "DejaVu Sans",
}


class Line(NamedTuple):
    """How a curve looks, and what it is called."""

    label: str
    color: Color
    style: LineStyle = "-"


class Curve(NamedTuple):
    """One line of values, such as the losses of a run."""

    line: Line
    x: np.ndarray
    y: np.ndarray  # nan where there is nothing to draw


class Level(NamedTuple):
    """A value to compare with, drawn from side to side."""

    y: float
    color: Color = MUTED


class Panel(NamedTuple):
    """Curves on common axes."""

    title: str
    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    levels_label: str = "centralised ALS, converged"
    x_label: str = "round"
    is_excess: bool = False  # y is percent above a reference: logarithmic, also below zero
    is_bytes: bool = False  # x is bytes: logarithmic

    @property
    def lines(self) -> list[Line]:
        """The legend: each line once, and one for all levels."""
        levels = [Line(self.levels_label, MUTED, ":")] if self.levels else []
        return list(dict.fromkeys([*(curve.line for curve in self.curves), *levels]))


def to_png(panels: Sequence[Panel]) -> bytes:
    """Draw all panels on one light sheet, two in a row."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a run may be called as its owner likes
        lines = list(dict.fromkeys(line for panel in panels for line in panel.lines))
        num_rows = -(-len(panels) // 2)
        height = num_rows * _SIZE[1] + -(-len(lines) // 3) * _LEGEND_ROW
        figure = Figure(figsize=(2 * _SIZE[0], height), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for position, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(num_rows, 2, position)
            _draw(axes, panel)
            axes.set_title(panel.title, loc="left", fontsize="medium", color=INK.light)
        handles = [Line2D([], [], color=line.color.light, linestyle=line.style) for line in lines]
        labels = [line.label.lstrip("_") for line in lines]  # an underscore would hide them
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
        image = io.BytesIO()
        figure.set_dpi(150)
        canvas.print_png(image)
    return image.getvalue()


def to_svg(panel: Panel, *, name: str) -> str:
    """Draw one panel as an `<svg>` element to stand in a page.

    Its colours are the page's CSS variables `--NAME` of `COLORS`; its text is text.

    Args:
        panel: what is drawn; title and legend are left to the page.
        name: another one for each picture of a page keeps their ids apart.
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


def describe(panel: Panel) -> str:
    """Tell in words what the panel shows, for those who cannot see it."""
    return f"{panel.title}. " + " ".join(_sentences(panel))


def _sentences(panel: Panel) -> Iterator[str]:
    for curve in panel.curves:
        values = curve.y[np.isfinite(curve.y)]
        if len(values):
            first, last = (_text(panel, float(value)) for value in values[[0, -1]])
            yield f"{curve.line.label}: from {first} to {last}."
    if panel.levels:
        levels = ", ".join(_text(panel, level.y) for level in panel.levels)
        yield f"{panel.levels_label}: {levels}."


def _text(panel: Panel, value: float) -> str:
    return percent_text(value) if panel.is_excess else f"{value:.4g}"


def _draw(axes: Axes, panel: Panel) -> None:
    for level in panel.levels:
        axes.axhline(level.y, color=level.color.light, linestyle=":", linewidth=1.4)
    for curve in panel.curves:
        if not np.isfinite(curve.y).any():
            continue  # the layout would look for it at infinity
        marker = "o" if len(curve.x) <= _MOST_MARKERS and curve.line.style == "-" else None
        is_clipped = panel.is_excess and bool(np.nanmax(curve.y) > _LARGEST_EXCESS)
        axes.plot(
            curve.x, curve.y, curve.line.style, color=curve.line.color.light,
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
        axes.set_xlim(left=0, right=max([1.0, *(curve.x.max(initial=0) for curve in panel.curves)]))
        axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
        return
    axes.set_xscale("log")
    axes.set_xticks(_ticks(*axes.get_xlim()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value, is_round=True)))


def _ticks(low: float, high: float) -> list[float]:
    """Choose round numbers of a logarithmic axis, as many as fit."""
    ticks: list[float] = []
    for mantissas in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [one * 10.0**exponent for exponent in exponents for one in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]


def _scale_excess(axes: Axes, panel: Panel) -> None:
    values = np.concatenate([*(curve.y for curve in panel.curves), np.zeros(1)])
    low, high = np.nanmin(values), np.clip(np.nanmax(values), _SMALLEST_EXCESS, _LARGEST_EXCESS)
    axes.set_yscale("symlog", linthresh=_SMALLEST_EXCESS, linscale=0.6)
    exponents = np.arange(np.log10(_SMALLEST_EXCESS), np.ceil(np.log10(max(high, -low))) + 1)
    magnitudes = 10.0**exponents
    axes.set_yticks([*-magnitudes, 0.0, *magnitudes])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value, digits=None)))
    axes.set_ylim(min(1.6 * low, -0.4 * _SMALLEST_EXCESS), 1.6 * high)
