"""Features from the command line: training, cold items apart, and recommendations without a history."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up_features import write_made_up

import fcf_jax as fcf
from fcf_jax import cli
from fcf_jax.data import read_features, read_interactions, split_cold_items
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.store.run_directory import METRICS, read_run

NUM_USERS, NUM_ITEMS = 60, 40
BREAK = 5  # rounds before the run is resumed
SETTINGS = [
    "model.num_factors=2", "model.alpha=2", "model.regularization=2", "federation.num_rounds=60",
    "evaluation.every=60", "evaluation.k=3", "data.split=cold_items", "data.cold_fraction=0.2",
    "data.warm_interactions=11", "data.user_features=people.csv", "data.item_features=things.csv",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("all_undrawn")


def overrides(folder):
    return [word for one in (f"data.path={folder}/plays.csv", *SETTINGS) for word in ("--set", one)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    write_made_up(folder, num_users=NUM_USERS, num_items=NUM_ITEMS)
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["run", *overrides(folder), "--quiet", "--out", str(run)]
    assert cli.main([*arguments, "--set", f"federation.num_rounds={BREAK}"]) == 0
    assert cli.main([*arguments, "--resume"]) == 0
    return run


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())


@pytest.fixture(scope="module")
def split(folder):
    data, _ = read_interactions(folder / "plays.csv")
    return split_cold_items(data, cold_fraction=0.2, test_fraction=0.2, seed=0)


def asked(capsys, *arguments):
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_federation_with_features_reaches_the_loss_of_als(summary):
    assert summary["federated"]["loss"] == pytest.approx(summary["centralized"]["loss"], rel=1e-4)
    assert (summary["num_user_features"], summary["num_item_features"]) == (4, 3)
    gradient, of_step, user_map = 31 * 2, 2 * 2 + 31 + 1, 4 * 2  # numbers of 31 items, 2 factors, 4 features
    assert summary["payload_bytes_down"] == 4 * (gradient + user_map)
    assert summary["payload_bytes_up"] == 4 * (gradient + of_step + user_map + 4 * 4)


def test_cold_items_are_ranked_by_their_features_alone(finished, folder, split, summary):
    model = read_run(finished)
    items = read_features(folder / "things.csv", entity="item")
    people = read_features(folder / "people.csv", entity="user")
    prior = people.of(split.train.user_labels) @ model.features.user_map
    x = np.array([_solved(model.item_factors, split.train, user, prior[user]) for user in range(NUM_USERS)])
    scores = x @ (items.of(split.cold.item_labels) @ model.features.item_map).T
    relevant = np.diff(split.cold.indptr)
    is_cold = split.cold.to_scipy().toarray() > 0
    best = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    hits = np.take_along_axis(is_cold, best, axis=1).sum(axis=1)
    has_any = relevant > 0
    expected = np.mean(hits[has_any] / relevant[has_any])
    assert summary["federated"]["cold_recall_at_3"] == pytest.approx(expected, abs=0.02)  # near ties
    assert summary["popularity"]["cold_recall_at_3"] == pytest.approx(3 / 8)
    assert expected > 1.4 * 3 / 8
    assert summary["num_cold_items"] == 8 and summary["num_cold_interactions"] == relevant.sum()
    assert set(summary["feature_popularity"]) < set(summary["federated"])
    assert summary["feature_popularity"]["cold_auc"] == pytest.approx(0.5, abs=0.1)  # both kinds alike
    assert summary["federated"]["warm_auc"] > summary["popularity"]["warm_auc"]


def _solved(item_factors, train, user, prior, alpha=2.0, regularization=2.0):
    y = item_factors.astype(np.float64)
    seen = train.item_ids[train.indptr[user] : train.indptr[user + 1]]
    confidence = np.ones(len(y))
    confidence[seen] += alpha * train.strengths[train.indptr[user] : train.indptr[user + 1]]
    matrix = y.T @ (confidence[:, None] * y) + regularization * np.eye(y.shape[1])
    return np.linalg.solve(matrix, y[seen].T @ confidence[seen] + regularization * prior)


def test_new_user_gets_what_its_attributes_predict(finished, capsys):
    for town, kind in (("x", 0), ("y", 1)):
        shown = asked(capsys, "recommend", finished, "--features", f"town={town},age=30", "-n", 5, "--json")
        assert {int(one["item"]) % 2 for one in json.loads(shown)} == {kind}


def test_new_items_are_candidates_unless_they_are_left_out(finished, folder, split, capsys):
    everything = asked(capsys, "recommend", finished, "--features", "town=x", "-n", 99, "--json")
    known = asked(capsys, "recommend", finished, "--features", "town=x", "-n", 99, "--json", "--no-new-items")
    items, trained = ({one["item"] for one in json.loads(text)} for text in (everything, known))
    assert trained == set(split.train.item_labels.tolist())
    assert items == set(range(NUM_ITEMS))  # with item 39, which only the file of features knows


def test_items_of_a_user_are_left_out_new_ones_too(finished, folder, split, capsys):
    user = int(np.argmax(split.cold.history_lengths))
    shown = asked(capsys, "recommend", finished, "--user", user, "-n", 99, "--json")
    data, _ = read_interactions(folder / "plays.csv")
    own = set(data.item_ids[data.indptr[user] : data.indptr[user + 1]].tolist())
    assert {one["item"] for one in json.loads(shown)} == set(range(NUM_ITEMS)) - own


def test_table_of_new_users_agrees_with_each_alone(finished, tmp_path, capsys):
    table, out = tmp_path / "new.csv", tmp_path / "found.csv"
    table.write_text("name,town,age\nann,x,30\nbob,y,50\n")
    asked(capsys, "recommend", finished, "--features", table, "-n", 3, "--out", out)
    found = pd.read_csv(out)
    for name, text in (("ann", "town=x,age=30"), ("bob", "town=y,age=50")):
        alone = asked(capsys, "recommend", finished, "--features", text, "-n", 3, "--json")
        of_user = found[found["user"] == name]
        assert of_user["item"].tolist() == [one["item"] for one in json.loads(alone)]


def test_attributes_and_history_are_blended(finished, tmp_path, capsys):
    """The prior of one town, a history of the other: scores between those of each alone."""
    history = tmp_path / "history.csv"
    history.write_text("1\n3\n")
    texts = [
        asked(capsys, "recommend", finished, *arguments, "-n", 99, "--json")
        for arguments in (
            ["--features", "town=x,age=40"],
            ["--features", "town=x,age=40", "--history", history],
            ["--features", "town=y,age=40", "--history", history],
        )
    ]
    scores = [{one["item"]: one["score"] for one in json.loads(text)} for text in texts]
    assert scores[0][5] < scores[1][5] < scores[2][5]


def test_resumed_run_goes_on_with_the_map_of_users(finished):
    losses = [one["loss"] for one in METRICS.read(finished) if one["kind"] == "round"]
    assert len(losses) == 60
    assert losses[BREAK] < losses[BREAK - 1] < losses[BREAK - 2]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            "data.user_features=nobody.csv",
            ["run"],
            "data.user_features: expected a file of attributes, got no file",
        ),
        ("data.user_features=things.csv", ["run"], "data.user_features: .* expected attributes of users"),
        ("data.item_features=strangers.csv", ["run"], "got those of .*; check the ids"),
        ("data.cold_fraction=0.99", ["run"], "data.split: expected items to train on beside 39 cold items"),
        ("data.timestamp_column=", ["run"], "data.split: expected timestamps, got none"),
    ],
)
def test_faults_are_one_line(change, arguments, message, folder, tmp_path, capsys, monkeypatch):
    (folder / "strangers.csv").write_text("item,kind\na,p\nb,q\nc,p\nd,q\n")
    assert cli.main([*arguments, *overrides(folder), "--set", change, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "height=3"], "--features height=3: expected one of town, age, got 'height'"),
        (["--features", "town"], "--features town: expected NAME=VALUE"),
        (["--features", "TABLE"], "--out: expected a file for many users"),
        (
            ["--features", "TABLE", "--history", "h.csv"],
            "expected attributes such as age=25 beside --history",
        ),
        (["--features", "town=x", "--user", "1"], "give one of them"),
    ],
)
def test_attributes_that_mean_nothing_are_refused(arguments, message, finished, folder, capsys):
    words = [str(folder / "people.csv") if one == "TABLE" else one for one in arguments]
    assert cli.main(["recommend", str(finished), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_model_in_python_is_refused_where_users_have_features(finished):
    with pytest.raises(
        ValueError, match=r"without features of users, got .*'people.csv'; use `fcf recommend`"
    ):
        fcf.load_run(finished)


def test_preview_shows_features(folder, capsys):
    shown = asked(capsys, "data", "preview", *overrides(folder))
    assert "user features (people.csv): town (2 values), age: 4 columns" in shown
    assert "item features (things.csv): kind (2 values): 3 columns" in shown


def test_comparison_measures_cold_items_apart(folder, tmp_path):
    out = tmp_path / "compared"
    quick = ["--set", "comparison.num_builds=2", "--set", "federation.num_rounds=0", "--quiet"]
    assert cli.main(["compare", *overrides(folder), *quick, "--out", str(out)]) == 0
    metrics = json.loads((out / "comparison.json").read_text())["metrics"]
    cold = metrics["cold_recall_at_3"]
    assert cold["popularity_mean"] == pytest.approx(3 / 8)
    assert cold["centralized_mean"] > 1.3 * 3 / 8


def test_a_bare_name_is_looked_for_beside_the_data(folder):
    from fcf_jax.experiments.build.side_features import file_of

    data = load_config(None, [f"data.path={folder}/plays.csv"]).data
    assert file_of(data, "people.csv") == folder / "people.csv"
    assert file_of(data, "elsewhere.csv").parent.name == ""
