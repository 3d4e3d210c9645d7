import pytest

from fcf_jax import cli
from fcf_jax.cli.signals import SignalError
from fcf_jax.experiments.store import files

TINY = [
    "--set", "data.num_users=60", "--set", "data.num_items=30", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6", "--set", "evaluation.every=2",
]  # fmt: skip


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


def test_version_config_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fcf ")
    assert cli.main(["config", "--explain"]) == 0
    assert "num_factors = 25" in capsys.readouterr().out
    assert cli.main(["config", "movielens-1m"]) == 0
    assert 'layout = "movielens-1m"' in capsys.readouterr().out
    assert cli.main(["run", "--help"]) == 0


def test_shipped_movielens_says_where_to_get_the_data(capsys):
    assert cli.main(["run", "movielens-1m"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "https://grouplens.org/datasets/movielens/1m/" in error
    assert "--set data.path=" in error


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (SignalError(15), 143)])
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
