"""The results table of README.md, as docs/write_results.py writes it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CELL = r"\.\d{4} / \.\d{4} / \.\d{4} \([+-]\d+\.\d\d %\)"  # popularity / ALS / FCF
ROW = re.compile(
    rf"\| `fcf compare[^|]*` \| \d+ x \d+, \d+ / \d+ \|( {CELL} \|){{4}} [+-]\d+\.\d\d % "
    r"\| [^|]*: \d+ of 17[^|]*"
    r"\| \d[^|]*, jax [^|]*, \d+ cores, \d{4}-\d\d-\d\d \|"
)
FIGURES = {
    "popularity_mean": 0.1,
    "centralized_mean": 0.25,
    "federated_mean": 0.2501,
    "difference_percent": 0.04,
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("write_results", ROOT / "docs" / "write_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def comparison(tmp_path):
    names = ("precision_at_10", "recall_at_10", "map_at_10", "ndcg_at_10", "loss")
    document = {
        "num_users": 9, "num_items": 7, "num_rounds": 30, "num_sweeps": 60, "headline": "Equivalent",
        "verdict": "They are.",
        "metrics": dict.fromkeys(names, FIGURES),
    }  # fmt: skip
    environment = {
        "arguments": [
            "compare", "toy", "--set", "data.path=/a/toy/x.csv", "--set", "a.b=1", "--out", "/y", "--quiet",
        ],
        "versions": {"fcf_jax": "0.1", "jax": "0.10"}, "cores": 2, "started": "2026-11-27T19:44:31+00:00",
    }  # fmt: skip
    (tmp_path / "config.toml").write_text('[data]\nname = "toy"\n')
    (tmp_path / "comparison.json").write_text(json.dumps(document))
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    return tmp_path


def test_row_has_command_figures_version_and_date(script, comparison):
    cell = ".1000 / .2500 / .2501 (+0.04 %)"
    assert script.row_of(comparison) == (
        f"| `fcf compare toy --set a.b=1` | 9 x 7, 30 / 60 | {cell} | {cell} | {cell} | {cell} | +0.04 % | "
        "Equivalent | 0.1, jax 0.10, 2 cores, 2026-11-27 |"
    )


def test_own_data_keeps_its_file_in_the_command(script, comparison):
    (comparison / "config.toml").write_text("[data]\n")
    assert script.row_of(comparison).startswith("| `fcf compare toy --set data.path=toy/x.csv --set a.b=1` |")


def test_row_replaces_that_of_its_command_alone(script):
    page = f"above\n{script._BEGIN}\n{script._END}\nbelow\n"
    once = script.with_rows(page, ["| `a` | 1 |", "| `b` | 2 |"])
    assert script.with_rows(once, []) == once
    twice = script.with_rows(once, ["| `a` | 3 |"])
    assert twice == once.replace("| `a` | 1 |", "| `a` | 3 |")
    assert twice.startswith("above\n") and twice.endswith("\nbelow\n")
    with pytest.raises(ValueError, match="expected one"):
        script.with_rows("no table", [])


def test_table_of_the_readme_is_as_the_script_writes_it(script):
    text = (ROOT / "README.md").read_text()
    assert script.with_rows(text, []) == text
    rows = [line for line in text.splitlines() if line.startswith("| `fcf compare")]
    assert len(rows) >= 3
    for row in rows:
        assert ROW.fullmatch(row), row
