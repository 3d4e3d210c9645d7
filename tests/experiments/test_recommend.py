"""A finished run is asked: recommendations to one user or all, similar items, titles, the loaded model."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import fcf_jax as fcf
from fcf_jax import cli
from fcf_jax.data import Interactions, simulate_taste
from fcf_jax.experiments import recommend
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.recommend import Histories, recommend_items
from fcf_jax.experiments.store.run_directory import read_run, write_item_factors

pytestmark = pytest.mark.usefixtures("all_undrawn")

TINY = [
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.every=2",
    "--set", "data.strengths=log", "--set", "evaluation.baseline=false",
]  # fmt: skip
NUM_ITEMS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made-up set in the layout of MovieLens 100K, with titles for all items but the first."""
    folder = tmp_path_factory.mktemp("made-up")
    plays = simulate_taste(num_users=60, num_items=NUM_ITEMS, mean_history=8, seed=0)
    rows = zip(plays.user_ids + 1, plays.item_ids + 1, plays.strengths, strict=True)
    (folder / "u.data").write_text("".join(f"{user}\t{item}\t{count:.0f}\t0\n" for user, item, count in rows))
    titles = "".join(f"{item}|The {item}th|01-Jan-1995\n" for item in range(2, NUM_ITEMS + 1))
    (folder / "u.item").write_text(titles)
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "run"
    data = ["--set", f"data.path={folder}"]
    assert cli.main(["run", *TINY, *data, "--quiet", "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def plays(folder):
    return fcf.read_interactions(folder)[0]


def asked(capsys, *arguments):
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_user_with_every_item_gets_no_recommendation(finished):
    model = read_run(finished)
    items = np.arange(NUM_ITEMS)
    everything = Interactions.from_arrays(np.zeros(NUM_ITEMS, int), items, num_users=2, num_items=NUM_ITEMS)
    full, nothing = recommend_items(model, Histories(everything, 0), count=5)
    assert full == []
    assert [one.score for one in nothing] == [0.0] * 5


def test_recommend_by_user_and_by_the_same_history_agree(finished, plays, tmp_path, capsys):
    mine = slice(plays.indptr[3], plays.indptr[4])
    items = plays.item_labels[plays.item_ids[mine]].tolist()
    history = tmp_path / "history.csv"
    pairs = zip(items, plays.strengths[mine], strict=True)
    history.write_text("item,strength\n" + "".join(f"{item},{strength}\n" for item, strength in pairs))
    user = plays.user_labels[3]
    by_user = json.loads(asked(capsys, "recommend", finished, "--user", user, "-n", 4, "--json"))
    by_file = json.loads(asked(capsys, "recommend", finished, "--history", history, "-n", 4, "--json"))
    assert by_user == by_file and len(by_user) == 4
    assert not {one["item"] for one in by_user} & set(items)


def test_scores_of_explicit_ratings_are_ratings(finished):
    """Not deviations from their mean, which is all that a model without factors knows."""
    model = read_run(finished)
    config = with_values(model.config, {"data.feedback": "explicit", "model.unobserved_weight": 0.0})
    flat = model._replace(config=config, mean_rating=3.5, item_factors=0 * model.item_factors)
    nothing = Interactions.from_arrays([], [], num_users=1, num_items=NUM_ITEMS)
    (row,) = recommend_items(flat, Histories(nothing, 0), count=3)
    assert [one.score for one in row] == [3.5] * 3


def test_lists_for_people_have_titles_where_there_are_some(finished, capsys):
    lines = asked(capsys, "recommend", finished, "--user", 3, "-n", NUM_ITEMS).splitlines()
    assert len(lines) > 5
    for line in lines:
        item, score, *title = line.split("\t")
        assert title == ([] if item == "1" else [f"The {item}th"]) and re.fullmatch(r"-?\d\.\d{4}", score)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_of_all_users_has_what_each_user_is_told(suffix, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recommend, "_BLOCK_USERS", 25)  # three blocks, the last one smaller
    out = tmp_path / f"recs{suffix}"
    out.write_text("old")
    said = asked(capsys, "recommend", finished, "--all-users", "--out", out, "-n", 4)
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert [line.split()[1] for line in said.splitlines()[:3]] == ["25/60", "50/60", "60/60"]
    assert f"{len(table)} recommendations for 60 users written to {out}" in said
    assert list(table) == ["user", "rank", "item", "score", "title"]
    assert table.groupby("user")["rank"].apply(list).tolist() == [[1, 2, 3, 4]] * 60
    for user in (1, 26, 60):
        told = json.loads(asked(capsys, "recommend", finished, "--user", user, "-n", 4, "--json"))
        mine = table[table["user"] == user]
        assert mine["item"].tolist() == [one["item"] for one in told]
        np.testing.assert_allclose(mine["score"], [one["score"] for one in told], atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_table_that_cannot_be_written_leaves_the_old_one(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "recs.csv"
    out.write_text("old")

    def fail(*unused, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    assert cli.main(["recommend", str(finished), "--all-users", "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"fcf: {out}: No space left on device; free some space\n"
    assert out.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_similar_items_match_dense_cosines(finished, capsys):
    model = read_run(finished)
    factors = model.item_factors / np.linalg.norm(model.item_factors, axis=1, keepdims=True)
    cosines = factors @ factors[model.item_ids.tolist().index(7)]
    best = np.argsort(-cosines)[1:4]
    told = json.loads(asked(capsys, "similar", finished, "--item", 7, "-n", 3, "--json"))
    assert [one["item"] for one in told] == model.item_ids[best].tolist()
    np.testing.assert_allclose([one["score"] for one in told], cosines[best], atol=1e-5)
    assert len(asked(capsys, "similar", finished, "--item", 7).splitlines()) == 10


def test_an_item_that_nobody_had_has_no_neighbours(finished, tmp_path, capsys):
    model = read_run(finished)
    factors = np.where(model.item_ids[:, None] == 7, 0, model.item_factors)
    (tmp_path / "config.toml").write_bytes((finished / "config.toml").read_bytes())
    write_item_factors(tmp_path, factors, model.item_ids, mean_rating=0.0)
    assert "item 7 has no interactions in the training set" in asked(capsys, "similar", tmp_path, "--item", 7)
    told = json.loads(asked(capsys, "similar", tmp_path, "--item", 8, "-n", NUM_ITEMS, "--json"))
    assert len(told) == NUM_ITEMS - 2 and 7 not in [one["item"] for one in told]


def test_a_loaded_run_recommends_as_the_command_line_does(finished, plays, capsys):
    model = fcf.load_run(finished)
    assert model.item_labels.tolist() == plays.item_labels.tolist() and model.strengths == "log"
    user = int(plays.user_labels[3])
    rows = zip(plays.user_ids, plays.item_ids, plays.strengths, strict=True)
    frame = pd.DataFrame(
        [(plays.user_labels[u], plays.item_labels[i], count) for u, i, count in rows],
        columns=["user", "item", "rating"],
    )
    ids, scores = model.recommend_new(frame[frame["user"] == user], N=4)
    told = json.loads(asked(capsys, "recommend", finished, "--user", user, "-n", 4, "--json"))
    assert model.item_labels[ids[0]].tolist() == [one["item"] for one in told]
    np.testing.assert_allclose(scores[0], [one["score"] for one in told], atol=1e-5)
    with pytest.raises(ValueError, match="got a loaded one; pass the users' own rows to recommend_new"):
        _ = model.user_factors


def test_a_folder_without_a_run_is_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a run directory with config"):
        fcf.load_run(tmp_path)


def test_a_run_of_ratings_is_not_loaded_as_implicit(finished, tmp_path):
    for name in ("config.toml", "item_factors.npz"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    config = (tmp_path / "config.toml").read_text()
    config = config.replace('feedback = "implicit"', 'feedback = "explicit"')
    config = config.replace('strengths = "log"', 'strengths = "keep"').replace(
        "unobserved_weight = 1.0", "unobserved_weight = 0.0"
    )
    (tmp_path / "config.toml").write_text(config)
    with pytest.raises(
        ValueError, match="expected a run of implicit feedback, got explicit ratings; use `fcf"
    ):
        fcf.load_run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["recommend", "RUN", "--user", "999"],
            "--user 999: not in the data of this run; its users are [1, 2",
        ),
        (["recommend", "RUN"], "one of --user ID, --history FILE, --features TEXT and --all-users"),
        (["recommend", "RUN", "--user", "1", "--all-users"], "one of --user ID, --history FILE"),
        (["recommend", "RUN", "--history", "missing.csv"], "missing.csv"),
        (["recommend", "RUN", "--all-users"], "--out: expected a file for many users, .csv or .parquet"),
        (["recommend", "RUN", "--all-users", "--out", "recs.txt"], "got recs.txt; name one"),
        (["recommend", "RUN", "--all-users", "--out", "no/recs.csv"], "in an existing folder, got no folder"),
        (
            ["recommend", "RUN", "--user", "1", "--out", "recs.csv"],
            "--out: expected --all-users, or --features with a file",
        ),
        (
            ["similar", "RUN", "--item", "x"],
            "--item x: not among the 30 items of this run; they are [1, 2, 3,",
        ),
        (["similar", "nowhere", "--item", "1"], "nowhere: expected a run directory with config.toml"),
    ],
)
def test_mistakes_are_one_line(finished, arguments, named, capsys):
    assert cli.main([str(finished) if one == "RUN" else one for one in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


def test_recommend_names_the_bad_line_of_a_history(finished, tmp_path, capsys):
    history = tmp_path / "history.csv"
    history.write_text("item,strength\n1,2\n2,many\n")
    assert cli.main(["recommend", str(finished), "--history", str(history)]) == 2
    assert f"{history}:3" in capsys.readouterr().err
