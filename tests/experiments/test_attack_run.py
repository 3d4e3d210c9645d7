"""Runs with malicious clients: what the summary says of them, and the ids of targets."""

import numpy as np
import pytest
from jax import numpy as jnp
from rich.console import Console

from fcf_jax.evaluation import exposure
from fcf_jax.experiments.build.attack import attackers_of
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.run import run_experiment
from fcf_jax.experiments.store.run_directory import METRICS, claimed, read_run

pytestmark = pytest.mark.usefixtures("all_undrawn")

ATTACKED = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=2", "evaluation.every=1", "evaluation.baseline=false",
    "attack.kind=explicit_boosting", "attack.share=0.1", "attack.num_targets=3",
]  # fmt: skip


def resolved(*overrides):
    config = load_config(None, [*ATTACKED, *overrides])
    return resolve(config, load_dataset(config))


@pytest.fixture(scope="module")
def defended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "defended"
    problem = resolved("attack.defence=consistency", "evaluation.federated=true")
    with ProgressLine(Console(), quiet=True) as progress, claimed(folder, problem.config, resume=False):
        return folder, problem, run_experiment(problem, folder, progress)


def test_summary_has_exposure_and_the_metrics_of_honest_users(defended):
    folder, problem, summary = defended
    found, attackers = summary["attack"], attackers_of(problem)
    assert found["num_malicious"] == np.sum(attackers.roles >= 0) == 6 and len(found["targets"]) == 3
    again = exposure(
        problem.model, jnp.asarray(read_run(folder).item_factors), problem.train, attackers.targets,
        users=attackers.is_honest,
    )  # fmt: skip
    assert {name: found[name] for name in again} == pytest.approx(again)
    assert set(found["honest"]) == set(summary["federated"]) - {"loss"}
    assert found["honest"]["map_at_10"] != summary["federated"]["map_at_10"]
    assert "ER@10 of the targets" in (folder / "report.html").read_text()


def test_sums_of_what_clients_measure_are_the_exact_metrics(defended):
    _, problem, summary = defended
    found = summary["federated_evaluation"]
    names = [f"{name}_at_10" for name in ("precision", "recall", "map", "ndcg", "hit_rate")]
    exact = {f"federated_{name}": summary["federated"][name] for name in names}
    has_test = np.sum(problem.dataset.split.test.history_lengths > 0)
    assert found == pytest.approx({**exact, "num_clients": has_test, "noise_std": 0}, abs=1e-12)


def test_the_check_drops_the_malicious_clients_alone(defended):
    rounds = [record for record in METRICS.read(defended[0]) if record["kind"] == "round"]
    assert [record["num_clients"] for record in rounds] == [54, 54]


def test_targets_are_named_by_their_ids_in_the_data():
    assert attackers_of(resolved("attack.targets=[7,2]")).targets.tolist() == [7, 2]
    with pytest.raises(ConfigError, match=r"attack.targets: expected ids .* got x, 30"):
        attackers_of(resolved('attack.targets=[7,"x",30]'))
