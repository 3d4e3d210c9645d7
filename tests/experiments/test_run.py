"""A run from its configuration to its run directory."""

import json

import numpy as np
import pytest
from rich.console import Console

from fcf_jax.evaluation import evaluate_popularity, popularity
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.run import difference_percent, run_experiment
from fcf_jax.experiments.store.run_directory import METRICS as METRICS_FILE
from fcf_jax.experiments.store.run_directory import claimed, read_run

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=40", "evaluation.every=10",
]  # fmt: skip
METRICS = (
    "precision_at_10",
    "recall_at_10",
    "f1_at_10",
    "map_at_10",
    "ndcg_at_10",
    "hit_rate_at_10",
    "rmse",
    "auc",
)


def run_tiny(folder, *overrides):
    return run_config(load_config(None, [*TINY, *overrides]), folder)


def run_config(config, folder):
    with ProgressLine(Console(), quiet=True) as progress, claimed(folder, config):
        return run_experiment(resolve(config, load_dataset(config)), folder, progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, run_tiny(folder)


def test_summary_has_every_promised_key(finished):
    folder, summary = finished
    assert json.loads((folder / "summary.json").read_text())["num_rounds"] == 40
    names = {*METRICS, *(f"normalized_{name}" for name in METRICS), "loss"}
    for side in ("federated", "centralized", "difference_percent", "popularity"):
        assert set(summary[side]) == names
    assert summary["num_users"] == summary["cohort_size"] == 60
    assert (summary["num_items"], summary["num_factors"]) == (30, 4)
    assert summary["num_interactions"] == summary["num_train_interactions"] + summary["num_test_interactions"]
    assert summary["payload_bytes_down"] == 4 * 30 * 4
    assert summary["payload_bytes_up"] == 4 * (30 * 4 + 16 + 30 + 1)
    assert summary["seconds_per_round"] > 0
    assert summary["clients_per_second"] == pytest.approx(60 / summary["seconds_per_round"])
    assert summary["resumed_from_rounds"] == []
    assert summary["padding_factor"] >= 1


def test_federated_loss_comes_near_that_of_als(finished):
    assert abs(finished[1]["difference_percent"]["loss"]) < 2.0  # both near a minimum, maybe not the same


def test_run_directory_is_complete_and_unpickled(finished):
    folder, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "checkpoints", "config.toml", "convergence.png", "environment.json",
        "item_factors.npz", "metrics.jsonl", "report.html", "summary.json",
    ]  # fmt: skip
    assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "item_factors.npz", allow_pickle=False) as arrays:
        assert arrays["item_factors"].shape == (30, 4)
        assert arrays["item_ids"].tolist() == list(range(30))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [one["round"] for one in records if one["kind"] == "round"] == list(range(40))
    assert [one["round"] for one in records if one["kind"] == "evaluation"] == [0, 1, 2, 5, 10, 20, 30, 40]
    assert sum(one["kind"] == "als_sweep" for one in records) >= 40


@pytest.mark.usefixtures("undrawn")
def test_saved_config_repeats_the_run_bit_for_bit(finished, tmp_path):
    folder, _ = finished
    run_config(load_config(str(folder / "config.toml")), tmp_path / "again")
    again, before = read_run(tmp_path / "again"), read_run(folder)
    np.testing.assert_array_equal(again.item_factors, before.item_factors)


def test_popularity_agrees_with_its_evaluation_in_the_library(finished):
    config = load_config(None, TINY)
    problem = resolve(config, load_dataset(config))
    split, floor = problem.dataset.split, finished[1]["popularity"]
    found = evaluate_popularity(problem.model, split.train, split.test)
    assert floor == pytest.approx({**found, "loss": floor["loss"]}, rel=1e-6)
    shares = np.asarray(popularity(split.train), np.float64)[None, :]
    strengths = split.train.to_scipy().toarray()
    confidence, preference = 1 + config.model.alpha * strengths, strengths > 0
    assert floor["loss"] == pytest.approx(np.sum(confidence * (preference - shares) ** 2), rel=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_a_run_starts_from_the_item_factors_of_another(finished, tmp_path):
    earlier, summary = finished
    start = f"server.initial_item_factors={earlier}"
    warm = run_tiny(tmp_path / "warm", start, "federation.num_rounds=2", "evaluation.baseline=false")
    evaluations = [one for one in METRICS_FILE.read(tmp_path / "warm") if one["kind"] == "evaluation"]
    assert evaluations[0]["loss"] == pytest.approx(summary["federated"]["loss"], rel=1e-5)
    assert warm["federated"]["loss"] <= evaluations[0]["loss"] * (1 + 1e-5)


def test_divergence_keeps_the_last_good_factors(tmp_path):
    folder = tmp_path / "diverged"
    with pytest.raises(DivergedError, match="last good"):
        run_tiny(folder, "server.step=sgd", "server.learning_rate=10.0")
    assert np.isfinite(read_run(folder).item_factors).all()
    assert not (folder / "summary.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_explicit_ratings_are_compared_with_offsets(tmp_path):
    explicit = ("data.feedback=explicit", "model.unobserved_weight=0.0", "model.regularization=4.0")
    summary = run_tiny(tmp_path / "explicit", *explicit, "evaluation.baseline=false")
    assert summary["centralized"] is summary["difference_percent"] is None
    # random counts have nothing to learn: no better than their spread, and not much worse
    assert 0.5 < summary["federated"]["rmse"] / summary["explicit_baseline_rmse"] < 2.0
    assert np.isnan([summary["popularity"][name] for name in ("rmse", "normalized_rmse", "loss")]).all()
    assert 0 < summary["popularity"]["ndcg_at_10"] < 1


def test_difference_percent_known_answers():
    found = difference_percent({"a": 1.1, "b": 1.0}, {"a": 1.0, "b": 0.0})
    assert found["a"] == pytest.approx(10.0)
    assert np.isnan(found["b"])
