import json

import pytest

from fcf_jax import cli
from fcf_jax.experiments.store import files

TINY = [
    "--set", "data.num_users=60", "--set", "data.num_items=30", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["run", *TINY, "--quiet", "--out", str(folder)]) == 0
    return folder


def test_run_prints_progress_table_and_privacy_note(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["run", *TINY, "--set", "evaluation.baseline=false", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for expected in ("round 6/6", "rounds/s", "federated", "not private", str(out)):
        assert expected in printed.out.replace("\n", "") or expected in printed.out


def test_quiet_prints_nothing(tmp_path, capsys):
    short = ["--set", "evaluation.baseline=false", "--quiet", "--out", str(tmp_path / "run")]
    assert cli.main(["run", *TINY, *short]) == 0
    assert capsys.readouterr() == ("", "")


def test_run_goes_to_runs_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *TINY, "--set", "evaluation.baseline=false", "--quiet"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("simulated-")


def test_recommend_by_user_and_by_the_same_history_agree(finished, tmp_path, capsys):
    from fcf_jax.experiments.build.dataset import load_interactions
    from fcf_jax.experiments.config.load import load_config

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


def test_version_config_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fcf ")
    assert cli.main(["config", "--explain"]) == 0
    assert "num_factors = 25" in capsys.readouterr().out
    assert cli.main(["config", "movielens-1m"]) == 0
    assert 'layout = "movielens-1m"' in capsys.readouterr().out
    assert cli.main(["run", "--help"]) == 0


def test_doctor_finds_the_solver_exact(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for expected in ("jaxlib", "optax", "devices", "cores", "default precision", "error to float64"):
        assert expected in printed


def test_shipped_movielens_says_where_to_get_the_data(capsys):
    assert cli.main(["run", "movielens-1m"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "https://grouplens.org/datasets/movielens/1m/" in error
    assert "--set data.path=" in error


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (cli.TerminatedError, 143)])
def test_signals_end_in_one_line(tmp_path, monkeypatch, capsys, raised, code):
    write = files.write_atomically

    def stop(path, content):
        if path.name == "metrics.jsonl":
            raise raised
        write(path, content)

    monkeypatch.setattr(files, "write_atomically", stop)
    assert cli.main(["run", *TINY, "--quiet", "--out", str(tmp_path / "run")]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_full_disk_in_the_run_is_a_failure_in_one_line(tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_atomically", full)
    assert cli.main(["run", *TINY, "--quiet", "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "free some space" in error


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--fly"], ["run", "--set"]])
def test_usage_errors_are_one_line(arguments, capsys):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
