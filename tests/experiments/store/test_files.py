"""Files of each format: there and back, damaged, and when the disk is full."""

import json

import numpy as np
import pytest

from fcf_jax.experiments.errors import DamagedFileError
from fcf_jax.experiments.store.files import File, remove_temporary, write_atomically
from fcf_jax.experiments.store.run_directory import BUDGET, ENVIRONMENT, METRICS, SUMMARY
from fcf_jax.experiments.store.schemas import MetricsRecord

CONTENTS = {
    "one.json": {"a": 1, "b": {"c": [0.5, None]}},
    "many.jsonl": [{"a": 1}, {"a": 2.5, "b": "x"}],
    "table.csv": [{"a": "1", "b": ""}, {"a": "", "b": "x,y"}],
    "sections.toml": {"data": {"seed": 3}, "model": {"alpha": 0.5}},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content_comes_back(tmp_path, name):
    file = File(name, required=("a",) if "a" in CONTENTS[name] else ())
    assert not file.is_in(tmp_path) and file.read_or(tmp_path, "absent") == "absent"
    file.write(tmp_path, CONTENTS[name])
    assert file.is_in(tmp_path) and file.read(tmp_path) == CONTENTS[name]


def test_arrays_come_back(tmp_path):
    file = File("arrays.npz", required=("a",))
    file.write(tmp_path, {"a": np.arange(3.0)})
    np.testing.assert_array_equal(file.read(tmp_path)["a"], np.arange(3.0))


def test_appended_records_come_back_without_a_line_that_was_cut_off(tmp_path):
    file = File("many.jsonl", schema=list[MetricsRecord])
    records = [{"kind": "round", "round": index, "loss": 0.5} for index in range(3)]
    file.write(tmp_path, records[:1])
    file.append(tmp_path, records[1:])
    assert file.read(tmp_path) == records
    with (tmp_path / file.name).open("ab") as content:
        content.write(b'{"kind": "round", "round": 3, "lo\xc3')
    assert file.read(tmp_path) == records


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        (METRICS, '{"kind": "round"}\n', "one without 0.round"),
        (METRICS, '{"kind": "round", "round": -1}\n', "0.round = -1"),
        (METRICS, '{"kind": "round", "round": 1, "loss": "low"}\n', "0.loss = 'low'"),
        (METRICS, '{"kind": "rou\n{"kind": "round", "round": 1}\n', "Unterminated string"),
        (BUDGET, "{}", "one without is_private"),
        (BUDGET, '{"rounds_charged": "3"}', "input_value='3'"),
        (ENVIRONMENT, '{"resumed_from_rounds": [1.5]}', "resumed_from_rounds.0 = 1.5"),
        (SUMMARY, '{"federated": {}}', "one without centralized"),
        (SUMMARY, "[" * 100_000, "recursion"),
    ],
)
def test_content_that_no_run_writes_is_named(tmp_path, file, content, found):
    (tmp_path / file.name).write_text(content)
    with pytest.raises(DamagedFileError) as raised:
        file.read(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / file.name}: expected an intact file, got ")
    assert found in str(raised.value) or found in str(raised.value.__cause__)
    assert str(raised.value).endswith(file.remedy) and "\n" not in str(raised.value)


def test_only_own_temporary_files_are_removed(tmp_path):
    for name in (".notes.tmp", ".mine.12.tmp", ".summary.json.12.fcf.tmp"):
        (tmp_path / name).write_text("")
    remove_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.12.tmp", ".notes.tmp"]


def test_null_in_json_lines_is_nan(tmp_path):
    file = File("many.jsonl")
    file.write(tmp_path, [{"a": float("inf")}])
    assert (tmp_path / "many.jsonl").read_text() == '{"a": null}\n'
    assert np.isnan(file.read(tmp_path)[0]["a"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.json", b"{"),
        ("one.json", b"[]"),
        ("one.json", b'{"b": 1}'),
        ("one.json", b"\xff"),
        ("many.jsonl", b'{"a": 1}\n{"b": 1}\n'),
        ("sections.toml", b"a = 1\n"),
        ("arrays.npz", b"PK"),
    ],
)
def test_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected an intact file, got .*; repeat the run"):
        File(name, required=("a",)).read(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    File(path.name).write(tmp_path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": None}
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert [one.name for one in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads(path.read_text()) == {"value": None}
