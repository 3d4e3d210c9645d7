"""The picture of an audit: leakage against the size of the cohort, or against epsilon."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fcf_jax.experiments.store.files import write_atomically

_BLUE, _VERMILLION, _GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito's


def write_picture(folder: Path, document: dict[str, Any]) -> None:
    """Draw `leakage.png`."""
    image = io.BytesIO()
    FigureCanvasAgg(leakage(document)).print_png(image)
    write_atomically(folder / "leakage.png", image.getvalue())


def leakage(document: dict[str, Any]) -> Figure:
    """Draw the curve that goes with the mode."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axis, points = figure.subplots(), document["leakage"]
    if "cohort_size" in points[0]:
        _draw_sizes(axis, points, document["facts"]["cohort_size"])
    else:
        _draw_noise(axis, points, document["facts"]["epsilon"])
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize="small")
    return figure


def _draw_sizes(axis: Axes, points: list[dict[str, Any]], cohort_size: int) -> None:
    sizes = [point["cohort_size"] for point in points]
    axis.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="clients in a sum", ylim=(-3, 103))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("interactions linked to one client, %")
    _draw(axis, sizes, points, "fitted", (_BLUE, "o", "-"), "the sum alone", factor=100)
    _draw(
        axis, sizes, points, "knows_gram", (_VERMILLION, "s", "--"), r"$\sum x x^T$ sent as well", factor=100
    )
    if sizes[0] <= cohort_size <= sizes[-1]:
        axis.axvline(cohort_size, color="gray", linewidth=0.8, label="as configured")


def _draw_noise(axis: Axes, points: list[dict[str, Any]], epsilon: float | None) -> None:
    epsilons = [point["epsilon"] for point in points]
    axis.set(xscale="log", xticks=epsilons, xticklabels=[f"{one:g}" for one in epsilons])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="epsilon of the whole run", ylabel="AUC of the attacker", ylim=(0.48, 1.02))
    shown = (
        ("in_out", (_BLUE, "o", "-"), "takes part or not, one round"),
        ("all_rounds", (_GREEN, "^", "-"), "takes part or not, all rounds"),
        ("items", (_VERMILLION, "s", "-"), "holds an item or not, one upload"),
    )
    for name, style, label in shown:
        if name not in points[0]:
            continue
        _draw(axis, epsilons, points, name, style, label)
        ceiling = [point[f"{name}_ceiling"] for point in points]
        label = "ceilings, each of its color" if name == shown[0][0] else None
        axis.plot(epsilons, ceiling, color=style[0], linestyle=":", label=label)
    if epsilon is not None and epsilons[0] <= epsilon <= epsilons[-1]:
        axis.axvline(epsilon, color="gray", linewidth=0.8, label="as configured")


def _draw(
    axis: Axes,
    x: list[float],
    points: list[dict[str, Any]],
    name: str,
    style: tuple[str, str, str],
    label: str,
    *,
    factor: float = 1.0,
) -> None:
    """Draw a figure with its intervals."""
    value, low, high = (
        factor * np.array([[point[name][end] for end in ("value", "low", "high")] for point in points]).T
    )
    reach = np.maximum(np.nan_to_num(np.stack([value - low, high - value])), 0)
    color, marker, linestyle = style
    axis.errorbar(
        x,
        value,
        yerr=reach,
        color=color,
        marker=marker,
        linestyle=linestyle,
        markersize=4,
        capsize=2,
        label=label,
    )
