"""Privacy budgets: charged before anything is released, and never refunded."""

import json

import numpy as np
import pytest
from rich.console import Console

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import CheckpointError, DamagedFileError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.run import run_experiment
from fcf_jax.experiments.store import budget as budget_module
from fcf_jax.experiments.store import files
from fcf_jax.experiments.store.budget import budget_of, released_item_weights
from fcf_jax.experiments.store.run_directory import BUDGET, ITEM_COUNTS, METRICS, SECOND_MOMENTS, claimed

pytestmark = pytest.mark.usefixtures("all_undrawn")

_TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=4", "evaluation.every=2", "evaluation.baseline=false",
    "server.confidence_factor=0", "privacy.mode=central_noise",
]  # fmt: skip
NOISY = [*_TINY, "server.step=gram", "server.learning_rate=0.3"]
MOMENTS = [
    *(one for one in _TINY if "rounds" not in one), "federation.num_rounds=0", "server.step=running_sums",
    "privacy.start=second_moments", "privacy.moment_items=8", "privacy.head_items=0.5",
]  # fmt: skip
HEAD = [*_TINY, "server.step=running_sums", "privacy.head_items=0.5"]


def problem_of(overrides):
    config = load_config(None, overrides)
    return resolve(config, load_dataset(config))


def run(folder, overrides, resume=False):
    problem = problem_of(overrides)
    with ProgressLine(Console(), quiet=True) as progress, claimed(folder, problem.config, resume=resume):
        return run_experiment(problem, folder, progress, resume=resume)


@pytest.fixture(scope="module")
def charged(tmp_path_factory):
    """A run directory whose budget has one round charged, and the problem of the run."""
    folder, problem = tmp_path_factory.mktemp("charged"), problem_of(NOISY)
    assert budget_of(problem, folder).charge(1)
    return folder, problem


def test_budget_is_on_disk_before_a_round_and_never_given_back(tmp_path):
    problem = problem_of(NOISY)
    budget = budget_of(problem, tmp_path)
    assert budget.charge(3) and json.loads((tmp_path / BUDGET.name).read_text())["rounds_charged"] == 3
    assert not budget_of(problem, tmp_path).charge(2)  # another process, after a kill
    assert budget_of(problem, tmp_path).charge(1)
    assert not budget.charge(1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds_charged", 10**9), ("rounds_charged", -1), ("rounds_charged", 1.5), ("rounds_charged", None),
        ("delta", 0.0), ("epsilon", -1.0), ("epsilon", "10"), ("noise_multiplier", 1.0), ("num_users", 61),
        ("sampling", "poisson"), ("is_private", 1), ("caveats", "none"), ("expected_cohort_size", 0),
    ],
)  # fmt: skip
def test_budget_file_that_is_not_of_this_run_is_refused_in_one_line(charged, key, value):
    folder, problem = charged
    whole = BUDGET.read(folder)
    (folder / BUDGET.name).write_text(json.dumps({**whole, key: value}))
    with pytest.raises(DamagedFileError, match=f"{BUDGET.name}: expected .*choose another --out") as error:
        budget_of(problem, folder).charge(1)
    assert "\n" not in str(error.value)
    BUDGET.write(folder, whole)


def test_resumed_run_draws_anew_is_charged_again_and_ends_when_all_is_spent(tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    assert budget_of(problem_of(NOISY), folder).charge(3)  # of a process that was killed
    summary = run(folder, NOISY, resume=True)
    assert summary["privacy"]["rounds_charged"] <= 4
    rounds = [one for one in METRICS.read(folder) if one["kind"] == "round"]
    assert len(rounds) <= 1


def test_run_releases_counts_once_and_charges_them_first(tmp_path, monkeypatch):
    folder, budgets, write = tmp_path / "run", [], files.write_atomically

    def watched(path, content):
        if path.name == "item_counts.npz":
            budgets.append(json.loads((folder / BUDGET.name).read_text()))
        write(path, content)

    monkeypatch.setattr(files, "write_atomically", watched)
    summary = run(folder, HEAD)
    (charged,) = budgets  # on disk before the counts were
    assert charged["rounds_charged"] == 0 and 0 < charged["epsilon"] < 1.5
    assert summary["privacy"]["epsilon"] == pytest.approx(10, rel=1e-2)
    assert summary["payload_bytes_up"] == 4 * (15 * 4 + 4 * 4)  # half of 30 items, and x x^T
    assert summary["privacy"]["item_counts_noise_multiplier"] > summary["privacy"]["noise_multiplier"]
    with np.load(folder / "item_factors.npz") as model, np.load(folder / ITEM_COUNTS.name) as released:
        head = np.argsort(-released["counts"])[:15]
        is_learned = np.any(model["item_factors"] != 0, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(is_learned), np.sort(head))


def test_resumed_run_reads_the_counts_it_released(tmp_path, monkeypatch):
    problem = problem_of(HEAD)
    budget = budget_of(problem, tmp_path)
    first = released_item_weights(problem, tmp_path, budget)
    monkeypatch.setattr(budget_module, "release_item_counts", None)  # it must not be asked again
    np.testing.assert_array_equal(released_item_weights(problem, tmp_path, budget), first)


def test_lost_counts_or_budgets_are_not_paid_for_anew(tmp_path):
    folder = tmp_path / "run"
    run(folder, HEAD)
    for name in (ITEM_COUNTS.name, BUDGET.name):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=name):
            run(folder, HEAD, resume=True)
        (folder / name).write_bytes(content)


def test_second_moments_are_released_once_and_spend_the_whole_budget(tmp_path, monkeypatch):
    folder, budgets, write = tmp_path / "run", [], files.write_atomically

    def watched(path, content):
        if path.name in (ITEM_COUNTS.name, SECOND_MOMENTS.name):
            budgets.append(json.loads((folder / BUDGET.name).read_text())["epsilon"])
        write(path, content)

    monkeypatch.setattr(files, "write_atomically", watched)
    summary = run(folder, MOMENTS)
    assert budgets == [pytest.approx(10, rel=1e-6)] * 2  # on disk before either release
    privacy = load_config(None, MOMENTS).privacy
    protection = problem_of(MOMENTS).protection
    shares = privacy.count_share, privacy.moment_share, 1 - privacy.count_share - privacy.moment_share
    precision = sum(protection.release_noise(share) ** -2 for share in shares)
    assert precision == pytest.approx(summary["privacy"]["item_counts_noise_multiplier"] ** -2)
    assert summary["payload_bytes_up"] == 4 * (15 + 8 * 9 // 2 + 15 * 3)
    released = SECOND_MOMENTS.read(folder)["item_factors"]
    np.testing.assert_array_equal(np.load(folder / "item_factors.npz")["item_factors"], released)

    monkeypatch.setattr(budget_module, "release_second_moments", None)  # it must not be asked again
    again = run(folder, MOMENTS, resume=True)
    assert again["federated"] == summary["federated"]
    (folder / SECOND_MOMENTS.name).unlink()
    with pytest.raises(CheckpointError, match="expected the moments that were released"):
        run(folder, MOMENTS, resume=True)
