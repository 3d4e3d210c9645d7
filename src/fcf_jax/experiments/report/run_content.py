"""Content of a report about one run."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fcf_jax.experiments.compare.statistics import distinct_metrics
from fcf_jax.experiments.report.milestones import milestones
from fcf_jax.experiments.report.panels import LegendEntry, Panel, alt_text, svg_of_panel
from fcf_jax.experiments.report.read import StoredRun
from fcf_jax.experiments.report.run_panels import panels_of_run
from fcf_jax.experiments.report.wording import (
    UNKNOWN,
    count_text,
    loss_text,
    metric_text,
    number_text,
    percent_text,
    seconds_text,
    size_text,
    value_text,
)
from fcf_jax.experiments.store.schemas import Summary
from fcf_jax.messages import count_of

_MOST_EVALUATIONS = 100  # rows of the table of the curves
Content = dict[str, Any]


class DrawnPanel(NamedTuple):
    """A panel as the page shows it."""

    title: str
    svg: Markup
    alt: str
    legend: list[LegendEntry]


def run_content(run: StoredRun, *, anchor: str) -> Content:
    """Arrange the numbers and figures of a run; `anchor` keeps the ids of its figures apart."""
    summary = run.summary
    return {
        "headline": _headline(run),
        "is_finished": summary is not None,
        "warnings": summary.get("warnings", []) if summary else [],
        "tiles": list(_tiles(run)),
        "tables": _result_tables(run),
        "has_als": bool(run.side("centralized")),
        "has_popularity": _has_popularity(run),
        "figures": drawn_panels(panels_of_run(run), anchor),
        "milestones": milestones(run),
        "evaluations": _evaluations(run),
        "data": list(_data(summary)) if summary else [],
        "payload": list(_payload(run, summary)) if summary else [],
        "shares": list(_shares(summary)) if summary else [],
    }


def drawn_panels(panels: Iterable[Panel], anchor: str) -> list[DrawnPanel]:
    """Draw panels for the page."""
    return [
        DrawnPanel(
            panel.title, Markup(svg_of_panel(panel, name=f"{anchor}-{index}")), alt_text(panel), panel.legend
        )
        for index, panel in enumerate(panels)
    ]


def plain_and_normalized(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Split the names of metrics into those as they are and those divided by their best possible value."""
    normalized = [name for name in names if name.startswith("normalized_")]
    return [name for name in names if name not in normalized], normalized


def _has_popularity(run: StoredRun) -> bool:
    return any(value is not None for value in run.side("popularity").values())


def _headline(run: StoredRun) -> str:
    rounds = count_of(run.num_rounds, "round")
    if run.summary is None:
        return f"This run did not finish: it has no summary.json. On record: {rounds}."
    name, federated, centralized = run.leading_metric, run.side("federated"), run.side("centralized")
    if not centralized:
        sentences = [f"After {rounds} the loss is {loss_text(federated.get('loss'))}; ALS was not trained."]
    else:
        sentences = [f"After {rounds} the federation's loss is {_beside_als(run)} centralised ALS's."]
    if federated.get(name) is not None:
        of_als = f", ALS's {number_text(centralized.get(name))}" if centralized else ""
        sentences.append(f"{metric_text(name)} is {number_text(federated[name])}{of_als}.")
    if (offsets := run.summary.get("explicit_baseline_rmse")) is not None:
        sentences.append(f"User and item offsets alone reach {number_text(offsets)}.")
    return " ".join(sentences)


def _beside_als(run: StoredRun) -> str:
    excess = run.side("difference_percent").get("loss")
    if excess is None:
        return "not comparable with"
    return f"{percent_text(abs(excess), is_signed=False)} {'above' if excess > 0 else 'below'}"


def _tiles(run: StoredRun) -> Iterator[tuple[str, str, str]]:
    """Yield the numbers at the top of the page: label, value and note."""
    federated, difference, summary = run.side("federated"), run.side("difference_percent"), run.summary
    if not summary:
        yield "rounds on record", count_text(run.num_rounds), ""
        return
    if difference:
        loss = f"loss {loss_text(federated['loss'])}"
        yield "loss vs ALS", percent_text(difference.get("loss")), loss
    leading_first = sorted(run.main_metrics, key=lambda name: name != run.leading_metric)
    for name in [name for name in leading_first if federated.get(name) is not None][:2]:
        note = f"{percent_text(difference.get(name))} vs ALS" if difference else ""
        yield metric_text(name), number_text(federated.get(name)), note
    cohort, users = count_text(summary["cohort_size"]), count_text(summary["num_users"])
    who = f"all {users}" if cohort == users else f"{cohort} of {users}"
    yield "rounds", count_text(summary["num_rounds"]), f"{who} clients in each"
    rate = f"{count_text(summary['clients_per_second'])} clients/s"
    yield "time per round", seconds_text(summary["seconds_per_round"]), rate
    total = run.bytes_per_round * summary["num_rounds"]
    per_client = total / max(summary["num_users"], 1)
    yield "total payload", size_text(total), f"{size_text(per_client)} per client"
    if (statement := summary.get("privacy")) is not None:
        is_private = statement["is_private"] and statement["epsilon"] is not None
        spent = f"{statement['epsilon']:.3g}" if is_private else "not private"
        yield (
            "epsilon",
            spent,
            f"at delta {statement['delta']:.2g}, noise {statement['noise_multiplier']:.3g}",
        )
    if (attack := summary.get("attack")) is not None:
        who = f"{attack['kind'].replace('_', ' ')} by {count_of(attack['num_malicious'], 'client')}"
        yield "ER@10 of the targets", number_text(attack["er_at_10"]), who
        honest = attack["honest"].get(run.leading_metric)
        yield f"{metric_text(run.leading_metric)} of honest users", number_text(honest), ""
    told = summary.get("federated_evaluation", {}).get(f"federated_{run.leading_metric}")
    if told is not None:
        yield f"{metric_text(run.leading_metric)} as clients sum it", number_text(told), ""
    if (floor := run.side("popularity").get(run.leading_metric)) is not None:
        yield f"{metric_text(run.leading_metric)} of popularity", number_text(floor), "the floor"


