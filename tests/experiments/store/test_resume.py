"""Runs that are stopped, killed or damaged, and gone on with: bit for bit what an unbroken one is."""

import errno
import io
import json
import os
import shutil
import signal
import socket
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
from killing import finish, start_run

from fcf_jax import cli
from fcf_jax.experiments.build import dataset
from fcf_jax.experiments.store import checkpoint, files

pytestmark = pytest.mark.usefixtures("all_undrawn")

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=40", "evaluation.baseline=false",
]  # fmt: skip
UNTESTED = "data.test_fraction=0.0"  # less to compile
SAMPLED = ("federation.cohort_size=20", "server.step=running_sums", "parallel.devices=4", UNTESTED)
# of 75 operations on the disk; the first checkpoint is saved after the first moment
MOMENTS = [12, *np.random.default_rng(20261124).integers(23, 60, 2).tolist()]


def settings(*overrides):
    return [part for one in [*TINY, *overrides] for part in ("--set", one)]


def resume(folder, *arguments):
    return cli.main(["run", "--resume", "--out", str(folder), *arguments])


def records_of(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in records]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def environment_of(folder):
    return json.loads((folder / "environment.json").read_text())


def factors_of(folder):
    with np.load(folder / "item_factors.npz") as arrays:
        return arrays["item_factors"]


def rounds_saved(folder):
    return [int(path.stem.partition("-")[2]) for path in sorted(folder.glob("checkpoints/round-*.npz"))]


