"""Every script of benchmarks/ is imported, explains itself, and runs at toy size."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import peers
import pytest
from made_up_features import write_made_up

import fcf_jax as fcf

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHARED = {  # imported by scripts
    "against_implicit_tables", "alone", "common", "contenders", "descents", "drawn", "gpu_kernels",
    "gpu_pieces", "gpu_table", "memory", "peers", "problem", "readme", "roofline",
}  # fmt: skip
DATA = ["--simulated", "60", "30", "8", "--num-factors", "4"]
ONCE = [*DATA, "--repeats", "1"]
OF_FEATURES = [
    "data.path=FOLDER/plays.csv", "data.user_features=people.csv", "data.item_features=things.csv",
    "data.split=cold_items", "data.cold_fraction=0.2", "model.num_factors=2", "federation.num_rounds=2",
    "evaluation.k=3",
]  # fmt: skip
TINY_CONFIG = ["data.num_users=60", "data.num_items=30", "data.mean_history=8"]


class Toy(NamedTuple):
    """Arguments of a quick run, and keys that its document must have, one below the other."""

    arguments: list[str]
    keys: tuple


TOYS = {
    "accuracy": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one)), "--set", "evaluation.k=5"]
        + ["--num-factors", "3", "--num-seeds", "2", "--num-rounds", "2"],
        ("results", 0, "methods", "federated", "recall_at_5", "sd"),
    ),
    "against_implicit": Toy(
        [*ONCE, "--only", "rounds", "quality"], ("results", 0, "quality", "rows", 0, "seconds")
    ),
    "against_simulators": Toy([*ONCE, "--peers", "numpy_loop"], ("results", "numpy_loop", "ratio", "median")),
    "attacks": Toy(
        [*DATA, "--num-rounds", "2", "--num-targets", "2", "--shares", "0.1", "--steps", "gram"]
        + ["--attacks", "rank_one", "--defences", "none"],
        ("results", 0, "runs", 0, "er_at_10"),
    ),
    "clipping": Toy(ONCE, ("results", 0, "ratios", "clipped, with noise", "median")),
    "cold_start": Toy(
        ["own-csv", *(part for one in OF_FEATURES for part in ("--set", one)), "--num-splits", "1"],
        ("methods", "federated", 0, "cold_user_recall_at_3"),
    ),
    "cohorts": Toy([*ONCE, "--cohort-sizes", "10"], ("results", 2, "fraction_of_ideal_and_fixed")),
    "devices": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one)), "--set", "evaluation.k=5"]
        + ["--set", "model.num_factors=2", "--cohort-size", "20", "--num-passes", "1", "--num-seeds", "1"]
        + ["--parts", "virtual time", "--only", "synchronous", "asynchronous"],
        ("runs", "virtual time", "asynchronous", "0", 0, "virtual_seconds"),
    ),
    "compressed": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one))]
        + ["--set", "model.num_factors=2", "--num-builds", "2", "--num-rounds", "1", "--only", "own rows"],
        ("settings", "own rows", "metrics", "map_at_10", 1),
    ),
    "gpu": Toy(
        ["--small", "--repeats", "1", "--only", "card", "agreement", "kernels", "billion"],
        ("pieces", "billion", "roofline_ratio"),
    ),
    "growth": Toy(
        ["--small", "--axes", "cohort", "--repeats", "1"], ("axes", "cohort", "exponents", "seconds", "slope")
    ),
    "kill_and_resume": Toy(["--num-kills", "1", "--num-rounds", "10"], ("results", 0, "is_identical")),
    "leakage": Toy(
        [*DATA, "--cohort-sizes", "5", "--num-cohorts", "1", "--max-users", "5"],
        ("sums", 0, "in_fixed_point", "linked", "value"),
    ),
    "leakage_over_rounds": Toy(
        [*DATA, "--cohort-sizes", "5", "--num-rounds", "20", "--num-shadows", "6", "--shadow-rounds", "1"]
        + ["--num-factors", "2"],
        ("published_model", "AUC"),
    ),
    "objectives": Toy(
        [*DATA, "--num-factors", "2", "--num-rounds", "2", "--num-steps", "2", "--seeds", "1"]
        + ["--kinds", "BPR"],
        ("kinds", "BPR", "runs", 0, "joint_loss"),
    ),
    "privacy_utility": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one)), "--tune-on", "simulated"]
        + [*(part for one in TINY_CONFIG for part in ("--tune-set", one)), "--num-factors", "8"]
        + ["--epsilons", "10", "--num-seeds", "1", "--small-grids"],
        ("results", 0, "ndcg_at_10"),
    ),
    "second_moments": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one)), "--tune-on", "simulated"]
        + [*(part for one in TINY_CONFIG for part in ("--tune-set", one)), "--num-factors", "3"]
        + ["--epsilons", "10", "--num-seeds", "1", "--small-grids"],
        ("results", 0, "ndcg_at_10"),
    ),
    "reading": Toy(["--num-rows", "2000", "--forms", "careful"], ("results", 0, "bytes a row")),
    "rounds_to_quality": Toy(
        [*DATA, "--num-rounds", "4", "--every", "2", "--num-settings", "1"],
        ("steps", "guarded_gram", "best", "loss 1.05"),
    ),
    "secure_sum": Toy(
        ["--num-clients", "120", "--num-items", "20", "--num-factors", "2", "--dropouts", ".1"]
        + ["--repeats", "1"],
        ("results", 0, "is_exact"),
    ),
    "side_by_side": Toy([*ONCE, "--num-runs", "2"], ("rows", 0, "ms a round")),
    "sweep": Toy(
        ["simulated", *(part for one in TINY_CONFIG for part in ("--set", one)), "--set", "server.step=adam"]
        + ["--set", "model.num_factors=4", "--set", "federation.num_rounds=2", "--vary", "model.alpha=1,4"]
        + ["--repeats", "1", "--here"],
        ("rows", 0, "sweep / run"),
    ),
}  # fmt: skip
OF_COMMANDS = {
    "accuracy", "cold_start", "compressed", "devices", "kill_and_resume", "privacy_utility",
    "second_moments", "sweep",
}  # fmt: skip
PACKAGES = {"fedjax_clients": "fedjax", "flower_simulation": "flwr", "pfl_backend": "pfl"}
PEERS = sorted(path.stem for path in (FOLDER / "simulators").glob("*.py") if path.stem != "exchange")
BLOCKED = {
    "cryptography", "dp_accounting", "filelock", "implicit", "jinja2", "matplotlib", "optuna", "pandas",
    "pooch", "pyarrow", "pydantic", "requests", "rich", "scipy", "tomli_w", "typer",
}  # fmt: skip


def run_script(name, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    importlib.import_module(name).main()


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.fixture(scope="module")
def documents():
    """What the toy runs wrote, by script."""
    return {}


def test_every_script_has_a_toy_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == SHARED | set(TOYS)


@pytest.mark.parametrize("name", TOYS)
def test_script_explains_itself(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_script(name, ["--help"], monkeypatch)
    assert stopped.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize("name", TOYS)
def test_script_runs_at_toy_size(name, documents, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / f"{name}.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_made_up(tmp_path)
    arguments = [one.replace("FOLDER", str(tmp_path)) for one in TOYS[name].arguments]
    run_script(name, [*arguments, "--out", str(out)], monkeypatch)
    assert capsys.readouterr().out.strip()
    documents[name] = found = json.loads(out.read_text())
    assert found["machine"]["versions"]["jax"] and found["peak_memory_bytes"] > 0
    for key in TOYS[name].keys:
        found = found[key]


@pytest.mark.parametrize("name", sorted(set(TOYS) - OF_COMMANDS | SHARED))
def test_benchmarks_of_the_core_know_no_experiment(name):
    assert not [
        module for module in imported_modules(FOLDER / f"{name}.py")
        if module.startswith(("fcf_jax.experiments", "fcf_jax.cli"))
    ]  # fmt: skip


def test_benchmarks_of_the_core_need_jax_optax_and_numpy_alone_at_import():
    scripts = ", ".join(sorted(set(TOYS) - OF_COMMANDS))
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); import {scripts};"
        "assert against_implicit.UNSET == ['OPENBLAS_CORETYPE'];"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env=os.environ | {
            "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path]), "OPENBLAS_CORETYPE": "Haswell"
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "fcf_jax.core" in loaded and "fcf_jax.cli" not in loaded
    experiments = {name for name in loaded if name.startswith("fcf_jax.experiments.")}
    assert experiments == {"fcf_jax.experiments.load_run"}  # public, and reads runs only when called


@pytest.mark.parametrize("name", PEERS)
def test_peer_explains_itself_or_names_what_it_needs(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER / "simulators")
    monkeypatch.delitem(sys.modules, name, raising=False)
    package = PACKAGES.get(name)
    with pytest.raises(SystemExit) as stopped:
        run_script(name, ["--help"], monkeypatch)
    if package is None or importlib.util.find_spec(package):
        assert stopped.value.code == 0
        assert "problem" in capsys.readouterr().out
    else:
        assert stopped.value.code.startswith(f"{package} is not installed; ")
        assert "\n" not in stopped.value.code


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere/at/all.csv"], "/nowhere/at/all.csv"),
        (["--repeats", "0"], "--repeats"),
        (["--num-factors", "0"], "--num-factors"),
        (["--out", "."], "name a file"),
    ],
)
def test_bad_arguments_are_named(arguments, named, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_script("against_implicit", arguments, monkeypatch)
    assert stopped.value.code
    assert named in f"{stopped.value.code}" + capsys.readouterr().err


def test_rounds_are_timed_without_compiling_and_divided_by_each_peer(documents):
    document = documents["against_implicit"]
    found = document["results"][0]["rounds"]
    for name in ("guarded_round", "adam_round", "als_sweep"):
        one = found["timings"][name]
        assert 0 < one["min_s"] <= one["median_s"] <= one["max_s"]
        assert found["compile_s"][name] >= 0
    assert found["compilations_of_another_call"] == 0
    assert found["padding_factor"] >= 1
    for name in peers.PEERS:
        if peers.is_installed(name):
            assert found["ratios"][f"guarded_round / {name}"]["median"] > 0
        else:
            assert "pip install 'fcf_jax[bench]'" in document["notes"][-1]


def test_descents_end_at_the_goal(documents):
    quality = documents["against_implicit"]["results"][0]["quality"]
    assert all(row["reached"] for row in quality["rows"])
    for curves in quality["curves"].values():
        assert curves[0][-1][1] <= quality["bound"]


def test_a_peer_alone_reports_its_memory(tmp_path, monkeypatch, capsys):
    if not peers.is_installed("implicit_cg"):
        pytest.skip("implicit is not installed")
    path = tmp_path / "train.npz"
    histories = fcf.Interactions.from_arrays([0, 0, 1, 1], [0, 1, 1, 2])
    np.savez(
        path, **{name: getattr(histories, name) for name in ("indptr", "item_ids", "strengths", "num_items")}
    )
    run_script("alone", ["implicit_cg", str(path), "2", "4"], monkeypatch)
    found = json.loads(capsys.readouterr().out)
    assert found["peak_bytes"] >= found["baseline_bytes"] > 0
    assert len(found["later_s"]) == 2


def test_gpu_script_agrees_with_float64_and_is_deterministic(documents):
    found = documents["gpu"]["pieces"]
    assert set(found) == {"card", "agreement", "kernels", "billion"}
    for name in ("kernels", "xla", "cpu"):
        assert found["agreement"][f"{name}_to_float64"] < 1e-5  # float32
    assert found["agreement"]["kernels_are_identical"]
    parts = {name.split(",")[0] for name in found["kernels"]["milliseconds"]}
    assert parts == {"whiten", "solve", "sum by item"}
    assert found["billion"]["roofline_ratio"] > 0


def test_a_piece_on_the_gpu_that_takes_too_long_is_stopped_and_named(tmp_path):
    import gpu

    found = gpu.run_apart("card", limit_s=0.1, repeats=1, folder=tmp_path)
    assert found["pieces"]["card"] == {"error": "stopped after 0.1 s"}


def test_every_case_of_the_gpu_table_has_a_piece_and_a_figure(documents):
    import gpu
    import gpu_table

    assert {case.piece for case in gpu_table.CASES} <= set(gpu.PIECES)
    rows = gpu_table.rows(json.loads(gpu_table.BEFORE.read_text()), documents["gpu"])
    measured = [list(row.values())[-1] for row in rows]
    assert measured.count("-") == sum(
        case.piece not in documents["gpu"]["pieces"] for case in gpu_table.CASES
    )


def test_exact_sums_and_identical_runs_are_found(documents):
    assert documents["secure_sum"]["results"][0]["is_exact"]
    assert documents["kill_and_resume"]["results"][0]["is_identical"]
    assert documents["side_by_side"]["largest_difference_from_alone"] < 1e-4
    assert documents["against_simulators"]["results"]["numpy_loop"]["relative_difference"] < 1e-4


def test_exponent_of_a_power_law_is_found():
    import growth

    sizes = [2.0, 4.0, 8.0, 16.0]
    slope, error = growth.fit_exponent(sizes, [3.0 * size**1.5 for size in sizes])
    assert slope == pytest.approx(1.5)
    assert error == pytest.approx(0.0, abs=1e-6)
    noisy = growth.fit_exponent(sizes, [3.0, 5.0, 14.0, 20.0])
    assert noisy.standard_error > 0.01


def test_drawn_clients_are_whole_and_add_up():
    import drawn

    clients = drawn.drawn_clients(common.Shape(100, 20, 64.0), chunk_clients=25)
    assert np.asarray(clients.rows.mask).all()
    held = np.bincount(np.asarray(clients.rows.item_ids).ravel(), minlength=20)
    np.testing.assert_array_equal(clients.item_counts, held)
    counts = np.asarray(clients.row_counts)
    assert clients.client_ids.shape == (4, 25)
    assert counts.min() >= 1
    assert counts.sum() == clients.owners.size == 100 * 64 // 32
    owners = np.asarray(clients.client_ids)[0][np.asarray(clients.owners)[0]]
    np.testing.assert_array_equal(np.bincount(owners), counts[:25])
    assert np.asarray(clients.rows.item_ids).min() >= 0 and np.asarray(clients.rows.item_ids).max() < 20
