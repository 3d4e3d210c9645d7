"""A comparison through the command line: its files, and resuming it."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fcf_jax import cli
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.compare import comparison, training
from fcf_jax.experiments.compare.comparison import load_splits
from fcf_jax.experiments.compare.curves import read_curves
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.run import run_experiment
from fcf_jax.experiments.store.run_directory import claimed

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=20", "evaluation.every=10", "comparison.num_builds=2",
    "comparison.max_rounds=20", "parallel.devices=1",
    "federation.solve_tolerance=0",  # both sides solve the same users to the same bits
]  # fmt: skip
NAMES = [*metric_names(10), "loss"]


def compare(folder, *overrides, options=()):
    sets = [word for one in (*TINY, *overrides) for word in ("--set", one)]
    return cli.main(["compare", *sets, "--out", str(folder), *options])


def read(folder):
    return json.loads((folder / "comparison.json").read_text())


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(comparison, "write_comparison_figures", lambda *unused: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons") / "tiny"
    assert compare(folder, options=["--quiet"]) == 0
    return folder


def test_json_has_every_promised_key(finished):
    document = read(finished)
    assert (document["num_builds"], document["k"], document["margin_percent"]) == (2, 10, 1.0)
    assert list(document["metrics"]) == NAMES
    for figures in document["metrics"].values():
        assert {
            "centralized_mean", "centralized_sd", "federated_mean", "federated_sd",
            "difference_percent", "tost_p", "difference_low_percent", "difference_high_percent", "per_user",
            "popularity_mean", "popularity_sd",
        } == set(figures)  # fmt: skip
    assert document["verdict"].startswith("Over 2 replicates, ")
    assert document["split_seeds"] == document["start_seeds"] == [0, 1]


def test_tidy_table_gives_the_figures(finished):
    table = pd.read_csv(finished / "comparison.csv")
    assert len(table) == 2 * 3 * len(NAMES)
    means = table.groupby(["side", "metric"])["value"].mean()
    for name, figures in read(finished)["metrics"].items():
        federated, centralized = means["federated", name], means["centralized", name]
        assert figures["federated_mean"] == pytest.approx(federated)
        assert figures["popularity_mean"] == pytest.approx(means["popularity", name])
        expected = 100 * (federated - centralized) / abs(centralized)
        assert figures["difference_percent"] == pytest.approx(expected, abs=1e-9)


def test_every_file_is_there_and_the_table_has_the_verdict(finished):
    pictures = {"equivalence", "convergence_by_round", "convergence_by_bytes", "factors", "users"}
    assert {path.stem for path in finished.glob("*.png")} == pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in finished.glob("*.png"))
    assert {"config.toml", "environment.json"} < {path.name for path in finished.iterdir()}
    table = (finished / "comparison.md").read_text()
    assert read(finished)["verdict"] in table
    assert "| map_at_10 |" in table and "| normalized_map_at_10 |" not in table


def test_report_draws_the_curves_intervals_and_users(finished, tmp_path):
    page = tmp_path / "page.html"
    assert cli.main(["report", str(finished), "--out", str(page)]) == 0
    text = page.read_text("utf-8")
    titles = (
        "Differences, and the margin of", "Loss above converged ALS, by round", "MAP@10, by round",
        "Relative difference of the two models", "Loss above converged ALS, by payload",
        "Difference in MAP@10 of a user",
    )  # fmt: skip
    assert all(f"<figcaption>{title}" in text for title in titles)


def test_both_sides_begin_alike_and_are_on_record(finished):
    curves = read_curves(finished / "curves.csv", until=10**6)
    for name in NAMES:
        first = [curves.get(side, name).values[0] for side in ("federated", "centralized")]
        np.testing.assert_array_equal(*first)
    assert curves.get("federated", "loss").rounds.tolist() == list(range(21))
    assert curves.get("federated", "map_at_10").rounds.tolist() == [0, 1, 2, 5, 10, 20]
    assert len(curves.get("centralized", "loss").rounds) == read(finished)["num_sweeps"] + 1 > 40
    apart = curves.get("both", "item_factors_difference").values
    np.testing.assert_allclose(apart[0], 0.0, atol=1e-6)
    assert (apart[1:] > 1e-3).all()


def test_each_replicate_agrees_with_the_run_alone(finished, tmp_path):
    config = load_config(None, [*TINY, "federation.seed=1", "evaluation.baseline=false"])
    with claimed(tmp_path / "alone", config), ProgressLine(Console(), quiet=True) as progress:
        problem = resolve(config, load_splits(config)[1])
        summary = run_experiment(problem, tmp_path / "alone", progress)
    table = pd.read_csv(finished / "comparison.csv")
    (found,) = (rows["value"] for key, rows in table.groupby(["build", "side"]) if key == (1, "federated"))
    (floor,) = (rows["value"] for key, rows in table.groupby(["build", "side"]) if key == (1, "popularity"))
    assert floor.tolist() == pytest.approx(list(summary["popularity"].values()), rel=1e-6)
    # float32: rounding has 20 rounds to grow; the replicates differ by 5 % and more
    assert found.tolist() == pytest.approx(list(summary["federated"].values()), rel=1e-3)


def test_resumed_comparison_equals_an_unbroken_one(finished, no_figures, tmp_path, monkeypatch, capsys):
    folder, show, signals = tmp_path / "stopped", training._show, iter([[]] * 4 + [[signal.SIGINT]])

    def interrupted(*arguments):
        for number in next(signals, ()):
            os.kill(os.getpid(), number)
        show(*arguments)

    monkeypatch.setattr(training, "_show", interrupted)
    assert compare(folder) == 130
    assert f"go on with: fcf compare --resume --out {folder}" in capsys.readouterr().err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["round-00000005.npz"]
    assert cli.main(["compare", "--resume", "--out", str(folder)]) == 0
    assert "resuming after 5 rounds" in capsys.readouterr().out
    resumed, unbroken = read(folder), read(finished)
    assert resumed.pop("resumed_from_rounds") == [5] and unbroken.pop("resumed_from_rounds") == []
    assert resumed.pop("seconds") and unbroken.pop("seconds")
    assert resumed == unbroken
    assert (folder / "curves.csv").read_bytes() == (finished / "curves.csv").read_bytes()
    assert not (folder / "checkpoints").exists()
    assert cli.main(["compare", "--resume", "--out", str(folder)]) == 0
    assert "nothing left to do" in capsys.readouterr().out


def test_explicit_ratings_of_cohorts_on_one_split_for_all(tmp_path, no_figures, capsys):
    rows = [f"{user},{item},{1 + (user * item) % 5},{item}" for user in range(30) for item in range(user % 9)]
    (tmp_path / "data.csv").write_text("user,item,rating,timestamp\n" + "\n".join(rows))
    explicit = (
        f"data.path={tmp_path / 'data.csv'}", "data.feedback=explicit", "data.split=leave_one_out",
        "model.unobserved_weight=0.0", "server.step=adam", "federation.cohort_size=7",
        "federation.num_rounds=4", "model.num_factors=2",
    )  # fmt: skip
    assert compare(tmp_path / "explicit", *explicit) == 0
    document = read(tmp_path / "explicit")
    assert document["split_seeds"] == [0, 0]
    assert document["cohort_size"] == 7
    assert document["metrics"]["rmse"]["federated_sd"] > 0
    assert document["popularity"]["rmse"] is None and 0 < document["popularity"]["auc"] < 1
    printed = capsys.readouterr().out
    assert "is not random" in printed
    assert "round 4/4" in printed and "popularity" in printed
    assert printed.splitlines()[-2] == document["headline"]  # in one line
    shown = printed[printed.index(" metric ") : printed.index("Difference in percent")].splitlines()
    assert max(map(len, shown)) <= 80


def test_verdict_names_what_one_replicate_without_test_items_cannot_show(tmp_path, no_figures):
    nothing = ("data.test_fraction=0.0", "comparison.num_builds=1", "federation.num_rounds=0")
    assert compare(tmp_path / "one", *nothing, options=["--quiet"]) == 0
    document = read(tmp_path / "one")
    assert document["metrics"]["map_at_10"]["federated_mean"] is None
    assert document["metrics"]["loss"]["difference_percent"] > 0.5  # no round at all
    assert document["worse_metrics"] == ["loss"]
    for expected in (
        "A test of equivalence needs at least two replicates.",
        "loss (+",
        "No difference could be computed for precision_at_10",
    ):
        assert expected in document["verdict"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("parallel.stream=true", "parallel.stream"),
        ("parallel.devices=99", "parallel.devices"),
        ("comparison.builds=3", "comparison.num_builds"),
        ("comparison.num_builds=0", "comparison.num_builds"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path, override, named, capsys):
    assert compare(tmp_path / "none", override) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_is_refused(finished, capsys):
    assert compare(finished) == 2
    assert str(finished) in capsys.readouterr().err
