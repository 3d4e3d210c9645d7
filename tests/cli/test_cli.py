import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

from fcf_jax import cli
from fcf_jax.cli.signals import SignalError, raised_signals
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


@pytest.mark.usefixtures("undrawn")
def test_quiet_prints_nothing(tmp_path, capsys):
    short = ["--set", "evaluation.baseline=false", "--quiet", "--out", str(tmp_path / "run")]
    assert cli.main(["run", *TINY, *short]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("undrawn")
def test_run_without_test_items_goes_to_the_current_folder_and_never_says_nan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *TINY, "--set", "data.test_fraction=0"]) == 0
    printed = capsys.readouterr().out
    assert "nan" not in printed and "loss" in printed and "No test interactions" in printed
    assert "clients/s" not in printed.splitlines()[1] and "clients/s" in printed  # the first round compiled
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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "expected a command"),
        (["fly"], "fly"),
        (["run", "--fly"], "--fly"),
        (["run", "--set"], "--set"),
        (["run", "--out", ""], "expected a folder, got ''"),
        (["compare", "--out", "--resume"], "expected a folder, got '--resume'"),
        (["tune", "--out", os.fsdecode(b"runs/\xff")], "expected a name in UTF-8"),
        (["audit", "--out", "runs/\x1b[2J"], "without control characters"),
        (["run", "--resume", "--out", "nowhere"], "nowhere: expected a run directory with config.toml"),
        (["run", "--set", "parallel.devices=100"], "parallel.devices: expected at most 1 device,"),
        (["run", "--set", "parallel.item_shards=3"], "parallel.item_shards: expected at most 1 device,"),
        (["run", "--set", "federation.seed=4294967296"], "federation.seed: expected at most 4294967295"),
        (["run", "--set", "federation.seed=9223372036854775808"], "federation.seed: expected at most"),
        (["run", "--set", "model.num_factors=2.5"], "model.num_factors: expected an integer, got 2.5"),
    ],
)
def test_mistakes_in_arguments_are_one_line(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(errno.EPIPE, 0, ""), (errno.ENOSPC, 1, "fcf: standard output: No space left")],
)
def test_output_that_cannot_be_written_is_no_traceback(number, code, said, monkeypatch, capsys):
    class Broken(io.StringIO):
        def write(self, text=""):
            raise OSError(number, os.strerror(number))

        flush = write

    monkeypatch.setattr(sys, "stdout", Broken())
    assert cli.main(["config"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_help_and_completion_are_quick(monkeypatch):
    """Without JAX, which takes a second to import; a shell completes at each press of a key."""
    code = """
        import os, sys
        from fcf_jax.cli import main
        assert main(["run", "-h"]) == 0
        os.environ.update(_FCF_COMPLETE="complete_bash", COMP_WORDS="fcf rep", COMP_CWORD="1")
        try:
            main([])
        finally:
            assert "jax" not in sys.modules
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--resume" in run.stdout and run.stdout.splitlines()[-1] == "report"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_imports_ends_in_one_line(number, tmp_path):
    """Packages handle or replace exceptions that interrupt their import, so that none may be raised then."""
    (tmp_path / "interrupted.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {number.value})\n    while True: pass\n"
        "except BaseException: pass\n"
    )
    code = """
        import sys
        from fcf_jax import cli
        from fcf_jax.cli.app import app

        @app.command()
        def fly():
            import interrupted

        sys.exit(cli.main(["fly"]))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path
    )
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (run.returncode, run.stderr) == (128 + number, f"fcf: stopped by {name}\n")


def target_of_the_script():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, function = pyproject["project"]["scripts"]["fcf"].partition(":")
    return f"from {module} import {function} as program; program()"


@pytest.mark.parametrize(
    "start",
    [
        target_of_the_script(),
        "import runpy; runpy.run_module('fcf_jax', run_name='__main__')",
        "import runpy; runpy.run_module('fcf_jax.cli', run_name='__main__')",
    ],
    ids=["fcf", "python -m fcf_jax", "python -m fcf_jax.cli"],
)
def test_a_program_that_a_signal_stopped_ends_without_the_shutdown_in_which_xla_crashes(start):
    code = f"""
        import atexit, os, signal, sys, time
        from fcf_jax.cli.app import app

        @app.command()
        def fly():
            print("on the way", end="")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

        atexit.register(os.abort)
        sys.argv[1:] = ["fly"]
        {start}
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (143, "on the way", "fcf: stopped by SIGTERM\n")


def test_a_signal_in_a_callback_is_sent_again():
    """Python ignores the exceptions of a destructor."""

    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    @raised_signals()
    def run():
        Interrupted()
        time.sleep(10)

    with pytest.raises(SignalError) as raised:
        run()
    assert raised.value.code == 143


def test_a_failure_that_a_signal_causes_is_the_signals():
    @raised_signals()
    def run():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except SignalError:
            raise ImportError("an extension module replaces the exception") from None

    with pytest.raises(SignalError):
        run()


def test_ignored_signals_stay_ignored():
    """As `nohup` and `&` in scripts ask for."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raised_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, previous)
