"""Content of a report about a sweep: the best configuration, the Pareto picture, the table."""

from collections.abc import Iterator
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from fcf_jax.experiments.report.drawing import svg_of
from fcf_jax.experiments.report.pareto import (
    cost_text,
    draw_costs,
    draw_ranking,
    legend_of,
    ranking_size,
)
from fcf_jax.experiments.report.read import StoredSweep
from fcf_jax.experiments.report.run_content import Content, DrawnPanel
from fcf_jax.experiments.report.sweep_tables import legend_text, table_of
from fcf_jax.experiments.report.wording import metric_text, number_text
from fcf_jax.experiments.store.files import Document
from fcf_jax.experiments.sweep.plan import settings_text
from fcf_jax.messages import count_of

_MOST_ROWS = 200
_SIZE = (6.4, 4.2)  # inches


def sweep_content(stored: StoredSweep, *, anchor: str) -> Content:
    """Arrange the best configuration, the picture and the table."""
    document = stored.document
    if not document:
        done = count_of(stored.num_done, "run")
        return {
            "headline": f"This sweep did not finish: {done} so far.", "is_finished": False,
            "figures": [], "head": [], "rows": [], "num_more": 0, "legend": "",
        }  # fmt: skip
    head, rows = table_of(document)
    return {
        "headline": _headline(document),
        "is_finished": True,
        "warnings": document["cautions"],
        "figures": list(_figures(document, anchor)),
        "head": head,
        "rows": rows[:_MOST_ROWS],
        "num_more": max(len(rows) - _MOST_ROWS, 0),
        "legend": legend_text(document),
    }


def _headline(document: Document) -> str:
    best, metric = document["configurations"][0], document["metric"]
    runs, mean = count_of(document["num_runs"], "run"), best["metrics"].get(metric, {}).get("mean")
    if mean is None:
        return f"{runs}, none of which was finished."
    which = settings_text(best["values"]) or "as configured"
    return f"Of {runs}, {which} has the best {metric_text(metric)}: {number_text(mean)}."


def _figures(document: Document, anchor: str) -> Iterator[DrawnPanel]:
    if all(document["metric"] not in one["metrics"] for one in document["configurations"]):
        return
    metric, legend = metric_text(document["metric"]), legend_of(document)
    front = [one for one in document["configurations"] if one["is_non_dominated"]]
    words = "; ".join(settings_text(one["values"]) for one in front)
    for cost in document["costs"]:
        title = f"{metric} against {cost_text(cost)}"
        draw = partial(_draw, document, cost)
        svg = svg_of(draw, name=f"{anchor}-{cost}", size=_SIZE)
        yield DrawnPanel(title, Markup(svg), f"{title}. Not dominated: {words}.", legend)
    if not document["costs"]:
        title = f"{metric} of each configuration"
        svg = svg_of(
            lambda axes: draw_ranking(axes, document), name=f"{anchor}-ranking", size=ranking_size(document)
        )
        yield DrawnPanel(title, Markup(svg), f"{title}. The best: {words}.", legend)


def _draw(document: Document, cost: str, axes: Axes) -> None:
    draw_costs(axes, document, cost, _SIZE)