def _result_tables(run: StoredRun) -> list[Content]:
    titles = ("Metrics and loss", "Normalised by the best value each user's test items allow")
    sides = ("federated", "centralized")
    metrics = {
        name: {f"{side}_mean": run.side(side).get(name) for side in sides} for name in run.side("federated")
    }
    return [
        {"title": title, "rows": [_result_row(run, name) for name in names]}
        for title, names in zip(titles, plain_and_normalized(distinct_metrics(metrics)), strict=True)
        if names
    ]


def _result_row(run: StoredRun, name: str) -> Content:
    return {
        "name": name,
        "federated": value_text(name, run.side("federated").get(name)),
        "centralized": value_text(name, run.side("centralized").get(name)),
        "difference": percent_text(run.side("difference_percent").get(name)),
        "popularity": value_text(name, run.side("popularity").get(name)),
        "is_lower_better": name.endswith(("loss", "rmse")),
    }


def _evaluations(run: StoredRun) -> Content:
    """Return the table of all evaluations: the numbers behind the curves."""
    excess = dict(zip(*(array.tolist() for array in run.excess_loss()), strict=True))
    records = [record for record in run.records if record["kind"] == "evaluation"]
    chosen = np.unique(np.linspace(0, len(records) - 1, min(len(records), _MOST_EVALUATIONS)).round())
    has_epsilon = any("epsilon" in record for record in records)
    rows = [
        [
            count_text(record["round"]),
            size_text(record["round"] * run.bytes_per_round),
            *([number_text(record.get("epsilon"), decimals=3)] if has_epsilon else []),
            percent_text(excess.get(record["round"])),
            *(number_text(record.get(name)) for name in run.main_metrics),
        ]
        for record in (records[int(position)] for position in chosen)
    ]
    head = ["round", "payload", *(["epsilon"] if has_epsilon else []), "excess loss"]
    return {
        "head": [*head, *map(metric_text, run.main_metrics)],
        "rows": rows,
        "num_left_out": len(records) - len(rows),
    }


def _data(summary: Summary) -> Iterator[tuple[str, str]]:
    users, items, total = summary["num_users"], summary["num_items"], summary["num_interactions"]
    yield "users", count_text(users)
    yield "items", count_text(items)
    yield "interactions", count_text(total)
    yield "training interactions", count_text(summary["num_train_interactions"])
    yield "test interactions", count_text(summary["num_test_interactions"])
    yield "share of user-item pairs", percent_text(100 * total / max(users * items, 1), is_signed=False)
    left_out = {
        "users without a test item": summary["num_users_without_test"],
        "users without a training item": summary["num_users_without_train"],
        **summary.get("data_counts", {}),
    }
    for name, count in left_out.items():
        if count:
            yield name.replace("_", " "), count_text(count)
    yield "fingerprint", str(summary.get("data_fingerprint", UNKNOWN))[:16]


def _payload(run: StoredRun, summary: Summary) -> Iterator[tuple[str, str]]:
    up, down, users = summary["payload_bytes_up"], summary["payload_bytes_down"], summary["num_users"]
    client_rounds = summary["cohort_size"] * summary["num_rounds"]
    ledger = summary.get("payload", {})
    yield "received per client and round", size_text(down)
    yield "sent per client and round", size_text(up)
    for name, spread in (("received", ledger.get("bytes_down")), ("sent", ledger.get("bytes_up"))):
        if spread and spread["max"] > spread["p50"]:
            of_clients = (size_text(spread[key]) for key in ("p50", "p95", "max"))
            yield f"{name}: median, 95th percentile, most", " · ".join(of_clients)
    if form := ledger.get("form"):
        yield "form of the messages", form.replace("_", " ")
        others = {name: sum(both) for name, both in ledger["forms"].items() if name != form}
        for name, num_bytes in others.items():
            yield f"both ways as {name.replace('_', ' ')}", size_text(num_bytes)
    yield "all clients, per round", size_text(run.bytes_per_round)
    yield "per client in the whole run, on average", size_text((up + down) * client_rounds / max(users, 1))
    yield "received by all clients in the whole run", size_text(down * client_rounds)
    yield "sent by all clients in the whole run", size_text(up * client_rounds)
    if padding := summary.get("padding_factor"):
        yield "slots computed per interaction", number_text(padding, decimals=2)


def _shares(summary: Summary) -> Iterator[tuple[str, list[tuple[str, str, float]]]]:
    """Yield bars: a title, and of each part its label, value and percentage of the whole."""
    up, down = summary["payload_bytes_up"], summary["payload_bytes_down"]
    percent = 100 / ((up + down) or 1)
    received, sent = ("received", size_text(down), percent * down), ("sent", size_text(up), percent * up)
    yield "Payload per client and round", [received, sent]
    if padding := summary.get("padding_factor"):
        parts = {"interactions": 100 / padding, "padding": 100 - 100 / padding}
        yield (
            "Slots computed in a round of all clients",
            [(label, percent_text(part, decimals=1, is_signed=False), part) for label, part in parts.items()],
        )