def assert_same_outcome(folder, other):
    assert factors_of(folder).tobytes() == factors_of(other).tobytes()
    assert records_of(folder) == records_of(other)
    assert summary_of(folder)["federated"] == summary_of(other)["federated"]


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that got SIGINT in its tenth round, and what it said."""
    folder, said = tmp_path_factory.mktemp("stopped") / "run", io.StringIO()
    append, signals = files.File.append, iter([[]] * 9 + [[signal.SIGINT]])

    def interrupted(*arguments):
        for number in next(signals, ()):
            os.kill(os.getpid(), number)
        append(*arguments)

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setattr(files.File, "append", interrupted)
        assert cli.main(["run", "--quiet", "--out", str(folder), *settings()]) == 130
    return folder, said.getvalue()


@pytest.fixture
def copy(stopped, tmp_path):
    """Of the stopped run, to be changed."""
    return shutil.copytree(stopped[0], tmp_path / "copy")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert cli.main(["run", "--quiet", "--out", str(folder), *settings()]) == 0
    return folder


@pytest.mark.parametrize(
    ("moment", "num_devices", "overrides"),
    [
        (MOMENTS[0], 3, [UNTESTED]),
        (MOMENTS[1], None, [*SAMPLED, "parallel.item_shards=2"]),  # the run starts the devices itself
        (MOMENTS[2], 1, ["server.step=adam", "parallel.stream=true", UNTESTED]),
    ],
    ids=["three devices", "cohorts, items split", "streamed"],
)
def test_killed_run_ends_as_an_unbroken_one(moment, num_devices, overrides, tmp_path):
    folder, other = tmp_path / "killed", tmp_path / "unbroken"

    mine = folder / ".mine.tmp"
    folder.mkdir()
    mine.write_text("precious")

    def start(*arguments, **options):
        return start_run("--out", *arguments, num_devices=num_devices, **options)

    if num_devices == 1:  # as many as here
        assert cli.main(["run", "--quiet", "--out", str(other), *settings(*overrides)]) == 0
    else:
        assert finish(start(str(other), *settings(*overrides))) == 0
    killed = start(str(folder), *settings(*overrides), at=moment, signals=[signal.SIGKILL])
    assert finish(killed) == -signal.SIGKILL
    saved = rounds_saved(folder)
    assert bool(saved) == (moment != MOMENTS[0])
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "round", "rou')  # as if killed while writing
    on_its_own = start_run("--out", str(folder), "--resume", num_devices=None)  # as many devices as before
    assert finish(on_its_own) == 0
    assert_same_outcome(folder, other)
    assert summary_of(folder)["resumed_from_rounds"] == saved[-1:]
    assert list(folder.rglob("*.tmp")) == [mine]
    (earlier,) = environment_of(folder).get(
        "earlier", [environment_of(other)]
    )  # killed before it was written
    assert len(earlier["devices"]) == len(environment_of(other)["devices"]) == (num_devices or 4)


def test_two_processes_stop_go_on_together_and_agree_with_one(tmp_path):
    same = ["server.step=adam"]
    assert cli.main(["run", "--quiet", "--out", str(tmp_path / "alone"), *settings(*same)]) == 0

    def start(number, *arguments, **options):
        mine = [*same, "parallel.num_processes=2", f"parallel.coordinator={address}"]
        mine += [f"parallel.process_id={number}"]
        folder = str(tmp_path / f"process{number}")
        return start_run("--out", folder, *settings(*mine), *arguments, num_devices=None, **options)

    address = free_address()
    runs = start(0), start(1, at=12, signals=[signal.SIGTERM])
    assert [finish(run) for run in runs] == [130, 143]
    (done,) = rounds_saved(tmp_path / "process0")
    assert done < 40
    address = free_address()
    said = [tmp_path.with_name(f"said{number}") for number in range(2)]
    runs = [start(number, "--resume", said=said[number]) for number in range(2)]
    assert [finish(run) for run in runs] == [0, 0]
    assert "round" in said[0].read_text() and said[1].read_text() == ""
    assert summary_of(tmp_path / "process0")["resumed_from_rounds"] == [done]
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["alone", "process0"]  # only process 0 writes
    resumed, alone = (factors_of(tmp_path / name) for name in ("process0", "alone"))
    np.testing.assert_allclose(resumed, alone, atol=1e-4)  # sums in another order; Adam magnifies it
    ranked, ranked_alone = (summary_of(tmp_path / name)["federated"] for name in ("process0", "alone"))
    assert ranked["ndcg_at_10"] == pytest.approx(ranked_alone["ndcg_at_10"], abs=0.02)  # a swap or two


def test_stopped_run_says_how_to_go_on_and_ends_as_an_unbroken_one(stopped, copy, unbroken, capsys):
    folder, said = stopped
    assert (
        said == f"fcf: stopped by Ctrl-C after 10 of 40 rounds; go on with: fcf run --resume --out {folder}\n"
    )
    assert rounds_saved(folder) == [10]
    assert resume(copy) == 0
    assert "resuming after 10 of 40 rounds" in capsys.readouterr().out
    assert_same_outcome(copy, unbroken)
    assert summary_of(copy)["resumed_from_rounds"] == [10]
    before = content_of(copy)
    assert resume(copy) == 0  # finished
    assert "nothing left to do" in capsys.readouterr().out
    assert content_of(copy) == before


def test_second_signal_stops_at_once(tmp_path):
    quick = settings("server.step=adam", UNTESTED)
    run = start_run("--out", str(tmp_path / "run"), *quick, at=12, signals=[signal.SIGHUP] * 2)
    assert finish(run) == 128 + signal.SIGHUP
    assert rounds_saved(tmp_path / "run") == []


def test_resume_without_a_checkpoint_starts_at_round_0(tmp_path, capsys):
    folder = tmp_path / "run"
    assert resume(folder, "simulated", *settings("federation.num_rounds=0")) == 0
    assert f"no checkpoint in {folder} yet: starting at round 0" in capsys.readouterr().out
    assert summary_of(folder)["resumed_from_rounds"] == []


def test_checkpoint_holds_no_values_of_users(stopped):
    (path,) = (stopped[0] / "checkpoints").iterdir()
    with np.load(path, allow_pickle=False) as archive:
        shapes = {name: archive[name].shape for name in archive if name != "header"}
    assert shapes.pop("state/key") == (2,)
    assert all(name.startswith("state/server/") for name in shapes)
    assert shapes["state/server/item_factors"] == (30, 4) and shapes["state/server/round_index"] == ()
    assert not any(60 in shape for shape in shapes.values())  # users


def test_flipped_byte_is_said_and_the_checkpoint_before_it_used(copy, unbroken, capsys):
    elsewhere = {**environment_of(copy), "devices": ["cuda:0", "cuda:1"], "device_kind": "H100"}
    (copy / "environment.json").write_text(json.dumps(elsewhere))
    assert resume(copy) == 0
    assert "begun on 2 devices (cuda:0, cuda:1), going on with 1 device" in capsys.readouterr().out
    assert environment_of(copy)["earlier"] == [elsewhere]
    (copy / "summary.json").unlink()  # as if killed at the very end
    latest = max((copy / "checkpoints").iterdir())
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content)
    assert resume(copy) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "damaged" in line and str(latest) in line]
    assert "resuming after 30 of 40 rounds" in lines
    assert summary_of(copy)["resumed_from_rounds"] == [10, 30]
    assert_same_outcome(copy, unbroken)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.num_factors=5", "model.num_factors is 5, was 4"),
        ("data.num_users=61", "data.num_users is 61, was 60"),
    ],
)
def test_another_configuration_is_refused(copy, override, named, capsys):
    before = content_of(copy)
    assert resume(copy, "--set", override) == 2
    assert_refused(capsys, named)
    assert content_of(copy) == before


def test_checkpoint_of_other_data_or_format_is_refused(copy, monkeypatch, capsys):
    before = content_of(copy)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 3)
        assert resume(copy) == 2
    assert_refused(capsys, "expected a checkpoint of format 3, got one of 2")
    simulated = dataset.simulate_taste
    monkeypatch.setattr(dataset, "simulate_taste", lambda **options: simulated(**{**options, "seed": 1}))
    assert resume(copy) == 2
    assert_refused(capsys, "expected a checkpoint of data ")
    assert content_of(copy) == before


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        (
            "metrics.jsonl",
            "",
            "expected the records of 10 rounds, as the checkpoint has, got 0; choose another",
        ),
        ("metrics.jsonl", '{"kind": "round"}\n', "one without 0.round"),
        ("environment.json", "{", "delete it"),
        ("environment.json", '{"resumed_from_rounds": "all"}', "delete it"),
        ("summary.json", "{}", "delete it, and go on with --resume"),
    ],
)
def test_damaged_file_is_named_with_the_remedy(name, content, remedy, copy, capsys):
    (copy / name).write_text(content)
    assert resume(copy) == 2
    assert_refused(capsys, str(copy / name), remedy)


def test_process_killed_before_the_report_left_it_to_resume(unbroken, tmp_path, capsys):
    folder = shutil.copytree(unbroken, tmp_path / "killed")
    (folder / "report.html").unlink()
    assert resume(folder) == 0
    assert "only report.html was missing" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 2), (errno.ENOSPC, 1)])
def test_disk_that_takes_nothing_leaves_the_checkpoint_intact(copy, number, code, monkeypatch, capsys):
    """A read-only folder is noticed at the start, a full disk when it is."""
    before, flush = content_of(copy), os.fsync
    num_flushed = 0

    def refuse(descriptor):
        nonlocal num_flushed
        num_flushed += 1
        if number == errno.EROFS or num_flushed > 6:  # of the first block's metrics
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert resume(copy) == code
    of_run = ["metrics.jsonl", f"fcf run --resume --out {copy}"]
    assert_refused(capsys, os.strerror(number), *(of_run if number == errno.ENOSPC else ["config.toml"]))
    after = content_of(copy)
    saved = copy / "checkpoints" / "round-00000010.npz"
    assert after[saved] == before[saved]
    assert after.keys() == before.keys()  # no half-written neighbour


def test_one_process_at_a_time(copy, unbroken, capsys):
    holder = start_run("--resume", "--out", str(copy), at=1, signals=[0, 0])  # that is, it just waits there
    try:
        wait_for(copy, ".config.toml.*.tmp")
        assert resume(copy) == 2
        assert_refused(capsys, str(copy), "another is writing")
    finally:
        holder.kill()
        holder.join()
    assert resume(copy) == 0  # the lock has died with it
    assert_same_outcome(copy, unbroken)


def test_resume_needs_a_run(tmp_path, capsys):
    assert cli.main(["run", "--resume"]) == 2
    assert_refused(capsys, "--out DIR")
    (tmp_path / "mine.txt").write_text("precious")
    assert resume(tmp_path) == 2
    assert_refused(capsys, "config.toml")


def assert_refused(capsys, *named):
    printed = capsys.readouterr().err
    assert printed.startswith("fcf: ") and printed.count("\n") == 1
    for word in named:
        assert word in printed


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def wait_for(folder, pattern):
    for _ in range(1200):
        if list(folder.glob(pattern)):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no {pattern} in {folder}")
