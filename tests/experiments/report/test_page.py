import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import audit_of

from fcf_jax import cli
from fcf_jax.experiments.compare.curves import Curves
from fcf_jax.experiments.report import page
from fcf_jax.experiments.report.page import render
from fcf_jax.experiments.report.read import read_folder, read_folders
from fcf_jax.experiments.report.wording import PRIVACY_NOTE, UNKNOWN, metric_text, size_text

TINY = [  # as in test_cli: compiled once
    "--set", "data.num_users=60", "--set", "data.num_items=30", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.every=2",
]  # fmt: skip
VOID = {"meta", "img", "br", "line", "path", "use"}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, texts, and the cells of tables by their names."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.tables, self._open = [], [], {}, []
        self.feed(text)
        self.close()
        assert self._open == [], "tags left open"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self._open.append(tag)
        if attrs.get("role") == "region":
            self._rows = self.tables.setdefault(attrs["aria-label"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def values(self, name):
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


def read(path):
    return Page(path.read_text("utf-8"))


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", "").rstrip("%\N{NO-BREAK SPACE}"))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "first"
    assert cli.main(["run", *TINY, "--quiet", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def comparison(finished, tmp_path):
    folder = tmp_path / "compared"
    folder.mkdir()
    for name in ("config.toml", "environment.json"):
        shutil.copy(finished / name, folder)
    values = {
        "centralized_mean": 0.25, "centralized_sd": 0.01, "federated_mean": 0.2505, "federated_sd": 0.0125,
        "popularity_mean": 0.1, "popularity_sd": 0.02, "difference_percent": 0.2,
        "difference_low_percent": -0.15, "difference_high_percent": 0.55, "tost_p": 0.00123,
    }  # fmt: skip
    others = values | {"federated_mean": 0.5, "tost_p": 1e-9}
    content = {
        "num_builds": 7, "k": 10, "margin_percent": 1.0, "num_rounds": 2, "num_users": 60, "cohort_size": 60,
        "payload_bytes_up": 3, "payload_bytes_down": 2,
        "metrics": {
            "map_at_10": values, "recall_at_10": others, "normalized_map_at_10": values,
            "normalized_recall_at_10": others | {"centralized_mean": 0.3},
            "normalized_f1_at_10": others | {"centralized_mean": 0.3},
        },
        "verdict": "As good as <ALS>.",
        "notes": ["A note."],
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(content))
    curves = Curves()
    for side in ("federated", "centralized"):
        for round_index in range(3):
            curves.put(side, "loss", round_index, [30.0 - round_index, 31.0 - round_index])
    curves.write(folder / "curves.csv")
    return folder


@pytest.fixture
def tuning(finished, tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    shutil.copy(finished / "config.toml", folder / "tuned.toml")
    (folder / "trials.csv").write_text(
        "stage,trial,state,value,last_step,model.alpha\nmodel,0,complete,0.123456789,9,4.0\n"
        "model,1,pruned,,2,2.5\nmodel,2,complete,0.15,9,0.1\n"
    )
    document = {"metric": "map_at_10", "start_value": 0.12, "best_value": 0.15, "popularity": 0.0625,
                "at_bounds": ["model.alpha is at the high end: raise tuning.alpha's high"]}  # fmt: skip
    (folder / "tuning.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def audit(finished, tmp_path):
    folder = tmp_path / "audited"
    folder.mkdir()
    for name in ("config.toml", "environment.json"):
        shutil.copy(finished / name, folder)
    attacks = {"cohort_sum": {"recall": 0.02}, "differencing": {"f1": 1.0, "exact_set_rate": 1.0}}
    leakage = [
        {"cohort_size": size, **{name: attacks_ for name in ("fitted", "knows_gram")}}
        for size, attacks_ in ((5, {"value": 0.9, "low": 0.8, "high": 1.0}),
                               (50, {"value": 0.0, "low": 0.0, "high": 0.1}))
    ]  # fmt: skip
    document = {**audit_of(attacks), "verdict": "It gives all away.", "leakage": leakage}
    (folder / "audit.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def every_kind(finished, comparison, tuning, audit):
    return [finished, comparison, tuning, audit]


def test_table_shows_the_numbers_of_the_summary_once(finished):
    summary = json.loads((finished / "summary.json").read_text())
    tables = read(finished / "report.html").tables
    plain = [name for name in summary["federated"] if not name.startswith("normalized_")]
    assert "Normalised" not in " ".join(tables)  # they equal recall
    _, *rows = tables["Metrics and loss"]
    for row, name in zip(rows, plain, strict=True):
        assert row[0].startswith(metric_text(name))
        tolerance = 0.005 if name == "loss" else 5e-5  # decimals shown
        for cell, side in zip((*row[1:3], row[4]), ("federated", "centralized", "popularity"), strict=True):
            assert number(cell) == pytest.approx(summary[side][name], abs=tolerance)
        assert number(row[3]) == pytest.approx(summary["difference_percent"][name], abs=0.005)


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ({"mode": "secure_sum", "min_cohort": 50}, "at least 50 clients"),
        ({"mode": "central_noise", "seed": 1}, "NOT PRIVATE"),
        ({"mode": "central_noise"}, "privacy_budget.json"),
        ({"mode": "plain"}, "uploads are not private"),
    ],
)
def test_note_of_what_has_no_summary_is_that_of_its_mode(comparison, privacy, words):
    (stored,) = read_folders([comparison])
    assert words in render([stored._replace(config=stored.config | {"privacy": privacy})])


def test_page_tells_payload_padding_environment_and_privacy(finished):
    summary = json.loads((finished / "summary.json").read_text())
    text = read(finished / "report.html").text.replace("\N{NO-BREAK SPACE}", " ")
    total = 6 * 60 * (summary["payload_bytes_up"] + summary["payload_bytes_down"])
    version = json.loads((finished / "environment.json").read_text())["versions"]["jax"]
    facts = {
        "slots computed per interaction": f"{summary['padding_factor']:.2f}",
        "sent per client and round": size_text(summary["payload_bytes_up"]),
        "jax": version,
        "num_factors": "4",
    }
    for name, value in facts.items():
        assert f"{name}{value}".replace("\N{NO-BREAK SPACE}", " ") in text
    assert PRIVACY_NOTE in text
    assert f"total payload {size_text(total)}".replace("\N{NO-BREAK SPACE}", " ") in text


def test_page_needs_nothing_but_itself(every_kind, finished, tmp_path):
    together = tmp_path / "together.html"
    assert cli.main(["report", *map(str, [*every_kind, finished]), "--out", str(together)]) == 0
    for path in (finished / "report.html", together):
        shown, text = read(path), path.read_text("utf-8")
        ids = shown.values("id")
        assert len(ids) == len(set(ids))
        targets = [*shown.values("href"), *shown.values("xlink:href"), *re.findall(r"url\(([^)]*)\)", text)]
        assert targets
        assert {target.removeprefix("#") for target in targets} <= set(ids)
        assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in shown.tags}
        assert "@import" not in text


def test_every_picture_has_words_and_every_heading_cell_a_scope(every_kind):
    for folder, num_figures in zip(every_kind, (4, 3, 2, 1), strict=True):
        assert cli.main(["report", str(folder)]) == 0
        tags = read(folder / "report.html").tags
        assert sum(tag == "figure" for tag, _ in tags) == num_figures
        described = [attrs.get("aria-label") for _, attrs in tags if attrs.get("role") == "img"]
        assert len(described) == num_figures and all(described)
        assert {attrs.get("scope") for tag, attrs in tags if tag == "th"} == {"row", "col"}


def test_every_kind_of_page_follows_the_theme_and_never_says_nan(every_kind):
    for folder in every_kind:
        text = render([read_folder(folder)])
        assert "prefers-color-scheme: dark" in text
        pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
        assert pictures and not any(re.search(r"#[0-9a-f]{6}", picture) for picture in pictures)
        assert "nan" not in Page(text).text.lower().split()


def test_what_users_named_is_escaped(finished, tmp_path, capsys):
    hostile = tmp_path / '_<script>"&$x$'
    shutil.copytree(finished, hostile)
    path = hostile / "config.toml"
    path.write_text(path.read_text() + "\n[extra]\nnote = '<script>alert(1)</script>'\n")
    out = tmp_path / "new" / "page.html"
    assert cli.main(["report", str(hostile), str(finished), "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    shown = read(out)
    assert "script" not in {tag for tag, _ in shown.tags}
    assert hostile.name in shown.text and "<script>alert(1)</script>" in shown.text


def test_runs_stand_side_by_side_with_what_differs(finished, copied, tmp_path):
    path = copied / "config.toml"
    path.write_text(path.read_text().replace("alpha = 4.0", "alpha = 2.5"))
    out = tmp_path / "all.html"
    assert cli.main(["report", str(finished), str(copied), "--out", str(out)]) == 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    tables = read(out).tables
    head, *rows = tables["Runs side by side"]
    summary = json.loads((finished / "summary.json").read_text())
    assert [row[0] for row in rows] == ["first", "copy", "popularitythe floor"]
    assert number(rows[2][head.index("MAP@10")]) == pytest.approx(
        summary["popularity"]["map_at_10"], abs=5e-5
    )
    assert number(rows[0][head.index("MAP@10")]) == pytest.approx(summary["federated"]["map_at_10"], abs=5e-5)
    assert number(rows[1][head.index("excess loss")]) == pytest.approx(
        summary["difference_percent"]["loss"], abs=0.005
    )
    differences = tables["Configuration differences"]
    assert differences == [["key", "first", "copy"], ["model.alpha", "4.0", "2.5"]]


def test_folders_of_one_name_are_told_apart(finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / finished.name)
    names = [stored.name for stored in read_folders([finished, other])]
    assert names == [str(finished), str(other)]


@pytest.mark.usefixtures("undrawn")
def test_unfinished_run_says_so(copied):
    (copied / "summary.json").unlink()
    (copied / "environment.json").unlink()
    assert cli.main(["report", str(copied)]) == 0
    assert (
        "This run did not finish: it has no summary.json. On record: 6 rounds."
        in read(copied / "report.html").text
    )
    (copied / "metrics.jsonl").unlink()
    assert "On record: 0 rounds." in Page(render(read_folders([copied, copied]))).text


@pytest.mark.usefixtures("undrawn")
def test_run_without_test_items_or_als_is_shown(copied):
    def empty(summary):
        summary["federated"] |= {name: None for name in summary["federated"] if name != "loss"}
        summary["centralized"] = summary["difference_percent"] = None
        del summary["popularity"]

    edit(copied / "summary.json", empty)
    records = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    for one in records:
        if one["kind"] == "evaluation":
            one |= {name: None for name in one if name not in ("kind", "round")}
    kept = [json.dumps(one) for one in records if one["kind"] != "als_sweep"]
    (copied / "metrics.jsonl").write_text("\n".join(kept))
    assert cli.main(["report", str(copied)]) == 0
    shown = read(copied / "report.html")
    assert "ALS was not trained" in shown.text
    assert shown.tables["Metrics and loss"][0] == ["metric", "federated"]


def test_comparison_shows_its_verdict_intervals_and_no_row_twice(comparison):
    assert cli.main(["report", str(comparison)]) == 0
    shown = read(comparison / "report.html")
    assert "As good as <ALS>." in shown.text and "A note." in shown.text
    head = ["metric", "federated", "centralised", "difference", "95 % interval", "TOST p", "popularity"]
    row = [
        "MAP@10",
        "0.2505 ± 0.0125",
        "0.2500 ± 0.0100",
        "+0.20 %",
        "\N{MINUS SIGN}0.15 % to +0.55 %",
        "0.0012",
    ]
    assert plain(shown.tables["Comparison"][:2]) == [head, [*row, "0.1000 ± 0.0200"]]
    (_, normalized) = shown.tables["Comparison, normalised"]  # MAP equals the plain one, F1 equals recall
    assert normalized[0] == "Recall@10" and normalized[5] == "< 0.0001"


def plain(rows):
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in rows]


@pytest.mark.usefixtures("undrawn")
def test_tables_of_narrow_pages_name_every_cell(every_kind):
    """On a narrow screen rows become cards, where the heading line is not seen."""
    text = render(read_folders([*every_kind, every_kind[0]]))
    cards = re.findall(r'<div class="scroll [^"]*cards[^"]*".*?</div>', text, re.DOTALL)
    assert len(cards) == 5  # two runs, both side by side, and the comparison's two
    for card in cards:
        assert card.count("<td") == card.count("<td data-label=") > 0


def test_tuning_shows_what_was_gained_then_its_best_values_then_its_trials(tuning):
    assert cli.main(["report", str(tuning)]) == 0
    shown = read(tuning / "report.html")
    assert "Tuned in 3 trials: MAP@10 on the validation set went from 0.1200 to 0.1500, +25.00 %." in (
        shown.text.replace("\N{NO-BREAK SPACE}", " ")
    )
    assert "MAP@10 of popularity 0.0625" in shown.text
    best = [["value", "at first", "best"], ["MAP@10", "0.12346", "0.15"], ["model.alpha", "4", "0.1"]]
    assert next(iter(shown.tables.items())) == ("Best values of the model", best)
    assert shown.tables["Trials"][2] == ["model", "1", "pruned", "", "2", "2.5"]
    assert "Tuned configuration" in shown.text and "raise tuning.alpha's high" in shown.text
    (tuning / "tuned.toml").unlink()
    assert cli.main(["report", str(tuning)]) == 0
    assert "did not finish" in read(tuning / "report.html").text


def test_audit_shows_a_verdict_on_each_attack(audit):
    assert cli.main(["report", str(audit)]) == 0
    text = read(audit / "report.html").text
    assert "It gives all away." in text
    assert "cohort sum fails" in text and "differencing succeeds" in text
    assert "clients whose set of items is found exactly" in text
    assert read(audit / "report.html").tables["Figures of cohort_sum"][1] == ["recall", "0.02", UNKNOWN]


@pytest.mark.parametrize(
    ("command", "kind"), [("audit", "audit"), ("compare", "comparison"), ("tune", "tuning"), ("run", "run")]
)
@pytest.mark.usefixtures("undrawn")
def test_what_did_not_finish_is_called_what_it_is(copied, command, kind):
    (copied / "summary.json").unlink()
    edit(copied / "environment.json", lambda content: content.update(arguments=[command, "--quiet"]))
    assert cli.main(["report", str(copied)]) == 0
    assert f"This {kind} did not finish" in read(copied / "report.html").text


def test_private_run_shows_its_epsilon(copied):
    statement = {
        "is_private": True, "epsilon": 2.5, "delta": 1e-5, "noise_multiplier": 1.25, "unit": "one user",
        "adjacency": "add or remove one user", "sampling": "everybody", "num_users": 60, "num_rounds": 6,
        "expected_cohort_size": 60, "num_rounds_allowed": 6, "accountant": "made up", "released": "factors",
        "item_counts_noise_multiplier": None, "caveats": [], "rounds_charged": 6,
    }  # fmt: skip
    edit(copied / "summary.json", lambda summary: summary.update(privacy=statement))
    records = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    for one in records:
        one |= {"epsilon": 0.4 * one["round"]} if one["kind"] == "evaluation" else {}
    (copied / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    text = render([read_folder(copied)])
    assert "epsilon 2.5 at delta 1e-05, noise 1.25" in Page(text).text
    assert text.count("by epsilon</figcaption>") == 2
    assert "epsilon" in Page(text).tables["Values of the curves"][0]


@pytest.mark.usefixtures("undrawn")
def test_warnings_of_a_run_are_on_its_page(copied):
    edit(copied / "summary.json", lambda summary: summary.update(warnings=["ranks below popularity"]))
    assert "ranks below popularity" in Page(render([read_folder(copied)])).text


def refused(arguments, capsys):
    assert cli.main(["report", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_what_is_no_run_is_refused_in_one_line(finished, tmp_path, capsys):
    assert "config.toml" in refused([tmp_path], capsys)
    assert "got no folder" in refused([tmp_path / "nowhere", finished], capsys)
    assert ".html" in refused([finished, "--out", tmp_path], capsys)
    assert ".html" in refused([finished, "--out", tmp_path / "page.png"], capsys)
    assert "RUN" in refused([], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("audit.json", "{"),
        ("audit.json", '{"mode": "other", "attacks": {}, "facts": {}, "verdict": ""}'),
        ("comparison.json", '{"metrics": {}, "verdict": ""}'),
        ("summary.json", "{"),
        ("summary.json", "{}"),
        ("environment.json", "[]"),
        ("metrics.jsonl", '{"kind": "round"}\n'),
        ("config.toml", "seed = 1\n"),
    ],
)
def test_damaged_file_is_named(copied, capsys, name, content):
    (copied / name).write_text(content)
    assert str(copied / name) in refused([copied], capsys)


def test_full_disk_is_a_failure_in_one_line(finished, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(page, "write_atomically", full)
    assert cli.main(["report", str(finished)]) == 1
    assert "free some space" in capsys.readouterr().err
