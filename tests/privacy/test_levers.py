"""What makes the same privacy cheaper: items of the head alone, item weights, capped histories."""

import jax
import numpy as np
import optax
import pytest
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.privacy.mechanism import add_noise, gaussian_mechanism
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.records import CohortSum, SentNorms
from fcf_jax.data import Interactions, simulate_taste
from fcf_jax.data.split import cap_histories
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.plan import plan_privacy
from fcf_jax.privacy.accounting import (
    Participation,
    calibrated_noise_multiplier,
    epsilon,
    single_noise_multiplier,
)
from fcf_jax.privacy.item_counts import item_weights, noisy_item_counts

KEY = jax.random.key(5)
MODEL = {"num_items": 17, "num_factors": NUM_FACTORS, "regularization": REGULARIZATION}
WEIGHTS = np.random.default_rng(0).uniform(0.2, 2.0, 17).astype(np.float32) * (np.arange(17) % 3 > 0)
HEAD = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=4", "evaluation.every=2", "evaluation.baseline=false", "server.step=running_sums",
    "server.confidence_factor=0", "privacy.mode=central_noise", "privacy.head_items=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def histories():
    return simulate_taste(num_users=300, num_items=40, mean_history=10, seed=2)


def test_limit_of_equal_weights_recovers_none(small):
    def trained(weights):
        clip_norms = SentNorms(2.0, None, None, None)
        mechanism = gaussian_mechanism(
            clip_norms=clip_norms, noise_multiplier=0.3, expected_cohort_size=13, item_weights=weights
        )
        weighting = implicit_feedback(alpha=ALPHA)
        one = federated_cf(optax.sgd(1e-3), weighting, mechanism=mechanism, **MODEL)
        return run_rounds(one, KEY, one.init(KEY), small.clients, num_rounds=3)[0].item_factors

    np.testing.assert_allclose(trained(jnp.ones(17)), trained(None), rtol=1e-5, atol=1e-6)  # other fusion


def test_items_of_weight_zero_are_neither_sent_nor_learned(small):
    mechanism = gaussian_mechanism(
        clip_norms=SentNorms(2.0, None, None, None), noise_multiplier=1.0, expected_cohort_size=13,
        item_weights=jnp.asarray(WEIGHTS),
    )  # fmt: skip
    one = federated_cf(optax.sgd(1e-3), implicit_feedback(alpha=ALPHA), mechanism=mechanism, **MODEL)
    state, _ = run_rounds(one, KEY, one.init(KEY), small.clients, num_rounds=3)
    is_zero = np.all(np.asarray(state.item_factors) == 0, axis=1)
    np.testing.assert_array_equal(is_zero, WEIGHTS == 0)


def test_noise_of_an_item_is_inverse_to_its_weight():
    weights, zeros = np.array([0.0, 0.5, 2.0], np.float32), jnp.zeros((3, 4000))
    nothing = CohortSum(zeros, jnp.zeros((2, 2)), jnp.zeros(3), jnp.zeros(()), jnp.ones(()), jnp.zeros(()))
    norms = SentNorms(3.0, None, None, None)
    noised = add_noise(KEY, nothing, norms, noise_multiplier=2.0, item_weights=jnp.asarray(weights))
    expected = [0.0, 6.0 / 0.5, 6.0 / 2.0]
    np.testing.assert_allclose(np.std(noised.upload, axis=1), expected, rtol=0.05)  # 4000 draws: 1.1 %


def test_counts_without_noise_are_the_counts_of_short_histories(histories):
    counts = noisy_item_counts(KEY, histories, clip_norm=100.0, noise_multiplier=0.0)
    np.testing.assert_allclose(counts, histories.item_counts)


def test_one_user_moves_the_counts_by_the_clip_norm_at_most(histories):
    matrix = histories.to_scipy()
    longest = int(np.argmax(histories.history_lengths))
    others = Interactions.from_scipy(matrix[np.arange(300) != longest])
    options = {"clip_norm": 2.0, "noise_multiplier": 0.0}
    moved = noisy_item_counts(KEY, histories, **options) - noisy_item_counts(KEY, others, **options)
    assert histories.history_lengths[longest] > 4
    assert np.linalg.norm(moved) == pytest.approx(2.0)


