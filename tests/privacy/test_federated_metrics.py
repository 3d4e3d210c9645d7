"""Sums of metrics that clients compute: exact, in fixed point, and with noise that is paid for."""

import math

import dp_accounting
import jax
import numpy as np
import pytest

from fcf_jax.experiments.store.privacy_ledger import entry_of, total_epsilon
from fcf_jax.privacy import (
    Participation,
    calibrated_noise_multiplier,
    epsilon,
    federated_means,
)
from fcf_jax.privacy.composition import Release
from fcf_jax.privacy.federated_metrics import clipped_vectors, present_clients

KEY = jax.random.key(4)
RANDOM = np.random.default_rng(0)
METRICS = {"map_at_10": RANDOM.random(400), "hit_rate_at_10": (RANDOM.random(400) < 0.7).astype(float)}


def test_exact_sums_are_the_exact_means():
    found = federated_means(METRICS)
    assert found.means == pytest.approx({name: values.mean() for name, values in METRICS.items()}, abs=1e-15)
    assert found.num_clients == 400 and found.noise_std == 0


def test_sums_in_fixed_point_are_the_means_up_to_its_step():
    found = federated_means(METRICS, is_in_fixed_point=True, min_clients=400)
    assert found.means == pytest.approx(
        {name: values.mean() for name, values in METRICS.items()}, abs=2.0**-21
    )
    assert found.num_clients == 400


def test_only_clients_that_come_back_count():
    comes = present_clients(KEY, np.linspace(0, 1, 400), num_users=400)
    assert 100 < comes.sum() < 300 and comes[:40].sum() > comes[-40:].sum()
    found = federated_means(METRICS, takes_part=comes)
    assert found.means["map_at_10"] == pytest.approx(METRICS["map_at_10"][comes].mean())
    nobody = federated_means(METRICS, takes_part=comes, is_in_fixed_point=True, min_clients=300)
    assert nobody.num_clients == 0 and math.isnan(nobody.means["map_at_10"])


def test_what_a_client_sends_stays_in_its_clip_norm():
    wild = {"a": np.array([np.nan, 7.0, -3.0]), "b": np.array([0.5, 1.0, np.inf])}
    sent = clipped_vectors(wild)
    np.testing.assert_array_equal(sent, [[1, 0, 0.5], [1, 1, 1], [1, 0, 1]])
    assert np.linalg.norm(sent, axis=1).max() <= math.sqrt(3)


def test_noise_has_the_stated_deviation():
    drawn = [federated_means(METRICS, key=key, noise_multiplier=2.0) for key in jax.random.split(KEY, 300)]
    counts = np.array([one.num_clients for one in drawn])
    sums = np.array([one.means["map_at_10"] * one.num_clients for one in drawn])
    assert drawn[0].noise_std == pytest.approx(2 * math.sqrt(3))
    for values, mean in ((counts, 400), (sums, METRICS["map_at_10"].sum())):
        assert values.std() == pytest.approx(2 * math.sqrt(3), rel=0.15)  # of 300 draws: 1 in 400
        assert values.mean() == pytest.approx(mean, abs=4 * 2 * math.sqrt(3 / 300))
    with pytest.raises(ValueError, match="expected a key for the noise"):
        federated_means(METRICS, noise_multiplier=2.0)


@pytest.mark.parametrize("sampling", ["everybody", "poisson"])
def test_epsilon_covers_rounds_item_counts_and_evaluation(sampling):
    """Against dp-accounting, which composes each release by itself."""
    cohort_size = 100 if sampling == "everybody" else 20
    who = Participation(
        sampling, 100, cohort_size, count_noise_multiplier=9.0, evaluation_noise_multiplier=7.0
    )
    dp = dp_accounting
    of_round = dp.GaussianDpEvent(3.0)
    if sampling == "poisson":
        of_round = dp.PoissonSampledDpEvent(0.2, of_round)
    accountant = dp.rdp.RdpAccountant()
    accountant.compose(of_round, 5).compose(dp.GaussianDpEvent(9.0)).compose(dp.GaussianDpEvent(7.0))
    found = epsilon(who, noise_multiplier=3.0, num_rounds=5, delta=1e-5, accountant="rdp")
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9 if sampling == "poisson" else 0.2)
    assert found <= accountant.get_epsilon(1e-5) * (1 + 1e-9)
    assert 0 < epsilon(who, noise_multiplier=3.0, num_rounds=0, delta=1e-5) < found
    if sampling == "everybody":
        noise = calibrated_noise_multiplier(who, epsilon=4.0, delta=1e-5, num_rounds=5)
        together = 1 / math.sqrt(5 / noise**2 + 1 / 9.0**2 + 1 / 7.0**2)
        assert dp.get_epsilon_gaussian(together, 1e-5) == pytest.approx(4.0, rel=1e-6)


def test_a_ledger_counts_the_evaluation(tmp_path):
    who = Participation("everybody", 100, 100, evaluation_noise_multiplier=7.0)
    release = Release(who, noise_multiplier=3.0, num_rounds=5)
    entry = entry_of("a", tmp_path, release, epsilon=1.0, delta=1e-5)
    spent = dp_accounting.get_epsilon_gaussian(1 / math.sqrt(5 / 3.0**2 + 1 / 7.0**2), 1e-5)
    assert total_epsilon([entry], delta=1e-5) == pytest.approx(spent)
