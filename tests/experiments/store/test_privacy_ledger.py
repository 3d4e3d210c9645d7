"""The ledger of runs on the same users: what all cost together, charged before anything is released."""

import json
from pathlib import Path

import pytest
from experiments.store.test_budget import NOISY, problem_of

from fcf_jax.experiments.errors import ConfigError, DamagedFileError
from fcf_jax.experiments.store import budget as budget_module
from fcf_jax.experiments.store.budget import budget_of, open_budget
from fcf_jax.experiments.store.privacy_ledger import charge_ledger, entry_of, total_epsilon
from fcf_jax.experiments.store.run_directory import BUDGET
from fcf_jax.privacy.accounting import Participation, epsilon
from fcf_jax.privacy.composition import Release, composed_epsilon

EVERYBODY, POISSON = Participation("everybody", 60, 60), Participation("poisson", 60, 6)
FIXED = Participation("fixed_size", 60, 6)
DELTA = 1 / 600


def entry(run, *, num_rounds=4, who=EVERYBODY, noise_multiplier=5.0):
    release = Release(who, noise_multiplier, num_rounds)
    return entry_of(run, Path("runs"), release, epsilon=1.0, delta=DELTA)


def known_epsilon(who, num_rounds, accountant="pld"):
    return epsilon(who, noise_multiplier=5.0, num_rounds=num_rounds, delta=DELTA, accountant=accountant)


@pytest.mark.parametrize(
    ("who", "accountant", "tolerance"),
    [
        (EVERYBODY, "pld", 1e-9),
        (EVERYBODY._replace(count_noise_multiplier=9.0), "pld", 1e-9),
        (POISSON, "pld", 0.01),
        (FIXED, "rdp", 1e-6),
    ],
)
def test_two_runs_cost_as_much_as_one_with_the_rounds_of_both(who, accountant, tolerance):
    releases = [Release(who, 5.0, 3), Release(who._replace(count_noise_multiplier=None), 5.0, 4)]
    expected = known_epsilon(who, 7, accountant)
    assert composed_epsilon(releases, delta=DELTA) == pytest.approx(expected, rel=tolerance)


def test_mixed_mechanisms_cost_between_the_dearest_and_the_sum():
    alone = known_epsilon(EVERYBODY, 4), known_epsilon(POISSON, 50)
    both = composed_epsilon([Release(EVERYBODY, 5.0, 4), Release(POISSON, 5.0, 50)], delta=DELTA)
    assert max(alone) < both < sum(alone)


def test_epsilons_of_unknown_mechanisms_are_added_and_their_deltas_taken_off():
    by_hand = {"run": "by hand", "epsilon": 0.5, "delta": DELTA / 2}
    expected = 0.5 + epsilon(EVERYBODY, noise_multiplier=5.0, num_rounds=4, delta=DELTA / 2)
    assert total_epsilon([entry("a"), by_hand], delta=DELTA) == pytest.approx(expected)
    assert total_epsilon([entry("a"), {**by_hand, "delta": DELTA}], delta=DELTA) == float("inf")
    assert total_epsilon([{**by_hand, "epsilon": None}], delta=DELTA) == float("inf")


def test_runs_with_different_neighbors_are_refused_and_those_without_noise_cost_everything():
    with pytest.raises(ValueError, match="same neighbors"):
        composed_epsilon([Release(EVERYBODY, 5.0, 4), Release(FIXED, 5.0, 4)], delta=DELTA)
    assert composed_epsilon([Release(EVERYBODY, 0.0, 4)], delta=DELTA) == float("inf")
    assert composed_epsilon([], delta=DELTA) == 0.0


def test_a_run_that_would_exceed_the_limit_is_refused_and_leaves_the_ledger(tmp_path):
    path = tmp_path / "ledger.json"
    first = charge_ledger(path, entry("a"), limit=None)
    both = charge_ledger(path, entry("b"), limit=2 * first)
    assert first < both < 2 * first
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"privacy\.ledger_epsilon: expected at most .*{path.name} holds"):
        charge_ledger(path, entry("c"), limit=both)
    assert path.read_bytes() == before
    assert charge_ledger(path, entry("b"), limit=both) == both  # the same run again: not a new one
    assert json.loads(path.read_text())["num_runs"] == 2


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"entries": [{"run": "a"}]}', '{"entries": [{"run": "a", "epsilon": -1, "delta": 0.1}]}',
        json.dumps({"entries": [entry("a", num_rounds=10**9)]}),
    ],
)  # fmt: skip
def test_damaged_ledgers_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match=r"ledger\.json: expected an intact file") as error:
        charge_ledger(path, entry("b"), limit=None)
    assert "\n" not in str(error.value) and path.read_text() == content


def test_a_run_is_in_the_ledger_before_its_rounds_and_once_however_often_it_is_killed(tmp_path, monkeypatch):
    path = tmp_path / "ledger.json"
    problem = problem_of([*NOISY, f"privacy.ledger={path}", "privacy.ledger_epsilon=15"])
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(budget_module, "charge_ledger", None)
        with pytest.raises(TypeError):  # between the name of the entry and the entry
            open_budget(problem, one)
    open_budget(problem, one)
    open_budget(problem, one).charge(2)
    ledger = json.loads(path.read_text())
    assert ledger["num_runs"] == 1 and ledger["entries"][0]["mechanism"]["num_rounds"] == 4
    assert 9.9 < ledger["epsilon"] <= 10
    stated = BUDGET.read(one)
    assert stated["rounds_charged"] == 2 and stated["ledger"]["epsilon"] == ledger["epsilon"]
    assert "the ledger counts" in str(stated["caveats"])
    with pytest.raises(ConfigError, match=r"privacy\.ledger_epsilon"):
        open_budget(problem, other)
    assert budget_of(problem, other).rounds_spent() == 0
