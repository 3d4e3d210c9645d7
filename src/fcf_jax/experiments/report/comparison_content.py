"""Content of a report about a comparison: verdict, metrics of both sides with intervals, and pictures."""

from markupsafe import Markup

from fcf_jax.experiments.compare.statistics import distinct_metrics
from fcf_jax.experiments.report.comparison_panels import (
    OVER_REPLICATES,
    OVER_USERS,
    draw_forest,
    forest_size,
    panels_of_comparison,
)
from fcf_jax.experiments.report.drawing import svg_of
from fcf_jax.experiments.report.read import StoredComparison
from fcf_jax.experiments.report.run_content import Content, DrawnPanel, drawn_panels, plain_and_normalized
from fcf_jax.experiments.report.wording import UNKNOWN, loss_text, number_text, p_text, percent_text


def comparison_content(stored: StoredComparison, *, anchor: str) -> Content:
    """Arrange the verdict, the table of metrics and the pictures."""
    document = stored.document
    metrics = distinct_metrics(document.get("metrics", {}))
    groups = [names for names in plain_and_normalized(metrics) if names]
    return {
        "headline": document.get("verdict", "This comparison did not finish: it has no verdict."),
        "is_finished": "verdict" in document,
        "notes": document.get("notes", []),
        "num_builds": document.get("num_builds"),
        "margin": percent_text(document.get("margin_percent"), decimals=None, is_signed=False),
        "has_popularity": any(one.get("popularity_mean") is not None for one in metrics.values()),
        "tables": [[_row(name, metrics[name]) for name in names] for names in groups],
        "figures": [
            *_forest(document, metrics, anchor),
            *drawn_panels(panels_of_comparison(stored), anchor),
        ],
    }


def _row(name: str, found: Content) -> Content:
    return {
        "name": name,
        "federated": _spread(name, found, "federated"),
        "centralized": _spread(name, found, "centralized"),
        "popularity": _spread(name, found, "popularity"),
        "difference": percent_text(found.get("difference_percent")),
        "interval": _interval(found),
        "tost_p": p_text(found.get("tost_p")),
    }


def _spread(name: str, found: Content, side: str) -> str:
    mean, deviation = found.get(f"{side}_mean"), found.get(f"{side}_sd")
    if mean is None:
        return UNKNOWN
    text, spread = number_text(mean), number_text(deviation)
    if name == "loss":
        text, spread = loss_text(mean), loss_text(deviation, scale=mean)
    return text if deviation is None else f"{text} ± {spread}"


def _interval(found: Content) -> str:
    ends = [found.get(f"difference_{end}_percent") for end in ("low", "high")]
    return UNKNOWN if None in ends else " to ".join(percent_text(end) for end in ends)


def _forest(document: Content, metrics: dict[str, Content], anchor: str) -> list[DrawnPanel]:
    known = {name: one for name, one in metrics.items() if one.get("difference_percent") is not None}
    if not known:
        return []
    margin = document.get("margin_percent", 0.0)
    svg = svg_of(
        lambda axes: draw_forest(axes, known, margin), name=f"{anchor}-forest", size=forest_size(list(known))
    )
    title = f"Differences, and the margin of {percent_text(margin, decimals=None, is_signed=False)}"
    words = [f"{name}: {percent_text(one['difference_percent'])}." for name, one in known.items()]
    return [DrawnPanel(title, Markup(svg), f"{title}. {' '.join(words)}", [OVER_REPLICATES, OVER_USERS])]
