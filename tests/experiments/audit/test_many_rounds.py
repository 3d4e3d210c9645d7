"""Attacks on all planned rounds: on their sums, for Y as it was drawn, and on the model they end with."""

import numpy as np
import pytest

from fcf_jax.experiments.audit.many_rounds import late_rounds, many_rounds
from fcf_jax.experiments.audit.scene import Scene
from fcf_jax.experiments.audit.shadows import membership
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.privacy.attacks.knowledge import Public

OVERRIDES = [
    "data.num_users=60", "data.num_items=40", "data.mean_history=8", "model.num_factors=4",
    "privacy.mode=secure_sum", "federation.cohort_size=20", "server.step=running_sums",
]  # fmt: skip


def scene(*overrides):
    config = load_config(None, [*OVERRIDES, *overrides])
    problem = resolve(config, load_dataset(config))
    public = Public(np.asarray(problem.first_item_factors(), np.float64), 1.0, 1.0, 4.0)
    return Scene(problem, problem.train, public, np.arange(50))


@pytest.mark.parametrize(
    ("overrides", "exact"),
    [
        (["server.confidences=each_round"], 1.0),
        ([], 0.0),  # sent once
        (["server.confidence_factor=0", "server.confidences=each_round"], 0.0),  # never sent
        (["server.confidences=each_round", "federation.num_rounds=3"], 0.0),
    ],
)
def test_only_confidences_of_many_rounds_give_histories(overrides, exact):
    found = many_rounds(scene("federation.num_rounds=90", *overrides))
    assert found["exact_set_rate"].value == exact
    assert exact or not found["recall"].value > 0.3


@pytest.mark.parametrize("step", ["running_sums", "adam"])
def test_uploads_at_one_model_give_histories_only_over_many_rounds(step):
    many, few = (
        late_rounds(scene(f"server.step={step}", f"federation.num_rounds={rounds}")) for rounds in (90, 3)
    )
    assert many["recall"].value > 0.95 and many["auc"].value > 0.95
    assert few["recall"].value < 0.7 and few["auc"].value < 0.75


def test_published_model_tells_who_took_part():
    everybody = ["federation.cohort_size=60", "federation.num_rounds=6", "model.regularization=0.1"]
    found = membership(scene(*everybody), num_models=8)
    assert found["auc"].low > 0.6 and found["auc_ceiling"].value == 1.0
