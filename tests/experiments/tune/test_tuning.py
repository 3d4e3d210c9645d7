"""A study through the command line: its outcome, and resuming it."""

import csv
import importlib.util
import json
import shlex
import shutil
import tomllib

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.evaluation import evaluate_popularity
from fcf_jax.experiments.build.held_out import load_held_out
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config, with_values
from fcf_jax.experiments.store.run_directory import claimed
from fcf_jax.experiments.tune import trials, tuning
from fcf_jax.experiments.tune.candidates import advance
from fcf_jax.experiments.tune.space import lambda_scale, model_start, space_around

SHORT = [
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.baseline=false",
    "--set", "tuning.num_factors=[4]", "--set", "tuning.num_sweeps=6", "--set", "tuning.num_model_trials=5",
    "--set", "tuning.num_server_trials=3", "--set", "server.step=adam",
]  # fmt: skip
QUIET = "--quiet"


def rows_of(folder):
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


def write_published(folder, *, test_seed):
    """A published split: the training file is always the same, the test file is as random as its seed."""
    folder.mkdir()
    users, items = np.indices((40, 30)).reshape(2, -1)
    is_seen = (users * 7 + items * items) % 5 == 0
    train = np.flatnonzero(is_seen | (users == items % 30))
    rng = np.random.default_rng(test_seed)
    test = rng.choice(np.setdiff1d(np.arange(users.size), train), 90, replace=False)
    for name, chosen in (("data1.txt", train), ("test1.txt", test)):
        (folder / name).write_text("".join(f"{users[one]}\t{items[one]}\t1\n" for one in chosen))
    return [
        "--set",
        f"data.path={folder}",
        "--set",
        "data.split=published",
        "--set",
        "data.layout=lastfm-lightgcn",
    ]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("published") / "data", test_seed=0)


@pytest.fixture(scope="module")
def tuned(published, tmp_path_factory):
    """The folder of a finished study."""
    folder = tmp_path_factory.mktemp("tuned") / "study"
    assert cli.main(["tune", *SHORT, *published, QUIET, "--out", str(folder)]) == 0
    return folder


def test_another_test_set_leaves_the_study_as_it_is(tuned, tmp_path):
    other = write_published(tmp_path / "data", test_seed=1)
    folder = tmp_path / "study"
    assert cli.main(["tune", *SHORT, *other, QUIET, "--out", str(folder)]) == 0
    assert (folder / "trials.csv").read_bytes() == (tuned / "trials.csv").read_bytes()
    sections = [tomllib.loads((one / "tuned.toml").read_text()) for one in (folder, tuned)]
    assert all(one["data"].pop("path") for one in sections)
    assert sections[0] == sections[1]


def test_report_says_first_what_was_gained(tuned, tmp_path):
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tuned), "--out", str(page)]) == 0
    text, found = page.read_text("utf-8"), json.loads((tuned / "tuning.json").read_text())
    assert found["best_value"] == max(
        float(row["value"]) for row in rows_of(tuned) if row["stage"] == "server"
    )
    assert f"{found['best_value']:.4f}" in text and f"{found['popularity']:.4f}" in text
    assert 0 < text.index(">gain<") < text.index("Best values") < text.index("Trials</h2>")


def test_tuned_config_is_ready_and_no_worse_than_the_start(tuned):
    rows = rows_of(tuned)
    assert [row["stage"] for row in rows] == ["model"] * 5 + ["server"] * 3
    assert (float(rows[0]["model.alpha"]), float(rows[0]["model.regularization"])) == (4.0, 1.0)
    assert float(rows[0]["effective_regularization"]) == 1.0 and rows[5]["effective_regularization"] == ""
    assert float(rows[5]["server.learning_rate"]) == 0.1
    given, found = load_config(str(tuned / "config.toml")), load_config(str(tuned / "tuned.toml"))
    values = (tuned / "tuned.toml").read_text().splitlines()[1].split(": ")[1]
    best, as_configured = (float(part.split()[-1]) for part in values.split(";"))
    assert best >= as_configured
    complete = [row for row in rows if row["state"] == "complete"]
    chosen = {}
    for stage in ("model", "server"):
        of_stage = [row for row in complete if row["stage"] == stage]
        row = max(of_stage, key=lambda row: float(row["value"]))
        chosen |= {name: float(row[name]) for name in row if name.startswith(stage) and row[name]}
    chosen["model.num_factors"] = int(chosen["model.num_factors"])
    assert found == (with_values(given, chosen) if best > as_configured else given)
    assert (tuned / "tuning.png").read_bytes().startswith(b"\x89PNG")


def stop_at(monkeypatch, call, error):
    """Raise when candidates are advanced for this time."""
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return advance(*arguments)

    monkeypatch.setattr(trials, "advance", stopping)


