import json

import numpy as np
import optax
import pytest
from jax import numpy as jnp
from rich.console import Console

from fcf_jax.data import Interactions
from fcf_jax.experiments.build.baseline import offsets_rmse
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.privacy import payload_bytes
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.server_steps import build_optimizer
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.loop import Training, block_sizes, find_divergence, seconds_per_round
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.recommend import History, recommend_items
from fcf_jax.experiments.run import difference_percent, run_experiment
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
        return run_experiment(config, load_dataset(config), folder, progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, run_tiny(folder)


def test_summary_has_every_promised_key(finished):
    folder, summary = finished
    assert json.loads((folder / "summary.json").read_text())["num_rounds"] == 40
    names = {*METRICS, *(f"normalized_{name}" for name in METRICS), "loss"}
    for side in ("federated", "centralized", "difference_percent"):
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
    assert [one["round"] for one in records if one["kind"] == "evaluation"] == [10, 20, 30, 40]
    assert sum(one["kind"] == "als_sweep" for one in records) >= 40


def test_saved_config_repeats_the_run_bit_for_bit(finished, tmp_path):
    folder, _ = finished
    run_config(load_config(str(folder / "config.toml")), tmp_path / "again")
    again, before = read_run(tmp_path / "again"), read_run(folder)
    np.testing.assert_array_equal(again.item_factors, before.item_factors)


def test_divergence_keeps_the_last_good_factors(tmp_path):
    folder = tmp_path / "diverged"
    with pytest.raises(DivergedError, match="last good"):
        run_tiny(folder, "server.step=sgd", "server.learning_rate=10.0")
    assert np.isfinite(read_run(folder).item_factors).all()
    assert not (folder / "summary.json").exists()


def test_explicit_ratings_are_compared_with_offsets(tmp_path):
    explicit = ("data.feedback=explicit", "model.unobserved_weight=0.0", "model.regularization=4.0")
    summary = run_tiny(tmp_path / "explicit", *explicit, "evaluation.baseline=false")
    assert summary["centralized"] is summary["difference_percent"] is None
    # random counts have nothing to learn: no better than their spread, and not much worse
    assert 0.5 < summary["federated"]["rmse"] / summary["explicit_baseline_rmse"] < 2.0


@pytest.mark.parametrize("step", ["adam", "paper_adam", "guarded_gram", "gram", "running_sums", "sgd"])
def test_every_step_builds_and_counts_its_payload(step):
    config = load_config(None, [f"server.step={step}"])
    assert isinstance(build_optimizer(config), optax.GradientTransformation)
    up, down = payload_bytes(config, num_items=100)
    assert down == 4 * 100 * 25
    assert up - down == (4 * (25 * 25 + 100 + 1) if step in ("gram", "guarded_gram", "running_sums") else 0)


@pytest.mark.parametrize(
    ("step", "more", "extra"),
    [
        ("adam", (), 0),
        ("gram", (), 25 * 25 + 100),
        ("gram", ("server.confidence_factor=0.0",), 25 * 25),
    ],
)
def test_payload_counts_what_a_mechanism_lets_clients_send(step, more, extra):
    """Their loss never, and confidences only where the step weighs them."""
    config = load_config(None, [f"server.step={step}", "privacy.mode=central_noise", *more])
    up, down = payload_bytes(config, num_items=100)
    assert up - down == 4 * extra


def test_cosine_decay_ends_at_the_final_rate():
    config = load_config(None, ["server.step=sgd", "server.learning_rate=1.0", "server.decay=cosine"])
    optimizer = build_optimizer(config)
    ones = jnp.ones(1)
    state = optax.tree_utils.tree_set(optimizer.init(ones), count=jnp.int32(config.federation.num_rounds))
    update, _ = optimizer.update(ones, state, ones)
    assert float(update[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("num_rounds", "every", "sizes"),
    [(30, 10, [10] * 3), (10, 10, [2] * 5), (7, 2, [2, 2, 2, 1]), (1, 10, [1]), (0, 10, [])],
)
def test_blocks_end_where_evaluations_are_due(num_rounds, every, sizes):
    assert block_sizes(num_rounds, every) == sizes


def test_seconds_per_round_leave_out_what_compiles_in_each_process():
    config = load_config(None, ["federation.num_rounds=25", "evaluation.every=5"])  # blocks of 5

    def median(seconds, starts):
        records = [{"kind": "round", "round": i, "seconds": seconds[i // 5]} for i in range(5 * len(seconds))]
        return seconds_per_round(Training(25, None, records, starts, None), config)

    assert median([9.0, 1.0, 3.0, 2.0, 1.0], []) == 1.5
    assert median([9.0, 1.0, 8.0, 2.0, 2.0], [10]) == 2.0  # another process took over at round 10
    assert median([9.0, 8.0], [5]) == 8.5  # nothing else is known


def test_divergence_is_found_at_its_first_round():
    assert find_divergence([1.0, 9.0]) is None
    assert find_divergence([1.0, 2.0, 11.0, 12.0]).round == 2
    assert find_divergence([1.0, float("nan")]).round == 1
    assert find_divergence([1.0, 11.0, 0.9], is_guarded=True) is None
    assert find_divergence([1.0, 11.0, 12.0], is_guarded=True).round == 2


def test_offsets_rmse_known_answer_of_constant_ratings():
    train = Interactions.from_arrays([0, 0, 1], [0, 1, 0], [3.0, 3.0, 3.0], num_users=2, num_items=2)
    test = Interactions.from_arrays([1], [1], [5.0], num_users=2, num_items=2)
    assert offsets_rmse(train, test) == pytest.approx(2.0)


def test_difference_percent_known_answers():
    found = difference_percent({"a": 1.1, "b": 1.0}, {"a": 1.0, "b": 0.0})
    assert found["a"] == pytest.approx(10.0)
    assert np.isnan(found["b"])
