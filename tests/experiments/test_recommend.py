"""Recommendations from a finished run, by user and by history."""

import json

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.experiments.build.dataset import load_interactions
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.recommend import History, recommend_items
from fcf_jax.experiments.store.run_directory import read_run

TINY = [
    "--set", "data.num_users=60", "--set", "data.num_items=30", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["run", *TINY, "--quiet", "--out", str(folder)]) == 0
    return folder


def test_user_with_every_item_gets_no_recommendation(finished):
    model = read_run(finished)
    everything = History(np.arange(30), np.ones(30), 0)
    assert recommend_items(model, everything, count=5) == []
    nothing = History(np.zeros(0, np.int32), np.zeros(0), 0)
    assert [one.score for one in recommend_items(model, nothing, count=5)] == [0.0] * 5


def test_recommend_by_user_and_by_the_same_history_agree(finished, tmp_path, capsys):
    interactions, _ = load_interactions(load_config(str(finished / "config.toml")).data)
    mine = slice(interactions.indptr[3], interactions.indptr[4])
    history = tmp_path / "history.csv"
    pairs = zip(interactions.item_ids[mine], interactions.strengths[mine], strict=True)
    history.write_text("item,strength\n" + "".join(f"{item},{strength}\n" for item, strength in pairs))

    assert cli.main(["recommend", str(finished), "--user", "3", "-n", "4", "--json"]) == 0
    by_user = json.loads(capsys.readouterr().out)
    assert cli.main(["recommend", str(finished), "--history", str(history), "-n", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == by_user
    assert len(by_user) == 4
    assert not {one["item"] for one in by_user} & set(interactions.item_ids[mine].tolist())


def test_recommend_for_people(finished, capsys):
    assert cli.main(["recommend", str(finished), "--user", "3", "-n", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--user", "999"], "--user 999"),
        ([], "--user"),
        (["--history", "missing.csv"], "missing.csv"),
    ],
)
def test_recommend_refuses(finished, arguments, named, capsys):
    assert cli.main(["recommend", str(finished), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


def test_recommend_names_the_bad_line_of_a_history(finished, tmp_path, capsys):
    history = tmp_path / "history.csv"
    history.write_text("item,strength\n1,2\n2,many\n")
    assert cli.main(["recommend", str(finished), "--history", str(history)]) == 2
    assert f"{history}:3" in capsys.readouterr().err
