"""Audits by canaries: near the claim for the noise that is claimed, above it for half of that."""

import json

import pytest

from fcf_jax import cli
from fcf_jax.experiments.audit import auditing
from fcf_jax.experiments.audit.canaries import audit_canaries, refuse_unauditable
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError

TINY = [
    "data.num_users=60", "data.num_items=40", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=2", "server.step=running_sums", "server.confidence_factor=0",
    "privacy.mode=central_noise",
]  # fmt: skip
POISSON = ["server.step=adam", "federation.cohort_size=15", "federation.sampling=poisson"]


def problem_of(*overrides):
    config = load_config(None, [*TINY, *overrides])
    return resolve(config, load_dataset(config))


@pytest.fixture(scope="module")
def problem():
    return problem_of()


@pytest.fixture(scope="module")
def audited(problem):
    return audit_canaries(problem, num_worlds=150)


def test_bound_of_a_trained_run_is_above_half_of_the_claim_and_not_above_it(problem, audited):
    assert audited.epsilon_claimed == pytest.approx(10, rel=1e-3)
    assert 5 < audited.epsilon_low_gaussian <= audited.epsilon_claimed
    assert audited.epsilon_low <= audited.epsilon_claimed and not audited.exceeds_claim
    assert audited.signal == pytest.approx(1, abs=1e-3)  # the canary uses its whole clip norm
    assert audited.delta == problem.protection.delta


def test_half_the_noise_exceeds_the_claim(problem, audited):
    half = audit_canaries(
        problem, num_worlds=audited.num_worlds, actual_noise=problem.protection.noise_multiplier / 2
    )
    assert half.exceeds_claim and half.epsilon_low_gaussian > half.epsilon_claimed
    assert "EXCEEDS the 10" in half.sentence and "is within the 10" in audited.sentence


def test_command_reports_the_bound_beside_the_claim_and_fails_above_it(
    tmp_path, monkeypatch, capsys, audited
):
    found = audited._replace(epsilon_low_gaussian=11.0)
    monkeypatch.setattr(auditing, "audit_canaries", lambda problem, num_worlds: found)
    sets = [part for one in TINY for part in ("--set", one)]
    options = ["--canaries", "5", "--max-users", "5", "--require", "canaries.epsilon_low<=10"]
    assert cli.main(["audit", *sets, *options, "--out", str(tmp_path / "audit")]) == 1
    document = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert document["attacks"]["canaries"]["epsilon_low_gaussian"]["value"] == 11.0
    assert document["notes"][0] == found.sentence and found.sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["privacy.mode=plain"], "privacy.mode: --canaries"),
        (["privacy.mode=local_noise"], "privacy.mode: --canaries"),
        (["privacy.clipping=adaptive", "privacy.noise_multiplier=2"], "privacy.clipping: --canaries"),
        ([*POISSON[:2], "federation.sampling=independent"], "federation.sampling: --canaries"),
        (["federation.num_rounds=0"], "federation.num_rounds: --canaries"),
    ],
)
def test_what_canaries_cannot_judge_is_refused(overrides, word):
    with pytest.raises(ConfigError, match=word):
        refuse_unauditable(problem_of(*overrides))
