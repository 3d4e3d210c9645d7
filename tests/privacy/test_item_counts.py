"""Item counts released with noise: how they are drawn, what they cost, and the weights made of them."""

import jax
import numpy as np
import pytest

from fcf_jax.data import Interactions, simulate_taste
from fcf_jax.privacy.accounting import (
    Participation,
    calibrated_noise_multiplier,
    epsilon,
    single_noise_multiplier,
)
from fcf_jax.privacy.item_counts import clipped_item_counts, item_weights, noisy_item_counts

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def histories():
    return simulate_taste(num_users=300, num_items=40, mean_history=10, seed=2)


def test_clipped_counts_are_the_counts_of_short_histories(histories):
    np.testing.assert_allclose(clipped_item_counts(histories, clip_norm=100.0), histories.item_counts)


def test_one_user_moves_the_counts_by_the_clip_norm_at_most(histories):
    matrix = histories.to_scipy()
    longest = int(np.argmax(histories.history_lengths))
    others = Interactions.from_scipy(matrix[np.arange(300) != longest])
    moved = clipped_item_counts(histories, clip_norm=2.0) - clipped_item_counts(others, clip_norm=2.0)
    assert histories.history_lengths[longest] > 4
    assert np.linalg.norm(moved) == pytest.approx(2.0)


def test_noise_of_counts_has_its_size_and_counts_are_on_a_grid(histories):
    options = {"clip_norm": 2.0, "noise_multiplier": 3.0}
    silent = clipped_item_counts(histories, clip_norm=2.0)
    drawn = [noisy_item_counts(jax.random.fold_in(KEY, draw), histories, **options) for draw in range(50)]
    assert np.std(np.array(drawn) - silent) == pytest.approx(6.0, rel=0.06)  # 2000 draws: 1.6 %, three times
    in_steps = np.array(drawn) / 2.0**-8  # the power of two below 6 / 1024
    np.testing.assert_array_equal(in_steps, np.round(in_steps))


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, np.nan, np.inf, 1e6])
def test_counts_without_noise_or_with_noise_that_cannot_be_drawn_are_refused(histories, noise_multiplier):
    with pytest.raises(ValueError, match="noise_multiplier above 0"):
        noisy_item_counts(KEY, histories, clip_norm=2.0, noise_multiplier=noise_multiplier)


def test_weights_take_the_head_and_keep_the_scale_of_norms():
    counts = np.array([5.0, 80.0, 20.0, -3.0, 40.0, 1.0])
    head = item_weights(counts, head_share=0.5)
    np.testing.assert_array_equal(head, [0, 1, 1, 0, 1, 0])
    weighted = item_weights(counts, head_share=0.5, power=1.0)
    assert weighted[2] > weighted[4] > weighted[1] > 0 == weighted[0]
    assert np.mean(weighted[[1, 2, 4]] ** 2) == pytest.approx(1)
    with pytest.raises(ValueError, match="head_share"):
        item_weights(counts, head_share=0.0)


def test_counts_of_everybody_cost_as_much_as_a_round_with_that_noise():
    with_counts, run = Participation("everybody", 50, 50, 2.0), {"noise_multiplier": 2.0, "delta": 1e-4}
    without = Participation("everybody", 50, 50)
    assert epsilon(with_counts, num_rounds=3, **run) == pytest.approx(epsilon(without, num_rounds=4, **run))
    assert epsilon(with_counts, num_rounds=0, **run) == pytest.approx(epsilon(without, num_rounds=1, **run))
    assert single_noise_multiplier(epsilon(without, num_rounds=1, **run), delta=1e-4) == pytest.approx(2.0)


@pytest.mark.parametrize("sampling", ["poisson", "fixed_size"])
def test_calibration_leaves_room_for_the_counts(sampling):
    target = {"epsilon": 4.0, "delta": 1e-4, "num_rounds": 20, "accountant": "rdp"}
    who = Participation(sampling, 1000, 200, 6.0)
    noise = calibrated_noise_multiplier(who, **target)
    spent, without_counts = (
        epsilon(one, noise_multiplier=noise, num_rounds=20, delta=1e-4, accountant="rdp")
        for one in (who, who._replace(count_noise_multiplier=None))
    )
    assert without_counts < 0.99 * 4 <= spent <= 4


def test_counts_that_cost_all_are_refused():
    with pytest.raises(ValueError, match="item counts or an evaluation with a noise multiplier"):
        calibrated_noise_multiplier(
            Participation("everybody", 50, 50, 0.1), epsilon=1.0, delta=1e-4, num_rounds=2
        )


def test_counts_beyond_the_target_by_rdp_are_refused():
    with pytest.raises(ValueError, match="item counts"):
        calibrated_noise_multiplier(
            Participation("fixed_size", 1000, 200, 0.2), epsilon=1.0, delta=1e-4, num_rounds=2
        )
