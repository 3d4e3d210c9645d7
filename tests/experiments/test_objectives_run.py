"""Other objectives and biases from the command line: training, comparison with ALS, recommendations."""

import csv
import json

import numpy as np
import pytest

from fcf_jax import cli
from fcf_jax.experiments.store.run_directory import read_run

SETTINGS = [
    "data.num_users=120", "data.num_items=30", "data.mean_history=10", "model.num_factors=3",
    "federation.num_rounds=120", "evaluation.every=120", "evaluation.k=3", "model.unobserved_weight=0",
]  # fmt: skip
KINDS = {
    "logistic": ["model.objective=logistic", "model.alpha=0", "model.regularization=2", "model.biases=true"],
    "bpr": ["model.objective=bpr", "model.alpha=0", "model.regularization=1", "evaluation.baseline=false"],
    "biases": ["model.biases=true", "model.unobserved_weight=1"],
}
pytestmark = pytest.mark.usefixtures("all_undrawn")


def overrides(*settings):
    return [word for one in (*SETTINGS, *settings) for word in ("--set", one)]


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / request.param
    assert (
        cli.main(["run", "simulated", *overrides(*KINDS[request.param]), "--quiet", "--out", str(run)]) == 0
    )
    return run


def test_run_ranks_better_than_chance_and_reaches_the_loss_of_als(finished):
    summary = json.loads((finished / "summary.json").read_text())
    federated, central = summary["federated"], summary["centralized"]
    assert federated["auc"] > 0.6
    assert (central is None) == (finished.name == "bpr")
    if central is not None:
        assert federated["loss"] <= 1.005 * central["loss"]
    if finished.name != "biases":  # scores are no predictions of p
        assert federated["rmse"] is None and summary["popularity"]["loss"] is None
    columns = 3 + 2 * (finished.name != "bpr")
    assert summary["payload_bytes_down"] == 4 * 30 * columns
    assert read_run(finished).item_factors.shape == (30, columns)


def test_recommendations_leave_out_the_history_and_nothing_else(finished, tmp_path, capsys):
    assert cli.main(["recommend", str(finished), "--user", "5", "-n", "30"]) == 0
    items = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert len(set(items)) == len(items) > 10
    table = tmp_path / "all.csv"
    assert cli.main(["recommend", str(finished), "--all-users", "-n", "30", "--out", str(table)]) == 0
    capsys.readouterr()
    rows = csv.DictReader(table.read_text().splitlines())
    assert [row["item"] for row in rows if row["user"] == "5"] == items
    assert cli.main(["similar", str(finished), "--item", "5"]) == 0
    scores = [float(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()]
    assert np.abs(scores).max() <= 1 + 1e-6


def test_bpr_with_als_as_its_baseline_is_refused_with_a_remedy(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert cli.main(["run", "simulated", *overrides("model.objective=bpr"), *out]) == 2
    assert "evaluation.baseline: ALS cannot solve for pairs; set" in capsys.readouterr().err
