"""Runs that go on with more rounds or another evaluation: as an unbroken one, or refused with the reason."""

import json
import shutil

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.store import checkpoint
from fcf_jax.experiments.store.run_directory import BUDGET, CONFIG, METRICS, SUMMARY, read_run
from fcf_jax.privacy.accounting import Participation, epsilon

pytestmark = pytest.mark.usefixtures("all_undrawn")

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "evaluation.baseline=false", "federation.num_rounds=6",
]  # fmt: skip
NOISY = ["privacy.mode=central_noise", "server.step=gram", "server.confidence_factor=0"]


def run(folder, *overrides):
    settings = [part for one in [*TINY, *overrides] for part in ("--set", one)]
    assert cli.main(["run", "--quiet", "--out", str(folder), *settings]) == 0
    return folder


def go_on(folder, *overrides):
    settings = [part for one in overrides for part in ("--set", one)]
    return cli.main(["run", "--resume", "--out", str(folder), *settings])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_longer_training_ends_as_an_unbroken_one(copy, tmp_path, capsys):
    unbroken = run(tmp_path / "unbroken", "federation.num_rounds=12")
    assert go_on(copy, "federation.num_rounds=12") == 0
    assert "resuming after 6 of 12 rounds" in capsys.readouterr().out
    assert read_run(copy).item_factors.tobytes() == read_run(unbroken).item_factors.tobytes()
    losses = [
        [one["loss"] for one in METRICS.read(each) if one["kind"] == "round"] for each in (copy, unbroken)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    summary = SUMMARY.read(copy)
    assert summary["federated"] == SUMMARY.read(unbroken)["federated"]
    assert (summary["num_rounds"], summary["resumed_from_rounds"]) == (12, [6])
    assert go_on(copy) == 0  # its configuration is the longer one now
    assert "nothing left to do" in capsys.readouterr().out


def test_another_evaluation_of_a_finished_run_trains_nothing(copy, finished, capsys):
    assert go_on(copy, "evaluation.k=5", "evaluation.every=2", "evaluation.baseline=true") == 0
    assert read_run(copy).item_factors.tobytes() == read_run(finished).item_factors.tobytes()
    summary, earlier = SUMMARY.read(copy), SUMMARY.read(finished)
    assert "map_at_5" in summary["federated"] and "map_at_10" not in summary["federated"]
    assert summary["federated"]["loss"] == pytest.approx(earlier["federated"]["loss"], rel=1e-6)
    assert summary["centralized"]["loss"] <= 1.01 * summary["federated"]["loss"]
    evaluations = [one for one in METRICS.read(copy) if one["kind"] == "evaluation"]
    assert not any("map_at_10" in one for one in evaluations)


def test_a_checkpoint_that_is_refused_leaves_the_run_as_it_was(copy, monkeypatch, capsys):
    def content():
        return {
            path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"
        }

    before = content()
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    assert go_on(copy, "federation.num_rounds=12", "evaluation.k=5") == 2
    assert "expected a checkpoint of format 3, got one of 2" in capsys.readouterr().err
    assert content() == before


@pytest.mark.parametrize(
    ("begun_with", "changed", "named"),
    [
        ([], "federation.num_rounds=5", "federation.num_rounds is 5, was 6: a run can only be made longer"),
        ([], "model.alpha=2.0", "model.alpha is 2.0, was 4.0"),
        (
            ["server.step=adam", "server.decay=cosine"],
            "federation.num_rounds=9",
            "is 9, was 6: server.decay is",
        ),
        (
            ["devices.bandwidth=1e6", "devices.concurrency=9", "federation.cohort_size=5"],
            "federation.num_rounds=9",
            "is 9, was 6: the sums that wait for the steps of asynchronous rounds",
        ),
        (
            NOISY,
            "federation.num_rounds=9",
            "is 9, was 6: the noise was calibrated so that the first number spends",
        ),
    ],
)
def test_what_a_run_cannot_go_on_with_names_key_and_values(begun_with, changed, named, tmp_path, capsys):
    CONFIG.write(tmp_path, load_config(None, [*TINY, *begun_with]).to_dict())
    before = (tmp_path / CONFIG.name).read_bytes()
    assert go_on(tmp_path, changed) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG.name]
    assert (tmp_path / CONFIG.name).read_bytes() == before


def test_a_finished_run_without_checkpoint_says_how_to_start_from_it(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    assert go_on(copy, "federation.num_rounds=9") == 2
    assert f"got none; begin a new run, with server.initial_item_factors={copy}" in capsys.readouterr().err
    assert SUMMARY.is_in(copy)


def test_under_noise_of_a_fixed_size_epsilon_is_that_of_all_rounds(tmp_path):
    folder = run(tmp_path / "noisy", *NOISY, "privacy.noise_multiplier=8.0", "federation.num_rounds=2")
    assert go_on(folder, "federation.num_rounds=5") == 0
    statement = json.loads((folder / BUDGET.name).read_text())
    who = Participation("everybody", 60, 60)
    expected = epsilon(who, noise_multiplier=8.0, num_rounds=5, delta=1 / 600)
    assert statement["epsilon"] == pytest.approx(expected, rel=1e-3)
    assert statement["rounds_charged"] == statement["num_rounds_allowed"] == 5
    assert np.isfinite(read_run(folder).item_factors).all()
