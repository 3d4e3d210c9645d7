"""Figures of comparisons and audits, as PNG files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED, Curves
from fcf_jax.experiments.compare.statistics import distinct_metrics
from fcf_jax.experiments.report.drawing import png_of
from fcf_jax.experiments.report.wording import metric_text
from fcf_jax.experiments.store.files import Document, write_atomically
from fcf_jax.experiments.store.run_directory import USERS

_DOTS_PER_INCH = 120
# Okabe and Ito's colors, which color-blind readers tell apart; lines differ in dash and marker as well
_BLUE, _VERMILLION, _GREEN, _GRAY = "#0072B2", "#D55E00", "#009E73", "#666666"
_MEGABYTE = 1e6
_GRID_POINTS = 400
_BINS = 41  # odd: one around 0
_TAIL_PERCENT = 1.0  # of the users that a density leaves out, at either end

UserMetrics = dict[str, dict[str, np.ndarray]]  # side -> metric -> [replicates, users]


class _Style(NamedTuple):
    """Look and legend label of a line."""

    color: str
    marker: str
    dash: str
    label: str


_SIDES = {
    FEDERATED: _Style(_BLUE, "o", "-", "federated (FCF), mean ± sd"),
    CENTRALIZED: _Style(_VERMILLION, "s", "--", "centralised ALS, mean ± sd"),
}
_FACTORS = {
    "item_factors": _Style(_BLUE, "o", "-", "item factors, aligned"),
    "user_factors": _Style(_VERMILLION, "s", "--", "user factors, same rotation"),
    "scores": _Style(_GREEN, "^", "-.", r"scores $X Y^T$"),
}
_LINKED = {
    "fitted": _Style(_BLUE, "o", "-", "the sum alone"),
    "knows_gram": _Style(_VERMILLION, "s", "--", r"$\sum x x^T$ sent as well"),
}
_UNDER_NOISE = {
    "in_out": _Style(_BLUE, "o", "-", "participation, one round"),
    "all_rounds": _Style(_GREEN, "^", "-", "participation, all rounds"),
    "items": _Style(_VERMILLION, "s", "-", "held items, one upload"),
}


def write_comparison_figures(folder: Path, document: Document, curves: Curves, users: UserMetrics) -> None:
    """Write `equivalence`, `convergence_by_round`, `convergence_by_bytes`, `factors` and `users`, as PNG.

    `users.csv` has the numbers behind the last: how many users differ by how much, for each metric.

    Args:
        folder: of the comparison.
        document: content of `comparison.json`.
        curves: loss, metrics and model differences of both sides by round.
        users: metrics of each user; empty without test items.
    """
    figures = {
        "equivalence": _equivalence(document),
        "convergence_by_round": _convergence_by_round(document, curves),
        "convergence_by_bytes": _convergence_by_bytes(document, curves),
        "factors": _factors(curves),
        "users": _user_differences(document, users),
    }
    for name, figure in figures.items():
        write_atomically(folder / f"{name}.png", png_of(figure))
    names = [name for name in _shown_metrics(document["k"]) if name in users.get(FEDERATED, {})]
    USERS.write(folder, [row for name in names for row in _histogram(name, users)])


def write_leakage_figure(folder: Path, document: Document) -> None:
    """Write `leakage.png`: leakage by cohort size, or under noise by epsilon, from `audit.json`."""
    figure = _figure(7, 4)
    axes, points, facts = figure.subplots(), document["leakage"], document["facts"]
    if "cohort_size" in points[0]:
        sizes, configured = [point["cohort_size"] for point in points], facts["cohort_size"]
        _draw_linked(axes, sizes, points)
    else:
        sizes, configured = [point["epsilon"] for point in points], facts["epsilon"]
        _draw_under_noise(axes, sizes, points)
    axes.xaxis.set_minor_locator(NullLocator())
    if configured is not None and sizes[0] <= configured <= sizes[-1]:
        axes.axvline(configured, color=_GRAY, linewidth=0.8, label="as configured")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    write_atomically(folder / "leakage.png", png_of(figure))


def _equivalence(document: Document) -> Figure:
    """Draw the difference in each metric, with confidence intervals, and the equivalence margin."""
    distinct = distinct_metrics(document["metrics"])
    metrics = {name: found for name, found in distinct.items() if found["difference_percent"] is not None}
    margin = document["margin_percent"]
    figure = _figure(8, 1.6 + 0.27 * max(len(metrics), 2))
    axes = figure.subplots()
    axes.axvspan(-margin, margin, color=_GREEN, alpha=0.15, linewidth=0, label=f"margin, ±{margin:g} %")
    axes.axvline(0, color=_GRAY, linewidth=0.8)
    over_replicates = _Style(_BLUE, "o", "none", "paired over the replicates")
    _draw_differences(axes, list(metrics.values()), 0.13, over_replicates)
    per_user = [found["per_user"] or {} for found in metrics.values()]
    _draw_differences(axes, per_user, -0.17, _Style(_VERMILLION, "D", "none", "paired over the users"))
    axes.set(
        xlabel="federated - centralised, % of the centralised mean, with 95 % confidence interval",
        yticks=range(len(metrics)),
        yticklabels=[_title(name) for name in metrics],
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _convergence_by_round(document: Document, curves: Curves) -> Figure:
    """Draw loss and metrics of both sides by round of the federation and sweep of ALS."""
    num_rounds = document["num_rounds"]

    def draw(axes: Axes, name: str, scale: Callable[[np.ndarray], np.ndarray]) -> None:
        for side in (CENTRALIZED, FEDERATED):
            rounds, values = _trained(curves, side, name)
            shown = rounds <= max(num_rounds, 1)
            _draw_band(axes, rounds[shown], scale(values[shown]), _SIDES[side])
        axes.set_xlabel("round of FCF, sweep of ALS")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))

    return _grid_of_metrics(document, curves, draw)


def _convergence_by_bytes(document: Document, curves: Curves) -> Figure:
    """Draw loss and metrics of the federation by the mean payload of a client."""
    share = document["cohort_size"] / document["num_users"]
    per_round = share * (document["payload_bytes_up"] + document["payload_bytes_down"]) / _MEGABYTE

    def draw(axes: Axes, name: str, scale: Callable[[np.ndarray], np.ndarray]) -> None:
        rounds, values = _trained(curves, FEDERATED, name)
        _draw_band(axes, rounds * per_round, scale(values), _SIDES[FEDERATED])
        final, style = scale(curves.get(CENTRALIZED, name).values[-1:]).mean(), _SIDES[CENTRALIZED]
        axes.axhline(final, color=style.color, linestyle=style.dash, label="centralised ALS, final")
        axes.set_xlabel("dense payload per client, MB")

    return _grid_of_metrics(document, curves, draw)


def _factors(curves: Curves) -> Figure:
    """Draw how far the models of both sides are apart after as many rounds as sweeps."""
    figure = _figure(8, 3.6)
    axes = figure.subplots()
    for name, style in _FACTORS.items():
        rounds, values = curves.get(BOTH, f"{name}_difference")
        _draw_band(axes, rounds, 100 * values, style)
    axes.set(xlabel="rounds of FCF, sweeps of ALS", ylabel="relative difference, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _user_differences(document: Document, users: UserMetrics) -> Figure:
    """Draw the density over users of the difference in each metric, averaged over the replicates."""
    figure = _figure(9, 5.2)
    for axes, name in zip(figure.subplots(2, 3).flat, _shown_metrics(document["k"]), strict=True):
        axes.set(xlabel=f"difference in {_title(name)}", yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.axvline(0, color=_GRAY, linewidth=0.8)
        if name in users.get(FEDERATED, {}):
            _draw_density(axes, _differences_of(users, name))
    figure.supylabel("density of users")
    _add_legend(figure)
    return figure


def _differences_of(users: UserMetrics, name: str) -> np.ndarray:
    """Return each user's finite difference in a metric, averaged over the replicates."""
    differences = users[FEDERATED][name].mean(axis=0) - users[CENTRALIZED][name].mean(axis=0)
    return differences[np.isfinite(differences)]


