"""Pictures of a comparison: equivalence, convergence by round and by bytes, factors, and users."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from scipy.stats import gaussian_kde

from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED, Curve, Curves
from fcf_jax.experiments.compare.statistics import Values, distinct_metrics
from fcf_jax.experiments.store.files import write_atomically

_DOTS_PER_INCH = 120
# Okabe & Ito's colours, told apart by colour-blind eyes; sides differ in line and marker as well
_BLUE, _VERMILLION, _GREEN, _GRAY = "#0072B2", "#D55E00", "#009E73", "#666666"
_STYLES: dict[str, dict[str, Any]] = {
    FEDERATED: {"color": _BLUE, "linestyle": "-", "marker": "o", "label": "federated (FCF), mean ± sd"},
    CENTRALIZED: {
        "color": _VERMILLION,
        "linestyle": "--",
        "marker": "s",
        "label": "centralised ALS, mean ± sd",
    },
}
_MEGABYTE = 1e6
_GRID_POINTS = 400
_TAIL_PERCENT = 1.0  # of the users that lie outside a picture of densities, at either end


def write_pictures(
    folder: Path, document: dict[str, Any], curves: Curves, users: dict[str, dict[str, Values]]
) -> None:
    """Draw `equivalence`, `convergence_by_round`, `convergence_by_bytes`, `factors` and `users`, as PNG.

    Args:
        folder: where to.
        document: the content of `comparison.json`.
        curves: how both sides went.
        users: of each side the metrics of each user, [builds, users] each; empty without test items.
    """
    pictures = {
        "equivalence": equivalence(document),
        "convergence_by_round": convergence_by_round(document, curves),
        "convergence_by_bytes": convergence_by_bytes(document, curves),
        "factors": factors(curves),
        "users": user_differences(document, users),
    }
    for name, figure in pictures.items():
        image = io.BytesIO()
        FigureCanvasAgg(figure).print_png(image)
        write_atomically(folder / f"{name}.png", image.getvalue())


def equivalence(document: dict[str, Any]) -> Figure:
    """Draw each metric's difference with its confidence intervals into the margin of equivalence."""
    distinct = distinct_metrics(document["metrics"])
    metrics = {name: one for name, one in distinct.items() if one["difference_percent"] is not None}
    margin = document["margin_percent"]
    figure = _figure(8, 1.6 + 0.27 * max(len(metrics), 2))
    axis = figure.subplots()
    axis.axvspan(-margin, margin, color=_GREEN, alpha=0.15, linewidth=0, label=f"margin, ±{margin:g} %")
    axis.axvline(0, color=_GRAY, linewidth=0.8)
    _draw_intervals(axis, list(metrics.values()), 0.13, "o", _BLUE, "paired over the builds")
    of_users = [one["per_user"] or dict.fromkeys(one) for one in metrics.values()]
    _draw_intervals(axis, of_users, -0.17, "D", _VERMILLION, "paired over the users")
    axis.set(
        xlabel="federated - centralised, % of the centralised mean, with 95 % confidence interval",
        yticks=range(len(metrics)),
        yticklabels=[_title(name) for name in metrics],
    )
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def convergence_by_round(document: dict[str, Any], curves: Curves) -> Figure:
    """Draw loss and metrics of both sides over rounds of one and sweeps of the other."""
    num_rounds = document["num_rounds"]

    def draw(axis: Axes, name: str, change: Callable[[Values], Values]) -> None:
        for side in (CENTRALIZED, FEDERATED):
            rounds, values = _trained(curves, side, name)
            shown = rounds <= max(num_rounds, 1)
            _draw_band(axis, rounds[shown], change(values[shown]), _STYLES[side])
        axis.set_xlabel("round of FCF, sweep of ALS")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))

    return _grid_of_metrics(document, curves, draw)


def convergence_by_bytes(document: dict[str, Any], curves: Curves) -> Figure:
    """Draw loss and metrics of the federation over what a client has sent and received in the mean."""
    share = document["cohort_size"] / document["num_users"]
    of_a_round = share * (document["payload_bytes_up"] + document["payload_bytes_down"]) / _MEGABYTE

    def draw(axis: Axes, name: str, change: Callable[[Values], Values]) -> None:
        rounds, values = _trained(curves, FEDERATED, name)
        _draw_band(axis, rounds * of_a_round, change(values), _STYLES[FEDERATED])
        end = change(curves.get(CENTRALIZED, name).values[-1:]).mean()
        style = {name: _STYLES[CENTRALIZED][name] for name in ("color", "linestyle")}
        axis.axhline(end, **style, label="centralised ALS at its end")
        axis.set_xlabel("dense payload per client, MB")

    return _grid_of_metrics(document, curves, draw)