def test_noise_of_counts_has_its_size(histories):
    options = {"clip_norm": 2.0, "noise_multiplier": 3.0}
    silent = noisy_item_counts(KEY, histories, clip_norm=2.0, noise_multiplier=0.0)
    drawn = [
        noisy_item_counts(jax.random.fold_in(KEY, draw), histories, **options) - silent for draw in range(50)
    ]
    assert np.std(drawn) == pytest.approx(6.0, rel=0.06)  # 2000 draws: 1.6 %, three times


def test_weights_take_the_head_and_keep_the_scale_of_norms():
    counts = np.array([5.0, 80.0, 20.0, -3.0, 40.0, 1.0])
    head = item_weights(counts, head_share=0.5)
    np.testing.assert_array_equal(head, [0, 1, 1, 0, 1, 0])
    weighted = item_weights(counts, head_share=0.5, power=1.0)
    assert weighted[2] > weighted[4] > weighted[1] > 0 == weighted[0]
    assert np.mean(weighted[[1, 2, 4]] ** 2) == pytest.approx(1)
    with pytest.raises(ValueError, match="head_share"):
        item_weights(counts, head_share=0.0)


def test_capped_histories_are_parts_of_the_whole_ones(histories):
    capped = cap_histories(histories, max_user_items=6, seed=1)
    np.testing.assert_array_equal(capped.history_lengths, np.minimum(histories.history_lengths, 6))
    assert (capped.to_scipy() - histories.to_scipy()).max() == 0  # nothing new, and strengths stay
    assert capped.fingerprint() == cap_histories(histories, max_user_items=6, seed=1).fingerprint()
    assert capped.fingerprint() != cap_histories(histories, max_user_items=6, seed=2).fingerprint()
    others = histories.select(histories.user_ids != 7)
    kept = cap_histories(others, max_user_items=6, seed=1)
    assert kept.fingerprint() == capped.select(capped.user_ids != 7).fingerprint()
    with pytest.raises(ValueError, match="max_user_items"):
        cap_histories(histories, max_user_items=0, seed=1)


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
    assert noise > calibrated_noise_multiplier(who._replace(count_noise_multiplier=None), **target)
    spent = epsilon(who, noise_multiplier=noise, num_rounds=20, delta=1e-4, accountant="rdp")
    assert 0.99 * 4 <= spent <= 4


def test_counts_that_cost_all_are_refused():
    with pytest.raises(ValueError, match="count_noise_multiplier"):
        calibrated_noise_multiplier(
            Participation("everybody", 50, 50, 0.1), epsilon=1.0, delta=1e-4, num_rounds=2
        )


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.feedback=explicit", "data.feedback"),
        ("data.min_item_interactions=2", "data.min_item_interactions"),
    ],
)
def test_statistics_without_noise_are_refused(override, key):
    weight = ["model.unobserved_weight=0.0"] * ("explicit" in override)
    with pytest.raises(ConfigError, match=key):
        load_dataset(load_config(None, [*HEAD, override, *weight]))


def test_counts_beyond_the_target_by_rdp_are_refused():
    with pytest.raises(ValueError, match="item counts"):
        calibrated_noise_multiplier(
            Participation("fixed_size", 1000, 200, 0.2), epsilon=1.0, delta=1e-4, num_rounds=2
        )


def test_what_has_no_counts_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.head_items.*local_noise"):
        load_dataset(load_config(None, [*HEAD, "privacy.mode=local_noise"]))
    with pytest.raises(ConfigError, match=r"privacy\.head_items.*fcf compare"):
        check(load_config(None, [*HEAD, "privacy.seed=1"]), "compare")


def test_plan_counts_the_items_that_are_learned():
    whole, half = (
        plan_privacy(load_config(None, [*HEAD, f"privacy.head_items={share}"]), num_users=80, num_items=100)
        for share in (1.0, 0.5)
    )
    ratio = half.best.noise_to_signal / whole.best.noise_to_signal
    assert ratio == pytest.approx(
        np.sqrt(0.5 / 0.97), rel=1e-3
    )  # half the numbers; 3 % of the budget for counts