def _histogram(name: str, users: UserMetrics) -> list[Document]:
    """Count the users by their difference, in bins around 0 that leave out the tails."""
    differences = _differences_of(users, name)
    if not differences.size:
        return []
    reach = np.abs(np.percentile(differences, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])).max() or 1.0
    counts, edges = np.histogram(differences, _BINS, (-reach, reach))
    bins = zip(edges[:-1], edges[1:], counts, strict=True)
    return [{"metric": name, "low": low, "high": high, "users": count} for low, high, count in bins]


def _grid_of_metrics(
    document: Document,
    curves: Curves,
    draw: Callable[[Axes, str, Callable[[np.ndarray], np.ndarray]], None],
) -> Figure:
    """Draw the loss, relative to the final one of ALS, and five metrics, in a panel each."""
    figure = _figure(9, 5.2)
    final = curves.get(CENTRALIZED, "loss").values[-1]
    first, *others = figure.subplots(2, 3).flat
    # from hundreds of percent to tenths, and below 0 where the federation ends below ALS
    first.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    first.yaxis.set_major_formatter("{x:g}")
    first.axhline(0, color=_GRAY, linewidth=0.8)
    draw(first, "loss", lambda losses: 100 * (losses / final - 1))
    first.set_title("loss above converged ALS, %")
    names = [name for name in _shown_metrics(document["k"]) if not name.startswith("f1")]
    for axes, name in zip(others, names, strict=True):
        draw(axes, name, lambda values: values)
        axes.set_title(_title(name))
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    for axes in figure.axes[:3]:
        axes.set_xlabel("")
    _add_legend(figure)
    return figure


