"""Which configurations no other beats, means over seeds, and what a sweep warns of."""

import math

import numpy as np
import pytest

from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.sweep.outcome import document_of, non_dominated
from fcf_jax.experiments.sweep.plan import Combination
from fcf_jax.experiments.sweep.runs import Prepared

CONFIG = load_config(None)


def dominated_by_definition(points):
    """A loop over all pairs, as the definition reads."""
    marks = []
    for one in points:
        beaten = False
        for other in points:
            if not np.isnan(other).any():
                beaten |= all(other <= one) and any(other < one)
        marks.append(not beaten and not np.isnan(one).any())
    return marks


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
@pytest.mark.parametrize("num_points", [1, 7, 40])
def test_marks_match_brute_force(num_points, num_objectives):
    rng = np.random.default_rng(num_points + num_objectives)
    points = rng.integers(0, 6, (num_points, num_objectives)).astype(float)  # with ties
    points[rng.random(points.shape) < 0.05] = np.nan
    points[rng.random(points.shape) < 0.05] = np.inf
    assert non_dominated(points).tolist() == dominated_by_definition(points)


def outcome(*runs):
    """Return the document of runs, each (values, MAP or None, costs)."""
    combinations = [Combination(place, values, CONFIG) for place, (values, *_) in enumerate(runs)]
    records = [
        {
            "run": place,
            "status": "diverged" if value is None else "finished",
            "reason": "diverged in round 3" if value is None else "",
            "metrics": {} if value is None else {"map_at_10": value, "loss": 1.0},
            "num_rounds": 3,
            **costs,
        }
        for place, (_, value, costs) in enumerate(runs)
    ]
    return document_of(Prepared(combinations, [], [], []), records, num_programs=1, seconds=2.0)


def test_seeds_are_averaged_and_the_best_comes_first():
    document = outcome(
        ({"model.alpha": 1.0, "federation.seed": 0}, 0.2, {"bytes_per_client": 10.0}),
        ({"model.alpha": 1.0, "federation.seed": 1}, 0.4, {"bytes_per_client": 10.0}),
        ({"model.alpha": 2.0, "federation.seed": 0}, 0.5, {"bytes_per_client": 30.0}),
        ({"model.alpha": 2.0, "federation.seed": 1}, 0.5, {"bytes_per_client": 30.0}),
        ({"model.alpha": 4.0, "federation.seed": 0}, 0.1, {"bytes_per_client": 20.0}),
        ({"model.alpha": 4.0, "federation.seed": 1}, 0.2, {"bytes_per_client": 20.0}),
    )
    configurations = document["configurations"]
    assert [one["values"] for one in configurations] == [{"model.alpha": alpha} for alpha in (2, 1, 4)]
    assert configurations[1]["metrics"]["map_at_10"] == pytest.approx({"mean": 0.3, "sd": math.sqrt(0.02)})
    assert [one["is_non_dominated"] for one in configurations] == [True, True, False]
    assert document["costs"] == ["bytes_per_client"]
    assert document["vary"] == {"model.alpha": [1, 2, 4], "federation.seed": [0, 1]}
    assert document["cautions"] == []


def test_runs_without_noise_cost_infinite_epsilon():
    same = {"bytes_per_client": 1.0}
    document = outcome(
        ({"privacy.mode": "plain"}, 0.5, same),
        ({"privacy.mode": "central_noise"}, 0.4, {**same, "epsilon": 2.0, "is_private": True}),
        ({"privacy.mode": "local_noise"}, 0.1, {**same, "epsilon": 3.0, "is_private": True}),
    )
    assert document["costs"] == ["epsilon"]
    assert [one["is_non_dominated"] for one in document["configurations"]] == [True, True, False]


def test_a_run_that_failed_is_a_row_and_its_configuration_is_never_marked():
    document = outcome(
        ({"server.learning_rate": 1.0, "data.seed": 0}, 0.9, {}),
        ({"server.learning_rate": 1.0, "data.seed": 1}, None, {}),
        ({"server.learning_rate": 0.1, "data.seed": 0}, 0.5, {}),
        ({"server.learning_rate": 0.1, "data.seed": 1}, 0.5, {}),
        ({"server.learning_rate": 9.0, "data.seed": 0}, None, {}),
        ({"server.learning_rate": 9.0, "data.seed": 1}, None, {}),
    )
    first, second, last = document["configurations"]
    assert (first["num_failed"], first["failures"]) == (1, ["diverged in round 3"])
    assert first["metrics"]["map_at_10"]["mean"] == 0.9 and last["metrics"] == {}
    assert [one["is_non_dominated"] for one in (first, second, last)] == [False, True, False]
    assert document["num_failed"] == 3
    assert document["cautions"][0] == "3 of 6 runs diverged: diverged in round 3"


def test_a_key_that_changes_nothing_is_a_caution():
    runs = [
        ({"server.b1": b1, "model.alpha": alpha}, alpha / 10, {}) for b1 in (0.1, 0.2) for alpha in (1.0, 2.0)
    ]
    expected = "server.b1 changed nothing: runs that differ in it alone have the same result"
    assert outcome(*runs)["cautions"] == [expected]
