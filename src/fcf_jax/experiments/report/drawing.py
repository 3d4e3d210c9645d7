"""Pictures by matplotlib: SVG in the colors of a page, light or dark, and PNG files."""

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


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
SIZE = (5.0, 3.2)  # inches of a picture
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "DejaVu Sans",
}
_LONG_FRACTION = re.compile(r"(\d+\.\d)\d+")  # a tenth of a point is enough


def svg_of(draw: Callable[[Axes], None], *, name: str, size: tuple[float, float] = SIZE) -> str:
    """Draw a picture as an `<svg>` element of a page, its text as text.

    Its colors are the page's CSS variables `--NAME` of `COLORS`.

    Args:
        draw: draws on the axes in the light colors; the page adds title and legend.
        name: unique in the page; keeps the ids of its pictures apart.
        size: width and height in inches.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        canvas = FigureCanvasSVG(figure)
        draw(figure.subplots())
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # would style the page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # unused, and the same in every picture
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: _LONG_FRACTION.sub(r"\1", path[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for color in COLORS:
        svg = svg.replace(color.light, f"var(--{color.name})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()


def png_of(figure: Figure) -> bytes:
    """Render a figure."""
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
