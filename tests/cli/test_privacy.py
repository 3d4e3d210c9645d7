import importlib.util
import json

import pytest

from fcf_jax import cli

CHECK = [
    "--sampling-probability",
    ".01",
    "--noise-multiplier",
    "1",
    "--num-rounds",
    "1000",
    "--delta",
    "1e-5",
]
SMALL = [
    "--set", "data.num_users=200", "--set", "data.num_items=40", "--set", "data.mean_history=8",
    "--set", "model.num_factors=4", "--set", "federation.num_rounds=6",
]  # fmt: skip


def run_json(capsys, *arguments):
    assert cli.main(["privacy", *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def test_known_answer_epsilon(capsys):
    document = run_json(capsys, "epsilon", *CHECK)
    assert document == {
        "epsilon_rdp": pytest.approx(2.101, abs=5e-4),
        "epsilon_pld": pytest.approx(1.828, abs=5e-4),
    }


def test_epsilon_for_people_and_of_everybody(capsys):
    assert cli.main(["privacy", "epsilon", *CHECK[2:]]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "(PLD)" in line and "add or remove one user" in line
    everybody = run_json(capsys, "epsilon", *CHECK[2:])
    assert everybody["epsilon_pld"] > 100


def test_without_noise_epsilon_is_null(capsys):
    document = run_json(capsys, "epsilon", "--noise-multiplier", "0", "--num-rounds", "1", "--delta", "1e-5")
    assert document == {"epsilon_rdp": None, "epsilon_pld": None}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["epsilon", *CHECK[2:], "--sampling-probability", "1.5"], "--sampling-probability"),
        (["epsilon", *CHECK[:6], "--delta", "2"], "delta"),
        (["epsilon", *CHECK[:2], "--noise-multiplier", "-1", *CHECK[4:]], "noise_multiplier"),
        (["epsilon", *CHECK[:4], "--num-rounds", "-1", *CHECK[6:]], "num_rounds"),
        (["epsilon", *CHECK[:4]], "num-rounds"),
        (["plan", "--set", "privacy.epsilon=0"], "privacy.epsilon"),
        (["plan", "--set", "privacy.mode=local_noise"], "central_noise"),
        (["plan", "--set", "federation.num_rounds=0"], "federation.num_rounds"),
        (["plan", "missing.toml"], "missing.toml"),
        ([], "command"),
    ],
)
def test_refuses_in_one_line(arguments, named, capsys):
    assert cli.main(["privacy", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") <= 1
    assert named in error or not arguments


def test_without_dp_accounting_the_remedy_is_told(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["privacy", "epsilon", *CHECK]) == 2
    assert "pip install 'fcf_jax[dp]'" in capsys.readouterr().err


def test_plan_for_the_data_of_a_configuration(capsys):
    document = run_json(capsys, "plan", *SMALL, "--set", "privacy.accountant=rdp")  # 10 times as quick
    assert (document["num_users"], document["num_items"], document["num_factors"]) == (200, 40, 4)
    assert document["delta"] == pytest.approx(1 / 2000)
    cohorts = {(one["sampling"], one["cohort_size"], one["num_rounds"]) for one in document["choices"]}
    assert {("everybody", 200, 2), ("everybody", 200, 6), ("poisson", 40, 6)} <= cohorts
    (configured,) = (one for one in document["choices"] if one["is_configured"])
    assert (configured["sampling"], configured["num_rounds"]) == ("everybody", 6)
    for one in document["choices"]:
        assert 0.99 * document["epsilon"] < one["epsilon"] <= document["epsilon"]
    assert document["best"] in document["choices"]
    assert document["verdict"].startswith("Best: all clients in ")


def test_plan_for_people(capsys):
    arguments = ["--set", "federation.cohort_size=50", "--set", "server.step=running_sums"]
    arguments += ["--set", "privacy.accountant=rdp"]
    assert cli.main(["privacy", "plan", *SMALL, *arguments]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "200 users, 40 items",
        "all clients",
        "Poisson, 40 of 200",
        "best",
        "shuffled",
        "Best:",
    ):
        assert expected in printed