def test_resumed_study_equals_an_unbroken_one(tuned, published, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "study"
    with monkeypatch.context() as patched:
        stop_at(patched, 8, KeyboardInterrupt)
        assert cli.main(["tune", *SHORT, *published, "--out", str(folder)]) == 130
    assert f"go on with: fcf tune --resume --out {folder}" in capsys.readouterr().err
    assert not (folder / "tuned.toml").exists()
    with (folder / "study.log").open("ab") as file:
        file.write(b'{"op_code":')  # as kill -9 may leave it
    assert cli.main(["tune", QUIET, "--resume", "--out", str(folder)]) == 0
    rows = rows_of(folder)
    failed = [row for row in rows if row["state"] == "fail"]
    assert 1 <= len(failed) <= 2
    numbers = ("value", "model.alpha", "model.regularization", "server.learning_rate", "server.b1")
    kept = [[row[name] for name in numbers] for row in rows if row["state"] != "fail"]
    assert kept == [[row[name] for name in numbers] for row in rows_of(tuned)]
    assert (folder / "tuned.toml").read_bytes() == (tuned / "tuned.toml").read_bytes()


def test_finished_study_is_not_done_again_and_is_shown_beside_popularity(tuned, monkeypatch, capsys):
    before = (tuned / "tuned.toml").read_bytes(), (tuned / "study.log").read_bytes()
    stop_at(monkeypatch, 1, AssertionError("trained again"))
    assert cli.main(["tune", str(tuned / "config.toml"), "--resume", "--out", str(tuned)]) == 0
    held_out = load_held_out(config := load_config(str(tuned / "config.toml")))
    model = resolve(config, held_out.dataset).model
    floor = evaluate_popularity(model, held_out.train, held_out.validation)["map_at_10"]
    assert f"; popularity has {floor:.4f}" in capsys.readouterr().out
    assert ((tuned / "tuned.toml").read_bytes(), (tuned / "study.log").read_bytes()) == before


def test_a_value_at_the_end_of_its_range_is_printed_and_written(tuned, tmp_path, monkeypatch, capsys):
    note, folder = "model.alpha is at the high end", tmp_path / "study"
    shutil.copytree(tuned, folder)
    monkeypatch.setattr(tuning, "notes_on_bounds", lambda found, given, scale: (note,))
    assert cli.main(["tune", "--resume", "--out", str(folder)]) == 0
    assert f"\n{note}\n" in capsys.readouterr().out
    assert f"\n# {note}\n" in (folder / "tuned.toml").read_text()
    assert json.loads((folder / "tuning.json").read_text())["at_bounds"] == [note]


def test_the_command_for_several_seeds_is_said_and_takes_the_tuned_model(
    tuned, tmp_path, monkeypatch, capsys
):
    assert cli.main(["tune", str(tuned / "config.toml"), "--resume", "--out", str(tuned)]) == 0
    printed, seen = capsys.readouterr().out, []

    def idle(problem, datasets, *unused, **unused_too):
        seen.append((problem.config, len(datasets)))
        raise OSError(5, "instead of the work")

    monkeypatch.setattr("fcf_jax.experiments.compare.comparison.run_comparison", idle)
    command = shlex.split(printed[printed.rindex("fcf compare") :])[1:]
    assert cli.main([*command, "--out", str(tmp_path / "seeds")]) == 1
    ((config, num_datasets),) = seen
    assert config.comparison.num_builds == 5 and num_datasets in (1, 5)
    assert config.model == load_config(str(tuned / "tuned.toml")).model


def test_private_rounds_are_tuned_without_nu():
    private = load_config(None, ["privacy.mode=central_noise", "privacy.seed=0", "server.step=gram"])
    assert {*model_start(private)} == {*model_start(load_config())} - {"model.regularization_exponent"}
    start = lambda_scale(private, load_held_out(load_config()).train).effective(model_start(private))
    space = space_around(start, private.tuning, private.server)
    assert (space["model.regularization"].low, space["model.regularization"].high) == (0.1, 1000.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "expected an empty folder"),
        (["--resume", "--set", "tuning.seed=5"], "tuning.seed is 5, was 0"),
        (["--resume", "--set", "data.seed=5"], "data.seed"),
    ],
)
def test_another_study_in_the_folder_is_refused(tuned, published, arguments, named, capsys):
    assert cli.main(["tune", *SHORT, *published, *arguments, "--out", str(tuned)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-config"], "no-such-config"),
        (["--set", "tuning.metric=map_at_5"], "did you mean map_at_10?"),
        (["--set", "tuning.alpha=[5, 1]"], "tuning.alpha"),
        (["--set", "tuning.alpha=[0, 1]"], "tuning.alpha"),
        (["--set", "tuning.num_factors=[]"], "tuning.num_factors"),
        (["--set", "model.alpha=0"], "model.alpha"),
        (["--set", "tuning.validation_fraction=0.8"], "tuning.validation_fraction"),
        (["--set", "federation.num_rounds=0"], "federation.num_rounds"),
        (["--set", "parallel.item_shards=2"], "parallel.item_shards"),
    ],
)
def test_tune_refuses_in_one_line_and_writes_nothing(arguments, named, tmp_path, capsys):
    out = tmp_path / "study"
    assert cli.main(["tune", *arguments, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert named in printed.err
    assert not out.exists()


def test_a_second_process_is_refused(tuned, capsys):
    with claimed(tuned, load_config(str(tuned / "config.toml")), resume=True):
        assert cli.main(["tune", QUIET, "--resume", "--out", str(tuned)]) == 2
    assert "got one that another is writing to" in capsys.readouterr().err


def test_without_optuna_the_error_names_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["tune"]) == 2
    assert "pip install 'fcf_jax[tune]'" in capsys.readouterr().err
