"""What a report says about one run."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from markupsafe import Markup

from fcf_jax.experiments.report import curves
from fcf_jax.experiments.report.curves import bytes_per_round, excess_loss, leading_metric, side
from fcf_jax.experiments.report.outcomes import RunOutcome
from fcf_jax.experiments.report.pictures import Line, Panel, describe, to_svg
from fcf_jax.experiments.report.wording import (
    NOTHING,
    count_text,
    loss_text,
    metric_text,
    number_text,
    percent_text,
    seconds_text,
    several,
    size_text,
)

Content = dict[str, Any]


class Tile(NamedTuple):
    """A number to see at once."""

    label: str
    value: str
    note: str = ""


class Share(NamedTuple):
    """A part of a whole, as a bar."""

    label: str
    value: str
    percent: float


class Figure(NamedTuple):
    """A drawn panel with what stands around it."""

    title: str
    svg: Markup
    description: str
    lines: list[Line]


def run_content(run: RunOutcome, *, anchor: str) -> Content:
    """Arrange the numbers and pictures of a run; `anchor` keeps the ids of its pictures apart."""
    return {
        "headline": _headline(run),
        "is_finished": run.summary is not None,
        "tiles": list(_tiles(run)),
        "tables": _result_tables(run),
        "has_als": bool(side(run, "centralized")),
        "figures": figures_of(curves.panels_of(run), anchor),
        "milestones": curves.milestones(run),
        "evaluations": _evaluations(run),
        "data": list(_data(run.summary)) if run.summary else [],
        "payload": list(_payload(run, run.summary)) if run.summary else [],
        "shares": list(_shares(run.summary)) if run.summary else [],
    }


def _headline(run: RunOutcome) -> str:
    rounds = several(num_rounds(run), "round")
    if run.summary is None:
        return f"This run did not finish: it has no summary.json. On record: {rounds}."
    name, federated, centralized = leading_metric(run), side(run, "federated"), side(run, "centralized")
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


def _beside_als(run: RunOutcome) -> str:
    excess = side(run, "difference_percent").get("loss")
    if excess is None:
        return "not comparable with"
    return f"{percent_text(abs(excess)).lstrip('+')} {'above' if excess > 0 else 'below'}"


def num_rounds(run: RunOutcome) -> int:
    """Count the rounds on record."""
    return sum(one["kind"] == "round" for one in run.records)


def _tiles(run: RunOutcome) -> Iterator[Tile]:
    federated, difference = side(run, "federated"), side(run, "difference_percent")
    if not run.summary:
        yield Tile("rounds on record", count_text(num_rounds(run)))
        return
    if difference:
        yield Tile(
            "loss against ALS's", percent_text(difference.get("loss")), f"loss {loss_text(federated['loss'])}"
        )
    leading_first = sorted(curves.main_metrics(run), key=lambda name: name != leading_metric(run))
    for name in [name for name in leading_first if federated.get(name) is not None][:2]:
        note = f"{percent_text(difference.get(name))} against ALS's" if difference else ""
        yield Tile(metric_text(name), number_text(federated.get(name)), note)
    summary = run.summary
    cohort, everybody = count_text(summary["cohort_size"]), count_text(summary["num_users"])
    who = f"all {everybody}" if cohort == everybody else f"{cohort} of {everybody}"
    yield Tile("rounds", count_text(summary["num_rounds"]), f"{who} clients in each")
    rate = f"{count_text(summary['clients_per_second'])} clients/s"
    yield Tile("time per round", seconds_text(summary["seconds_per_round"]), rate)
    total = bytes_per_round(run) * summary["num_rounds"]
    each = total / max(summary["num_users"], 1)
    yield Tile("payload in all", size_text(total), f"{size_text(each)} for each client")


def _result_tables(run: RunOutcome) -> list[Content]:
    federated = side(run, "federated")
    plain = [name for name in federated if not name.startswith("normalized_")]
    normalized = [name for name in federated if name.startswith("normalized_")]
    titles = ("Metrics and loss", "Normalised by the best a user's test items allow")
    return [
        {"title": title, "rows": [_result_row(run, name) for name in names]}
        for title, names in zip(titles, (plain, normalized), strict=True)
        if names
    ]


def _result_row(run: RunOutcome, name: str) -> Content:
    text = loss_text if name == "loss" else number_text
    sides = (side(run, "federated").get(name), side(run, "centralized").get(name))
    return {
        "name": name,
        "federated": text(sides[0]),
        "centralized": text(sides[1]),
        "difference": percent_text(side(run, "difference_percent").get(name)),
        "is_lower_better": name.endswith(("loss", "rmse")),
    }


def figures_of(panels: Iterable[Panel], anchor: str) -> list[Figure]:
    """Draw panels for the page."""
    return [
        Figure(panel.title, Markup(to_svg(panel, name=f"{anchor}-{position}")), describe(panel), panel.lines)
        for position, panel in enumerate(panels)
    ]


def _evaluations(run: RunOutcome) -> Content:
    """The numbers of the curves where metrics were measured."""
    names = curves.main_metrics(run)
    excess = dict(zip(*(array.tolist() for array in excess_loss(run)), strict=True))
    rows = [
        [
            count_text(one["round"]),
            size_text(one["round"] * bytes_per_round(run)),
            percent_text(excess.get(one["round"])),
            *(number_text(one.get(name)) for name in names),
        ]
        for one in run.records
        if one["kind"] == "evaluation"
    ]
    return {"head": ["round", "payload", "loss above", *map(metric_text, names)], "rows": rows}


def _data(summary: Content) -> Iterator[tuple[str, str]]:
    users, items, total = (summary[f"num_{name}"] for name in ("users", "items", "interactions"))
    yield "users", count_text(users)
    yield "items", count_text(items)
    yield "interactions", count_text(total)
    yield "to train on", count_text(summary["num_train_interactions"])
    yield "to test on", count_text(summary["num_test_interactions"])
    yield "share of all pairs", percent_text(100 * total / max(users * items, 1)).lstrip("+")
    left_out = {
        "users without a test item": summary["num_users_without_test"],
        "users without a training item": summary["num_users_without_train"],
        **summary.get("data_counts", {}),
    }
    for name, count in left_out.items():
        if count:
            yield name.replace("_", " "), count_text(count)
    yield "fingerprint", str(summary.get("data_fingerprint", NOTHING))[:16]


def _payload(run: RunOutcome, summary: Content) -> Iterator[tuple[str, str]]:
    up, down = summary["payload_bytes_up"], summary["payload_bytes_down"]
    rounds, cohort_size, users = (summary[name] for name in ("num_rounds", "cohort_size", "num_users"))
    yield "a client in a round receives", size_text(down)
    yield "a client in a round sends", size_text(up)
    yield "all clients of a round", size_text(bytes_per_round(run))
    yield "a client in the whole run, on average", size_text(bytes_per_round(run) * rounds / max(users, 1))
    yield "all clients in the whole run receive", size_text(down * cohort_size * rounds)
    yield "all clients in the whole run send", size_text(up * cohort_size * rounds)
    if padding := summary.get("padding_factor"):
        yield "slots computed for each interaction", number_text(padding, decimals=2)


def _shares(summary: Content) -> Iterator[tuple[str, list[Share]]]:
    up, down = summary["payload_bytes_up"], summary["payload_bytes_down"]
    yield (
        "Payload of a client in a round",
        [_share("received", size_text(down), down, up + down), _share("sent", size_text(up), up, up + down)],
    )
    if padding := summary.get("padding_factor"):
        yield (
            "Slots computed in a round of everybody",
            [
                _share("interactions", _part(1 / padding), 1, padding),
                _share("padding", _part(1 - 1 / padding), padding - 1, padding),
            ],
        )


def _part(share: float) -> str:
    return percent_text(100 * share, digits=1).lstrip("+")


def _share(label: str, value: str, part: float, whole: float) -> Share:
    return Share(label, value, 100 * part / whole if whole else 0.0)
