import json
import types

import common
import jax
import numpy as np
import pytest
from common import Timing, count_compilations, cpu_ratio, measure, ratio
from jax import numpy as jnp


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a run moves it on."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(common.time, "perf_counter", lambda: now.seconds)
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
    assert timings["a"]._replace(cpu_s=()) == Timing(10.0, (1.0, 3.0, 2.0))
    assert len(timings["a"].cpu_s) == 3
    assert (timings["a"].median_s, timings["a"].min_s, timings["a"].max_s) == (2.0, 1.0, 3.0)
    assert timings["b"].compile_s == 16.0


def test_ratio_known_answer_is_of_pairs():
    found = ratio(Timing(0.0, (1.0, 8.0, 3.0)), Timing(0.0, (2.0, 2.0, 3.0)))
    assert found == (1.0, 0.5, 4.0)
    assert cpu_ratio(Timing(0.0, (), (3.0, 8.0)), Timing(0.0, (), (1.0, 2.0))) == (3.5, 3.0, 4.0)


def test_rounds_of_a_call_are_divided_but_not_its_first():
    assert Timing(9.0, (4.0, 2.0), (8.0, 6.0)).per(2) == Timing(9.0, (2.0, 1.0), (4.0, 3.0))


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
    assert common.peak_memory_bytes() > 2**20
    machine = common.machine()
    assert machine["cores"] >= 1 and machine["processor"] and machine["versions"]["jax"]


def test_results_are_published_as_json_without_infinities(tmp_path):
    out = tmp_path / "new" / "found.json"
    common.publish({"epsilon": [np.inf, np.float32(0.5)], "of": {"nan": np.nan}}, out)
    document = json.loads(out.read_text())
    assert document["epsilon"] == [None, 0.5]
    assert document["of"] == {"nan": None}
    assert document["machine"]["versions"]["jax"] == jax.__version__


def test_tables_show_every_row_and_a_dash_for_what_is_missing(capsys):
    common.show("times", [{"what": "ours", "s": 0.123456}, {"what": "theirs", "s": None, "note": "failed"}])
    lines = capsys.readouterr().out.split("\n")
    assert [line.split() for line in lines[1:5]] == [
        ["times"], ["what", "s", "note"], ["ours", "0.1235", "-"], ["theirs", "-", "failed"],
    ]  # fmt: skip
