"""Runs under noise: their budget, and what is refused."""

import hashlib
import json
import math

import numpy as np
import pytest
from rich.console import Console

from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.protection import protection_of
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report.wording import privacy_note
from fcf_jax.experiments.run import run_experiment
from fcf_jax.experiments.store.run_directory import BUDGET, METRICS, claimed
from fcf_jax.privacy.accounting import Participation, epsilon

pytestmark = pytest.mark.usefixtures("all_undrawn")

NOISY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=4", "evaluation.every=2", "evaluation.baseline=false",
    "server.step=gram", "server.confidence_factor=0", "server.learning_rate=0.3",
    "privacy.mode=central_noise",
]  # fmt: skip
SAMPLED = ["federation.cohort_size=20", "federation.sampling=poisson", "server.step=adam"]


def run(folder, *overrides, resume=False):
    config = load_config(None, [*NOISY, *overrides])
    with ProgressLine(Console(), quiet=True) as progress, claimed(folder, config, resume=resume):
        return run_experiment(resolve(config, load_dataset(config)), folder, progress, resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "noisy"
    return folder, run(folder)


def test_statement_says_what_was_spent(finished):
    folder, summary = finished
    statement = json.loads((folder / BUDGET.name).read_text())
    assert statement["epsilon"] == pytest.approx(10, rel=1e-2) and statement["epsilon"] <= 10
    assert statement["delta"] == 1 / 600
    assert statement["rounds_charged"] == statement["num_rounds_allowed"] == 4
    assert statement["is_private"] and statement["adjacency"] == "add or remove one user"
    assert summary["privacy"] == statement


def test_what_is_promised_is_told():
    assert "not private" in privacy_note(None) and "not private" in privacy_note({})
    statement = {"epsilon": 3.0, "delta": 1e-5, "unit": "one user", "adjacency": "add or remove one user"}
    assert "epsilon 3 at delta 1e-05" in privacy_note({"privacy": {**statement, "is_private": True}})
    assert "NOT PRIVATE" in privacy_note({"privacy": {**statement, "is_private": False}})
    for spent in (1e6, None):  # None: infinite
        in_name_only = {**statement, "is_private": True, "epsilon": spent}
        assert "NOT PRIVATE" in privacy_note({"privacy": in_name_only})


def test_epsilon_is_in_the_records_and_grows(finished):
    folder, _ = finished
    records = METRICS.read(folder)
    spent = {one["round"]: one["epsilon"] for one in records if one["kind"] == "evaluation"}
    assert list(spent) == [0, 1, 2, 4] and 0 == spent[0] < spent[1] < spent[2] < spent[4] <= 10
    of_two = epsilon(
        Participation("everybody", 60, 60), num_rounds=2, delta=1 / 600,
        noise_multiplier=protection_of(load_config(None, NOISY), num_users=60).noise_multiplier,
    )  # fmt: skip
    assert spent[2] == pytest.approx(of_two, rel=1e-6)


def test_noise_comes_from_the_system_unless_a_seed_is_set_and_that_is_not_private(finished, tmp_path):
    _, summary = finished
    again = run(tmp_path / "again")
    assert again["federated"]["loss"] != summary["federated"]["loss"]
    evaluated = "evaluation.federated=true", "privacy.evaluation_share=0.1"
    summary = run(tmp_path / "fixed", "privacy.seed=1", *evaluated)
    fixed, found = summary["privacy"], summary["federated_evaluation"]
    assert not fixed["is_private"] and "NOT PRIVATE" in str(fixed["caveats"])
    noise = fixed["evaluation_noise_multiplier"]
    together = 1 / math.sqrt(4 / fixed["noise_multiplier"] ** 2 + 1 / noise**2)
    spent = epsilon(
        Participation("everybody", 60, 60), num_rounds=1, delta=1 / 600, noise_multiplier=together
    )
    assert fixed["epsilon"] == pytest.approx(spent, rel=1e-6) and spent == pytest.approx(10, rel=1e-2)
    assert found["noise_std"] == pytest.approx(noise * math.sqrt(6))  # a count and five metrics
    assert found["federated_map_at_10"] != summary["federated"]["map_at_10"]


@pytest.mark.parametrize("noise_multiplier", [0.05, 1e-12])  # epsilon in the hundreds, and infinite
def test_noise_in_name_only_is_labelled_not_private(tmp_path, noise_multiplier):
    run(tmp_path / "run", f"privacy.noise_multiplier={noise_multiplier}", "federation.num_rounds=1")
    statement = json.loads((tmp_path / "run" / BUDGET.name).read_text())
    assert not statement["is_private"] and "NOT PRIVATE" in statement["caveats"][-1]
    assert statement["epsilon"] is None or statement["epsilon"] > 100
    assert "NOT PRIVATE" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("mode", "overrides", "sampling"),
    [
        ("local_noise", [], "everybody"),
        ("distributed_noise", [*SAMPLED, "privacy.clipping=adaptive"], "poisson"),
    ],
)
def test_other_noise_modes_train(tmp_path, mode, overrides, sampling):
    noise = [f"privacy.mode={mode}", "privacy.noise_multiplier=0.5"]
    summary = run(tmp_path / "run", *overrides, *noise, "federation.num_rounds=2", "evaluation.every=1")
    assert summary["federated"]["map_at_10"] >= 0
    assert summary["privacy"]["sampling"] == sampling


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["server.step=guarded_gram"], "server.step"),
        ([*SAMPLED, "federation.sampling=shuffled"], "poisson"),
        (["privacy.mode=local_noise", "privacy.clipping=adaptive"], "privacy.clipping"),
        (["privacy.clipping=adaptive", "privacy.noise_multiplier=6.0"], "privacy.clipping"),
    ],
)
def test_what_no_accountant_counts_is_refused(overrides, word):
    with pytest.raises(ConfigError, match=word):
        load_dataset(load_config(None, [*NOISY, *overrides]))


def test_trainings_that_only_measure_need_a_fixed_seed():
    with pytest.raises(ConfigError, match=r"privacy\.seed"):
        check(load_config(None, NOISY), "compare")
    check(load_config(None, [*NOISY, "privacy.seed=0"]), "compare")


def test_checkpoints_keep_nothing_that_has_no_noise(finished):
    """Neither a score by un-noised MAP, by which one would be chosen, nor an open digest of the data."""
    folder, _ = finished
    headers = []
    for path in sorted((folder / "checkpoints").glob("*.npz")):
        with np.load(path) as archive:
            headers.append(json.loads(archive["header"].tobytes()))
    assert headers and all(header["score"] is None for header in headers)
    assert [header["done"] for header in headers] == [2, 4]  # the latest, not the best
    split = load_dataset(load_config(None, NOISY)).split
    digests = [None if part is None else part.fingerprint() for part in (split.train, None, split.test)]
    unsalted = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    salt = json.loads((folder / "checkpoint_salt.json").read_text())["salt"]
    salted = hashlib.sha256(json.dumps([*digests, salt]).encode()).hexdigest()
    assert {header["fingerprints"]["data"] for header in headers} == {salted} != {unsalted}
