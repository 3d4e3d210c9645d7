"""Runs with dropouts, virtual time and asynchronous rounds: records, traces, and runs that go on."""

import shutil

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.experiments.build.arrivals import cohorts_of, seconds_of_users
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.device_traces import read_devices, read_dropouts
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.store.run_directory import METRICS, SUMMARY, read_run

pytestmark = pytest.mark.usefixtures("all_undrawn")

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "evaluation.baseline=false", "federation.num_rounds=6", "evaluation.every=3", "server.step=running_sums",
    "parallel.devices=1", "data.test_fraction=0.0",
]  # fmt: skip
LABELS = np.array(["ann", "bob", "cem"])


def run(folder, *overrides, said=0):
    settings = [part for one in [*TINY, *overrides] for part in ("--set", one)]
    assert cli.main(["run", "--quiet", "--out", str(folder), *settings]) == said
    return folder


def rounds_of(folder, *names):
    records = [one for one in METRICS.read(folder) if one["kind"] == "round"]
    return [np.array([one[name] for one in records]) for name in names]


@pytest.fixture(scope="module")
def asynchronous(tmp_path_factory):
    return run(
        tmp_path_factory.mktemp("runs") / "asynchronous",
        "devices.bandwidth=1e4", "devices.concurrency=40", "devices.dropout=0.2", "federation.cohort_size=10",
    )  # fmt: skip


def test_asynchronous_run_goes_on_as_an_unbroken_one(asynchronous, tmp_path, capsys):
    copy = shutil.copytree(asynchronous, tmp_path / "copy")
    sorted(copy.glob("checkpoints/round-*.npz"))[-1].unlink()
    (copy / SUMMARY.name).unlink()
    assert cli.main(["run", "--resume", "--out", str(copy)]) == 0
    assert "resuming after 3 of 6 rounds" in capsys.readouterr().out
    assert read_run(copy).item_factors.tobytes() == read_run(asynchronous).item_factors.tobytes()
    for ours, theirs in zip(
        *(rounds_of(one, "virtual_seconds", "loss") for one in (copy, asynchronous)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_virtual_time_of_steps_is_recorded_and_totaled(asynchronous):
    seconds, num_clients = rounds_of(asynchronous, "virtual_seconds", "num_clients")
    assert np.all(np.diff(seconds, prepend=0.0) > 0)
    np.testing.assert_array_equal(num_clients, 10)
    summary = SUMMARY.read(asynchronous)
    assert summary["virtual_seconds"] == seconds[-1] and summary["num_uploads"] == 60


def test_traces_decide_who_comes_back_and_how_long_rounds_last(tmp_path):
    """Round 1 is void: nobody comes back, and nothing changes."""
    users = range(60)
    back = [(user, 0) for user in range(20)] + [(user, 2) for user in users]
    (tmp_path / "back.csv").write_text("user,round\n" + "".join(f"{u},{r}\n" for u, r in back))
    fast = "".join(f"{user},{1 if user else 0.01},1e9\n" for user in users)
    (tmp_path / "devices.csv").write_text("user,speed,bandwidth\n" + fast)
    overrides = (
        f"devices.dropout_trace={tmp_path / 'back.csv'}", f"devices.trace={tmp_path / 'devices.csv'}",
        "devices.seconds_per_interaction=0", "devices.base_seconds=2", "devices.deadline_seconds=5",
        "federation.num_rounds=3",
    )  # fmt: skip
    folder = run(tmp_path / "run", *overrides)
    num_clients, seconds, losses = rounds_of(folder, "num_clients", "virtual_seconds", "loss")
    np.testing.assert_array_equal(num_clients, [19, 0, 59])  # user 0 takes 200 s
    np.testing.assert_allclose(seconds, [5.0, 10.0, 15.0])
    assert losses[1] == losses[0] != losses[2]
    summary = SUMMARY.read(folder)
    assert (summary["num_uploads"], summary["num_void_rounds"]) == (78, 1)


def test_clock_counts_bytes_histories_and_the_first_to_arrive():
    """The times of a problem without spread, by hand, and the cohorts that follow from them."""
    config = load_config(None, [
        *TINY, "devices.bandwidth=1000", "devices.spread=0", "devices.base_seconds=2",
        "devices.seconds_per_interaction=0.5", "devices.over_selection=1.5", "federation.cohort_size=10",
    ])  # fmt: skip
    problem = resolve(config, load_dataset(config))
    up, down = problem.client_bytes
    expected = 2 + 0.5 * problem.train.history_lengths + (up + down) / 1000
    np.testing.assert_allclose(seconds_of_users(problem), expected)
    assert cohorts_of(problem)[0] == 10


@pytest.mark.parametrize(("read", "content", "message"), [
    (read_dropouts, "id,round\nann,0\n", "expected a column user, got id, round"),
    (read_dropouts, "user,day\nann,0\n", "expected a column round or availability, got day"),
    (read_dropouts, "user,round\n", "expected lines after the header"),
    (read_dropouts, "user,round\nzoe,0\n", "expected users of the data, such as ann, got zoe"),
    (read_dropouts, "user,round\nann,0\nbob,-1\n", ":3: expected round a whole number .* got -1"),
    (read_dropouts, "user,round\nann,soon\n", ":2: expected round as a number, got soon"),
    (read_dropouts, "user,availability\nann,1\nbob,2\ncem,0\n", r":3: expected availability in \[0, 1\]"),
    (read_dropouts, "user,availability\nann,1\nbob,0.5\n", "one line for each user, got 0 lines of cem"),
    (read_devices, "user,speed\nann,1\nbob,1\ncem,1\n", "expected a column bandwidth"),
    (read_devices, "user,speed,bandwidth\nann,1,1\nbob,0,1\ncem,1,1\n", ":3: expected speed above 0, got 0"),
    (read_devices, "user,speed,bandwidth\nann,1,1\nann,1,1\ncem,1,1\n", "got 2 lines of ann"),
])  # fmt: skip
def test_bad_traces_name_key_line_and_remedy(read, content, message, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as refused:
        read(str(path), LABELS)
    assert str(refused.value).startswith("devices.") and str(path) in str(refused.value)


def test_traces_match_users_by_label(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("user,round\nbob, 1\nann,0\nzoe,2\n")
    np.testing.assert_array_equal(read_dropouts(str(path), LABELS), [[0, 1, 1], [1, 0, 1], [1, 1, 1]])
    path.write_text("user,availability\ncem,0.25\nann,1\nbob,0\n")
    np.testing.assert_allclose(read_dropouts(str(path), LABELS), [0.0, 1.0, 0.75])


def test_missing_trace_is_one_line(tmp_path, capsys):
    run(tmp_path / "run", "devices.dropout_trace=nowhere.csv", said=2)
    error = capsys.readouterr().err
    assert error.startswith("fcf: devices.dropout_trace: nowhere.csv: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
