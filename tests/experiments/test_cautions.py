"""Cautions: which strengths and results call for one."""

import numpy as np
import pytest

from fcf_jax.data import Interactions, simulate_taste
from fcf_jax.experiments.cautions import (
    caution_of_secure_sums,
    caution_of_start,
    caution_of_strengths,
    cautions,
    cautions_of_ranking,
    cautions_of_rating,
)
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.schema import DataConfig

RNG = np.random.default_rng(0)
COUNTS = simulate_taste(num_users=100, num_items=50, mean_history=10, seed=0).strengths[:1000]


def interactions(strengths):
    users, items = np.divmod(np.arange(len(strengths)), 10)
    return Interactions.from_arrays(users, items, strengths, num_users=int(users.max()) + 1, num_items=10)


@pytest.mark.parametrize(
    ("strengths", "is_heavy"),
    [
        (COUNTS, False),
        (1e6 * COUNTS, False),
        (1 + RNG.integers(0, 5, 1000), False),
        (np.ones(8), False),
        (RNG.lognormal(5, 1.5, 1000), True),  # as play counts: median 148, mean 457
        (np.r_[COUNTS, 1e4], True),
        (RNG.zipf(2.0, 1000), True),
    ],
)
def test_heavy_tails_are_told_from_counts_and_ratings_of_any_scale(strengths, is_heavy):
    train = interactions(np.asarray(strengths, np.float64))
    caution = caution_of_strengths(DataConfig(), train)
    assert (caution is not None) == is_heavy
    assert not is_heavy or caution.endswith("try data.strengths=log")
    for other in ({"strengths": "log"}, {"strengths": "binary"}, {"feedback": "explicit"}):
        assert caution_of_strengths(DataConfig(**other), train) is None


def test_only_the_side_below_popularity_is_named_with_its_metrics():
    names = [f"{name}_at_5" for name in ("precision", "recall", "map", "ndcg")]
    floor = dict.fromkeys(names, 0.2)
    sides = {"federated": {**floor, "map_at_5": 0.1999}, "centralized": {**floor, "ndcg_at_5": 0.19999}}
    (caution,) = cautions_of_ranking(sides, floor, k=5, remedy="do this")
    assert caution == "the federation ranks below popularity (map@5 0.1999 against 0.2000); do this"
    assert cautions_of_ranking({**sides, "federated": None}, floor, k=5, remedy="") == []


@pytest.mark.parametrize(("objective", "remedy"), [("squared", "fcf tune"), ("logistic", "num_negatives")])
def test_remedy_is_one_that_the_objective_has(objective, remedy):
    floor = {f"{name}_at_10": 0.2 for name in ("precision", "recall", "map", "ndcg")}
    config = load_config(None, [f"model.objective={objective}", "model.unobserved_weight=0"])
    below = {"federated": {**floor, "map_at_10": 0.1}}
    (caution,) = cautions(config, interactions(np.ones(8)), below, floor)
    assert remedy in caution


def test_ratings_are_held_against_offsets():
    sides = {"federated": {"rmse": 0.9}, "centralized": {"rmse": 1.1}}
    (caution,) = cautions_of_rating(sides, 1.0)
    assert caution.startswith("ALS predicts ratings worse than user and item offsets alone (RMSE 1.1000 ")


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ([], "uploads"),
        (["server.confidences=each_round"], "confidences"),
        (["server.confidences=each_round", "server.confidence_factor=0"], "uploads"),
        (["server.step=adam"], "uploads"),
        (["federation.num_rounds=1"], None),
        (["privacy.mode=plain"], None),
    ],
)
def test_secure_sums_over_cohorts_are_warned_of_what_hardly_moves(overrides, word):
    cohorts = ["privacy.mode=secure_sum", "federation.cohort_size=100", "server.step=running_sums"]
    caution = caution_of_secure_sums(load_config(None, cohorts + overrides))
    assert (caution is None) == (word is None)
    assert word is None or f"sums of {word}" in caution


def test_secure_sums_of_everybody_are_equal_and_not_warned_of():
    config = load_config(None, ["privacy.mode=secure_sum", "server.step=running_sums"])
    assert config.federation.cohort_size is None and caution_of_secure_sums(config) is None


def test_a_warm_start_under_noise_is_not_in_epsilon():
    start, noise = (
        "server.initial_item_factors=runs/first",
        ["privacy.mode=central_noise", "server.step=gram"],
    )
    assert caution_of_start(load_config(None, [start])) is caution_of_start(load_config(None, noise)) is None
    assert "server.initial_item_factors" in caution_of_start(load_config(None, [start, *noise]))