def _shown_metrics(k: int) -> list[str]:
    return [*(f"{name}_at_{k}" for name in ("precision", "recall", "f1", "map", "ndcg")), "rmse"]


def _trained(curves: Curves, side: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rounds and values, without a metric's value before any training, which would dwarf the rest."""
    rounds, values = curves.get(side, name)
    first = int(name != "loss" and len(rounds) > 2)
    return rounds[first:], values[first:]


def _draw_linked(axes: Axes, sizes: Sequence[int], points: Sequence[Document]) -> None:
    """Draw the share of interactions that a sum links to a client, by cohort size."""
    axes.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="clients in a sum", ylim=(-3, 103))
    axes.set_ylabel("interactions linked to one client, %")
    for name, style in _LINKED.items():
        _draw_leakage(axes, sizes, points, name, style, percent=True)


def _draw_under_noise(axes: Axes, epsilons: Sequence[float], points: Sequence[Document]) -> None:
    """Draw the attacker's AUC by epsilon, and the ceilings that the noise guarantees."""
    axes.set(xscale="log", xticks=epsilons, xticklabels=[f"{epsilon:g}" for epsilon in epsilons])
    axes.set(xlabel="epsilon of the whole run", ylabel="AUC of the attacker", ylim=(0.48, 1.02))
    for name, style in _UNDER_NOISE.items():
        if name in points[0]:
            _draw_leakage(axes, epsilons, points, name, style)
            ceilings = [point[f"{name}_ceiling"] for point in points]
            label = "ceiling, in the same color" if name == "in_out" else None
            axes.plot(epsilons, ceilings, color=style.color, linestyle=":", label=label)


def _draw_leakage(
    axes: Axes,
    x: Sequence[float],
    points: Sequence[Document],
    name: str,
    style: _Style,
    *,
    percent: bool = False,
) -> None:
    ends = [[point[name][end] for end in ("value", "low", "high")] for point in points]
    values, reach = _with_reach(np.array(ends, np.float64) * (100 if percent else 1))
    axes.errorbar(
        x, values, yerr=reach, color=style.color, marker=style.marker, linestyle=style.dash,
        markersize=4, capsize=2, label=style.label,
    )  # fmt: skip


def _draw_differences(axes: Axes, metrics: Sequence[Document], offset: float, style: _Style) -> None:
    ends = [[found.get(f"difference{end}_percent") for end in ("", "_low", "_high")] for found in metrics]
    values, reach = _with_reach(np.array(ends, np.float64).reshape(-1, 3))
    axes.errorbar(
        values, np.arange(len(metrics)) - offset, xerr=reach, color=style.color, marker=style.marker,
        linestyle=style.dash, markersize=4, capsize=2, linewidth=1.2, label=style.label,
    )  # fmt: skip


def _with_reach(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split [points, (value, low, high)] into values and error bars, 0 where there is no interval."""
    values, low, high = ends.T
    return values, np.maximum(np.nan_to_num(np.stack([values - low, high - values])), 0)


def _draw_band(axes: Axes, x: np.ndarray, values: np.ndarray, style: _Style) -> None:
    """Draw the mean over the replicates and one standard deviation around it, with markers if few."""
    if not values.size:
        return
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=min(values.shape[1] - 1, 1))
    marker = style.marker if len(x) <= 20 else ""
    axes.plot(
        x, mean, color=style.color, marker=marker, linestyle=style.dash, label=style.label,
        markersize=4, linewidth=1.5,
    )  # fmt: skip
    axes.fill_between(x, mean - sd, mean + sd, color=style.color, alpha=0.15, linewidth=0)


def _draw_density(axes: Axes, differences: np.ndarray) -> None:
    """Draw a Gaussian kernel estimate without the tails, and the mean."""
    from scipy.stats import gaussian_kde  # slow to import, and no run needs it

    if not differences.size:
        return
    mean = differences.mean()
    low, high = np.percentile(differences, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    if high > low:
        grid = np.linspace(low, high, _GRID_POINTS)
        density = gaussian_kde(differences)(grid)
        axes.fill_between(grid, density, color=_BLUE, alpha=0.25, linewidth=0)
        axes.plot(grid, density, color=_BLUE, linewidth=1.5, label="users")
        axes.set_ylim(bottom=0)
    axes.axvline(mean, color=_VERMILLION, linestyle="--", linewidth=1.5, label="mean over users")
    axes.set_title(f"mean {mean:+.4f}", fontsize="medium")


def _title(name: str) -> str:
    return metric_text(name) + (", normalised" if name.startswith("normalized_") else "")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")


def _add_legend(figure: Figure) -> None:
    """Add the legend of the first panel above all."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
