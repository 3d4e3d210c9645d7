"""Plans for a target epsilon: known answers, and what is noted."""

import math

import numpy as np
import pytest

from fcf_jax.experiments import privacy_plan
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.privacy_plan import HOPELESS, USABLE, plan_privacy, verdict

MOVIELENS = {"num_users": 6040, "num_items": 3706}
K16 = ["model.num_factors=16", "federation.num_rounds=4"]


@pytest.fixture
def plan_of(monkeypatch):
    """Plans for as many users and items as MovieLens-1M has; only with all clients, which takes no time."""
    monkeypatch.setattr(privacy_plan, "_SMALLEST_COHORT", 100_000)

    def plan(*overrides, **sizes):
        config = load_config(None, [*K16, *overrides])
        return plan_privacy(config, **MOVIELENS | sizes)

    return plan


def test_plan_keeps_a_noise_multiplier_of_its_own(plan_of):
    plan = plan_of("privacy.noise_multiplier=0.5")
    (configured,) = (one for one in plan.choices if one.is_configured)
    assert configured.noise_multiplier == 0.5
    assert configured.epsilon > plan.epsilon
    assert plan.best is not configured


def test_plan_marks_what_is_configured_where_it_is_a_candidate_already(plan_of):
    plan = plan_of()
    assert [one.num_rounds for one in plan.choices if one.is_configured] == [4]
    assert len(plan.choices) == 5
    assert {one.accountant for one in plan.choices} == {"pld"}
    assert all(0.99 * plan.epsilon < one.epsilon <= plan.epsilon for one in plan.choices)
    assert plan.delta == pytest.approx(1 / 60_400)


def test_plan_notes_a_cohort_of_fixed_size(plan_of):
    plan = plan_of("federation.cohort_size=600", "federation.sampling=independent")
    (configured,) = (one for one in plan.choices if one.is_configured)
    assert configured.accountant == "rdp"
    assert configured.averaged_noise_to_signal > plan.best.averaged_noise_to_signal
    assert any("replaced" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("epsilon", "num_factors", "head", "ratio", "outlook"),
    [
        (20, 32, 1.0, 0.0163, "usable"),  # no counts are released, as they were for the measurement
        (10, 32, 0.4, 0.01795, "usable"),
        (5, 32, 0.4, 0.0319, "usable"),
        (2, 32, 0.15, 0.0435, "in part"),
        (1, 16, 0.15, 0.0573, "in part"),
        (0.5, 16, 0.15, 0.108, "hopeless"),
    ],
)
def test_known_answer_ratios_of_movielens(plan_of, epsilon, num_factors, head, ratio, outlook):
    """The quality that goes with them was measured; see the module."""
    sizes = f"model.num_factors={num_factors}", f"privacy.head_items={head}"
    plan = plan_of(f"privacy.epsilon={epsilon}", *sizes)
    assert plan.best.averaged_noise_to_signal == pytest.approx(ratio, rel=0.01)  # three digits
    assert outlook in verdict(plan)
    assert plan.is_hopeless == (ratio > HOPELESS)
    assert (ratio <= USABLE) == (outlook == "usable")


def test_only_learned_items_count():
    overrides = [
        "model.num_factors=4", "federation.num_rounds=4", "server.step=running_sums",
        "server.confidence_factor=0", "privacy.mode=central_noise",
    ]  # fmt: skip
    whole, half = (
        plan_privacy(
            load_config(None, [*overrides, f"privacy.head_items={share}"]), num_users=80, num_items=100
        )
        for share in (1.0, 0.5)
    )
    ratio = half.best.noise_to_signal / whole.best.noise_to_signal
    assert ratio == pytest.approx(np.sqrt(0.5 / 0.97), rel=1e-3)  # half the numbers, 3 % for counts


def test_many_users_can_afford_more_rounds(plan_of):
    assert plan_of("privacy.epsilon=10", num_users=400_000).best.num_rounds > 4


def test_a_delta_that_protects_nobody_is_named(plan_of):
    assert any("protects nobody" in note for note in plan_of("privacy.delta=0.01").notes)
    assert math.isfinite(plan_of().best.epsilon)