def factors(curves: Curves) -> Figure:
    """Draw how far apart the models of both sides are after as many rounds as sweeps."""
    figure = _figure(8, 3.6)
    axis = figure.subplots()
    shown = (
        ("item_factors", "item factors, aligned", _BLUE, "o", "-"),
        ("user_factors", "user factors, turned alike", _VERMILLION, "s", "--"),
        ("scores", r"scores $X Y^T$", _GREEN, "^", "-."),
    )
    for name, label, color, marker, linestyle in shown:
        rounds, values = curves.get(BOTH, f"{name}_difference")
        style = {"color": color, "marker": marker, "linestyle": linestyle, "label": label}
        _draw_band(axis, rounds, 100 * values, style)
    axis.set(xlabel="rounds of FCF, sweeps of ALS", ylabel="relative difference, %")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def user_differences(document: dict[str, Any], users: dict[str, dict[str, Values]]) -> Figure:
    """Draw the densities of each user's difference, its metrics averaged over the builds."""
    figure = _figure(9, 5.2)
    for axis, name in zip(figure.subplots(2, 3).flat, _shown_metrics(document["k"]), strict=True):
        axis.set(xlabel=f"difference in {_title(name)}", yticks=[])
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.axvline(0, color=_GRAY, linewidth=0.8)
        if name in users.get(FEDERATED, {}):
            differences = users[FEDERATED][name].mean(axis=0) - users[CENTRALIZED][name].mean(axis=0)
            _draw_density(axis, differences[np.isfinite(differences)])
    figure.supylabel("density of users")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _grid_of_metrics(
    document: dict[str, Any], curves: Curves, draw: Callable[[Axes, str, Callable[[Values], Values]], None]
) -> Figure:
    """Give the loss, relative to ALS's end, and five metrics a panel each."""
    figure = _figure(9, 5.2)
    end = curves.get(CENTRALIZED, "loss").values[-1]
    first, *others = figure.subplots(2, 3).flat
    _scale_loss(first)
    draw(first, "loss", lambda losses: 100 * (losses / end - 1))
    first.set_title("loss above converged ALS, %")
    names = [name for name in _shown_metrics(document["k"]) if not name.startswith("f1")]
    for axis, name in zip(others, names, strict=True):
        draw(axis, name, lambda values: values)
        axis.set_title(_title(name))
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    for axis in figure.axes[:3]:
        axis.set_xlabel("")
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _scale_loss(axis: Axes) -> None:
    """Show percents from hundreds down to tenths, and below 0 where the federation ends below ALS."""
    axis.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.axhline(0, color=_GRAY, linewidth=0.8)


def _shown_metrics(k: int) -> list[str]:
    return [*(f"{name}_at_{k}" for name in ("precision", "recall", "f1", "map", "ndcg")), "rmse"]


def _trained(curves: Curves, side: str, name: str) -> Curve:
    """Leave out what a metric is before any training, if there is enough besides: it dwarfs the rest."""
    rounds, values = curves.get(side, name)
    first = int(name != "loss" and len(rounds) > 2)
    return Curve(rounds[first:], values[first:])


def _draw_band(axis: Axes, x: np.ndarray, values: Values, style: dict[str, Any]) -> None:
    """Draw the mean over the builds within one standard deviation; markers where they are few."""
    if not values.size:
        return
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=min(values.shape[1] - 1, 1))
    marker = style["marker"] if len(x) <= 20 else ""
    axis.plot(x, mean, **{**style, "marker": marker}, markersize=4, linewidth=1.5)
    axis.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.15, linewidth=0)


def _draw_intervals(
    axis: Axes, figures: list[dict[str, Any]], offset: float, marker: str, color: str, label: str
) -> None:
    named = [f"difference{end}_percent" for end in ("", "_low", "_high")]
    values = np.array([[one[name] for name in named] for one in figures], np.float64).reshape(-1, 3)
    middle, low, high = values.T
    reach = np.nan_to_num(np.stack([middle - low, high - middle]))  # one build has no interval
    axis.errorbar(
        middle, np.arange(len(figures)) - offset, xerr=np.maximum(reach, 0), fmt=marker, color=color,
        markersize=4, capsize=2, linewidth=1.2, label=label,
    )  # fmt: skip


def _draw_density(axis: Axes, differences: Values) -> None:
    """Draw a Gaussian kernel estimate, without the farthest users, and the mean."""
    if not differences.size:
        return
    mean = differences.mean()
    low, high = np.percentile(differences, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    if high > low:
        grid = np.linspace(low, high, _GRID_POINTS)
        density = gaussian_kde(differences)(grid)
        axis.fill_between(grid, density, color=_BLUE, alpha=0.25, linewidth=0)
        axis.plot(grid, density, color=_BLUE, linewidth=1.5, label="users")
        axis.set_ylim(bottom=0)
    axis.axvline(mean, color=_VERMILLION, linestyle="--", linewidth=1.5, label="mean of the users")
    axis.set_title(f"mean {mean:+.4f}", fontsize="medium")


def _title(name: str) -> str:
    """Spell a metric for people: MAP@10, normalised RMSE."""
    words = name.removeprefix("normalized_")
    stem, _, k = words.partition("_at_")
    spelled = stem.upper() if stem in ("map", "ndcg", "rmse", "auc", "f1") else stem.replace("_", " ")
    return ("normalised " if name != words else "") + spelled + (f"@{k}" if k else "")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")
