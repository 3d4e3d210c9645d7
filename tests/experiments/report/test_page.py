import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fcf_jax import cli
from fcf_jax.experiments.report import page
from fcf_jax.experiments.report.page import render
from fcf_jax.experiments.report.read import read_folders
from fcf_jax.experiments.report.wording import PRIVACY_NOTE, metric_text, size_text

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
    for name in ("config.toml", "environment.json", "convergence.png"):
        shutil.copy(finished / name, folder)
    values = {
        "centralized_mean": 0.25, "centralized_sd": 0.01, "federated_mean": 0.2505, "federated_sd": 0.0125,
        "difference_percent": 0.2, "tost_p": 0.00123,
    }  # fmt: skip
    content = {
        "num_builds": 7,
        "k": 10,
        "margin_percent": 1.0,
        "metrics": {"normalized_map_at_10": values | {"tost_p": 1e-9}, "map_at_10": values},
        "verdict": "As good as <ALS>.",
    }
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def tuning(finished, tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    shutil.copy(finished / "config.toml", folder / "tuned.toml")
    (folder / "trials.csv").write_text("number,value,alpha\n0,0.123456789,4.0\n1,,2.5\n")
    return folder


def test_tables_show_the_numbers_of_the_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    tables = read(finished / "report.html").tables
    plain = [name for name in summary["federated"] if not name.startswith("normalized_")]
    normalized = [name for name in summary["federated"] if name.startswith("normalized_")]
    shown = tables["Metrics and loss"], tables["Normalised by the best value each user's test items allow"]
    for rows, names in zip(shown, (plain, normalized), strict=True):
        assert len(rows) == 1 + len(names)
        for row, name in zip(rows[1:], names, strict=True):
            assert row[0].startswith(metric_text(name))
            tolerance = 0.005 if name == "loss" else 5e-5  # decimals shown
            for cell, side in zip(row[1:3], ("federated", "centralized"), strict=True):
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


def test_page_needs_nothing_but_itself(finished, comparison, tuning, tmp_path):
    together = tmp_path / "together.html"
    folders = [finished, comparison, tuning, finished]
    assert cli.main(["report", *map(str, folders), "--out", str(together)]) == 0
    for path in (finished / "report.html", together):
        shown, text = read(path), path.read_text("utf-8")
        ids = shown.values("id")
        assert len(ids) == len(set(ids))
        targets = [*shown.values("href"), *shown.values("xlink:href"), *re.findall(r"url\(([^)]*)\)", text)]
        assert targets
        assert {target.removeprefix("#") for target in targets} <= set(ids)
        assert all(source.startswith("data:image/png;base64,") for source in shown.values("src"))
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.tags}
        assert "@import" not in text


def test_every_picture_has_words_and_every_heading_cell_a_scope(finished, comparison):
    assert cli.main(["report", str(comparison)]) == 0
    for folder, num_figures in ((finished, 4), (comparison, 1)):
        tags = read(folder / "report.html").tags
        assert sum(tag == "figure" for tag, _ in tags) == num_figures
        described = [attrs.get("aria-label") for _, attrs in tags if attrs.get("role") == "img"]
        described += [attrs.get("alt") for tag, attrs in tags if tag == "img"]
        assert len(described) == num_figures and all(described)
        assert {attrs.get("scope") for tag, attrs in tags if tag == "th"} == {"row", "col"}


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
    assert [row[0] for row in rows] == ["first", "copy"]
    assert number(rows[0][head.index("MAP@10")]) == pytest.approx(summary["federated"]["map_at_10"], abs=5e-5)
    assert number(rows[1][head.index("vs ALS")]) == pytest.approx(
        summary["difference_percent"]["loss"], abs=0.005
    )
    differences = tables["Configuration differences"]
    assert differences == [["run", "model.alpha"], ["first", "4.0"], ["copy", "2.5"]]


def test_folders_of_one_name_are_told_apart(finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / finished.name)
    names = [stored.name for stored in read_folders([finished, other])]
    assert names == [str(finished), str(other)]


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


def test_run_without_test_items_or_als_is_shown(copied):
    def empty(summary):
        summary["federated"] |= {name: None for name in summary["federated"] if name != "loss"}
        summary["centralized"] = summary["difference_percent"] = None

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


def test_comparison_shows_its_verdict_and_table(comparison):
    assert cli.main(["report", str(comparison)]) == 0
    shown = read(comparison / "report.html")
    assert "As good as <ALS>." in shown.text
    row = ["MAP@10", "0.2505 ± 0.0125", "0.2500 ± 0.0100", "+0.20\N{NO-BREAK SPACE}%", "0.0012"]
    rows = shown.tables["Comparison"]
    assert rows[1] == row and rows[3] == [*row[:-1], "< 0.0001"]
    (comparison / "comparison.json").write_text("{}")
    assert cli.main(["report", str(comparison)]) == 0
    assert "did not finish" in read(comparison / "report.html").text


def test_tuning_shows_its_trials_and_what_it_found(tuning):
    assert cli.main(["report", str(tuning)]) == 0
    shown = read(tuning / "report.html")
    assert shown.tables["Trials"] == [["number", "value", "alpha"], ["0", "0.12346", "4"], ["1", "", "2.5"]]
    assert "Tuned in 2 trials." in shown.text and "Tuned configuration" in shown.text
    (tuning / "tuned.toml").unlink()
    assert cli.main(["report", str(tuning)]) == 0
    assert "did not finish" in read(tuning / "report.html").text


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
