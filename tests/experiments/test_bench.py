import importlib.util
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from fcf_jax import cli
from fcf_jax.experiments import bench, timing
from fcf_jax.experiments.timing import Timing, count_compilations, measure, ratio

SIZES = [
    "--set", "data.num_users=60", "--set", "data.num_items=30", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4",
]  # fmt: skip
TINY = [*SIZES, "--set", "federation.cohort_size=10", "--set", "server.step=adam"]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark():
    """Load a script of benchmarks/ as a module, one time each."""

    def load(name):
        specification = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a run moves it on."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now.seconds)
    return now


def test_runs_take_turns_and_the_first_call_is_apart(clock):
    calls = []

    def run(name, durations):
        calls.append(name)
        clock.seconds += durations.pop(0)

    durations = {"a": [10.0, 1.0, 3.0, 2.0], "b": [20.0, 4.0, 4.0, 8.0]}
    runs = {name: lambda name=name: run(name, durations[name]) for name in durations}
    timings = measure(runs, repeats=3)
    assert calls == ["a", "b"] * 4
    assert timings["a"] == Timing(10.0, (1.0, 3.0, 2.0))
    assert (timings["a"].median_s, timings["a"].min_s, timings["a"].max_s) == (2.0, 1.0, 3.0)
    assert timings["b"].compile_s == 16.0


def test_ratio_known_answer_is_of_pairs():
    found = ratio(Timing(0.0, (1.0, 8.0, 3.0)), Timing(0.0, (2.0, 2.0, 3.0)))
    assert found == (1.0, 0.5, 4.0)


def test_rounds_of_a_call_are_divided_but_not_its_first():
    assert Timing(9.0, (4.0, 2.0)).per(2) == Timing(9.0, (2.0, 1.0))


def test_no_repeat_is_refused():
    with pytest.raises(ValueError, match="expected repeats of at least 1, got 0"):
        measure({}, repeats=0)


def test_compilations_are_counted_once_for_each_shape():
    double = jax.jit(lambda values: 2.0 * values + 0.125)
    short, long = jnp.zeros(3), jnp.zeros(5)
    with count_compilations() as first:
        jax.block_until_ready((double(short), double(long)))
    with count_compilations() as second:
        jax.block_until_ready(double(short))
    assert (first.count, second.count) == (2, 0)


def test_machine_and_memory_are_described():
    assert timing.peak_memory_bytes() > 2**20
    machine = timing.machine()
    assert machine["cores"] >= 1 and machine["processor"] and machine["versions"]["jax"]


def test_bench_writes_and_prints_its_figures(tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    assert cli.main(["bench", *TINY, "--repeats", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for expected in ("60 users, 30 items", "compiling s", "fraction_of_ideal", "compiled 0 programs"):
        assert expected in printed.out
    document = json.loads(out.read_text())
    for name in ("full_round", "cohort_round", "als_sweep"):
        one = document["timings"][name]
        assert 0 < one["min_s"] <= one["median_s"] <= one["max_s"]
        assert document["compile_s"][name] >= 0
    assert document["compilations_of_another_call"] == 0
    assert document["data"]["padding_factor"] >= 1
    rates = document["rates"]["cohort_round"]
    assert rates["clients_per_s"] == pytest.approx(10 * rates["rounds_per_s"])
    expected = rates["rounds_per_s"] * 10 / (60 * document["rates"]["full_round"]["rounds_per_s"])
    assert rates["fraction_of_ideal"] == pytest.approx(expected)
    assert document["machine"]["versions"]["jax"] == jax.__version__
    assert document["config"]["model"]["num_factors"] == 4
    if importlib.util.find_spec("implicit"):
        assert document["ratios"]["full_round / implicit_cg"]["median"] > 0


def test_bench_does_without_implicit_and_als(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "bench.json"
    guarded = ["--set", "server.step=guarded_gram", "--set", "evaluation.baseline=false"]
    assert cli.main(["bench", *SIZES, *guarded, "--repeats", "1", "--quiet", "--out", str(out)]) == 0
    assert capsys.readouterr() == ("", "")
    document = json.loads(out.read_text())
    assert set(document["timings"]) == {"full_round", "full_round_adam", "cohort_round"}
    assert "pip install 'fcf_jax[bench]'" in document["note"]
    assert document["data"]["cohort_size"] == 60  # everybody: there are not more


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-config"], "no-such-config"),
        (["--set", "model.num_factor=3"], "did you mean model.num_factors?"),
        (["--set", "data.path=/nowhere/at/all.csv"], "/nowhere/at/all.csv"),
        (["--set", "parallel.item_shards=2"], "parallel.item_shards"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_bench_refuses_in_one_line(arguments, named, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert cli.main(["bench", *arguments, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert named in printed.err
    assert not out.exists()


def test_bench_refuses_a_folder_for_its_file(tmp_path, capsys):
    assert cli.main(["bench", *TINY, "--out", str(tmp_path)]) == 2
    assert "name a file" in capsys.readouterr().err


def test_exponent_of_a_power_law_is_found(load_benchmark):
    growth = load_benchmark("growth")
    sizes = [2.0, 4.0, 8.0, 16.0]
    slope, error = growth.fit_exponent(sizes, [3.0 * size**1.5 for size in sizes])
    assert slope == pytest.approx(1.5)
    assert error == pytest.approx(0.0, abs=1e-6)
    noisy = growth.fit_exponent(sizes, [3.0, 5.0, 14.0, 20.0])
    assert noisy.standard_error > 0.01


def test_gpu_script_runs_small_and_agrees_with_float64(load_benchmark, tmp_path, monkeypatch):
    gpu, out = load_benchmark("gpu"), tmp_path / "gpu.json"
    pieces = ["agreement", "determinism", "movielens_20m"]
    command = ["gpu.py", "--small", "--repeats", "1", "--only", *pieces, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    found = json.loads(out.read_text())["pieces"]
    assert set(found) == {"rates", *pieces}
    assert found["agreement"]["here_to_float64"] < 1e-5  # float32
    assert found["agreement"]["here_to_cpu"] < 1e-5
    assert found["determinism"]["largest_difference"] < 1e-4  # zero but on a GPU
    assert found["movielens_20m"]["roofline_ratio"] > 0


def test_drawn_clients_are_whole_and_add_up(load_benchmark):
    gpu = load_benchmark("gpu")
    clients = gpu.drawn_clients(gpu.Shape(100, 20, 64.0), chunk_clients=25)
    counts = np.asarray(clients.row_counts)
    assert clients.client_ids.shape == (4, 25)
    assert counts.min() >= 1
    assert counts.sum() == clients.owners.size == 100 * 64 // 32
    owners = np.asarray(clients.client_ids)[0][np.asarray(clients.owners)[0]]
    np.testing.assert_array_equal(np.bincount(owners), counts[:25])
    assert np.asarray(clients.rows.item_ids).min() >= 0 and np.asarray(clients.rows.item_ids).max() < 20
