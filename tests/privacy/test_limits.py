import math

import numpy as np
import pytest
from scipy.stats import norm

from fcf_jax.privacy.limits import in_out_auc_ceiling, item_auc_ceiling, noise_to_signal


def test_ceilings_match_the_auc_of_gaussian_samples():
    noise, rounds = 3.0, 4
    generator = np.random.default_rng(0)
    reference = np.sort(generator.normal(size=20_000))
    ceilings = {1.0: in_out_auc_ceiling(noise, rounds), 2.0: item_auc_ceiling(noise, rounds)}
    for clip_norms, ceiling in ceilings.items():  # the sum over rounds, in its own standard deviations
        shifted = generator.normal(clip_norms * math.sqrt(rounds) / noise, 1.0, 20_000)
        auc = np.searchsorted(reference, shifted).mean() / len(reference)
        assert auc == pytest.approx(ceiling, abs=0.01)  # three standard errors of an AUC of 20,000 pairs
    mean = math.sqrt(rounds) / noise
    assert ceilings[1.0] == pytest.approx(norm.cdf(mean / math.sqrt(2)))
    assert ceilings[2.0] == pytest.approx(norm.cdf(mean * math.sqrt(2)))


def test_limit_ceilings():
    assert in_out_auc_ceiling(0.0, 1) == item_auc_ceiling(0.0, 1) == 1.0
    assert in_out_auc_ceiling(0.0, 0) == item_auc_ceiling(1.0, 0) == 0.5
    with pytest.raises(ValueError, match="noise_multiplier"):
        in_out_auc_ceiling(-1.0, 1)


def test_noise_to_signal_matches_drawn_noise():
    items, factors, users, noise = 300, 8, 40, 1.7
    drawn = np.random.default_rng(1).normal(scale=noise, size=(items, factors))
    expected = np.linalg.norm(drawn) / users  # over uploads of norm 1 that all point one way
    sizes = {"noise_multiplier": noise, "num_items": items, "num_factors": factors, "cohort_size": users}
    assert noise_to_signal(**sizes) == pytest.approx(expected, rel=0.05)  # 1 / sqrt(2 * 2400), three times
    assert noise_to_signal(**sizes, num_rounds=4) == pytest.approx(noise_to_signal(**sizes) / 2)


def test_known_answer_ceilings():
    assert in_out_auc_ceiling(0.0) == 1.0
    assert in_out_auc_ceiling(1.0) == pytest.approx(0.7602, abs=1e-4)  # Phi(1 / sqrt 2)
    assert item_auc_ceiling(1.0) == pytest.approx(0.9214, abs=1e-4)  # Phi(sqrt 2)
    assert item_auc_ceiling(2.0, num_rounds=4) == pytest.approx(0.9214, abs=1e-4)
