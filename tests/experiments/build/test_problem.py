"""What a configuration and its data decide: formats and keys."""

import jax
import numpy as np
import pytest

from fcf_jax.experiments.build.dataset import load_datasets
from fcf_jax.experiments.build.problem import place, resolve, rounds_key
from fcf_jax.experiments.config.load import load_config

SIMULATED = ["data.num_users=60", "data.num_items=30", "data.mean_history=8"]
NOISY = ["privacy.mode=central_noise", "server.step=gram"]


def test_replicates_share_formats_that_hold_for_all_of_them():
    config = load_config(None, [*SIMULATED, "parallel.deterministic=true"])
    datasets = load_datasets(config, split_seeds=[0, 1])
    together, alone = resolve(config, *datasets).formats, [resolve(config, one).formats for one in datasets]
    assert together.loss.bound == max(one.loss.bound for one in alone)
    assert resolve(load_config(None, SIMULATED), *datasets).formats is None  # summed in floats


@pytest.mark.parametrize("seed", [None, 1])
def test_key_of_the_rounds_is_not_that_of_the_start(seed):
    privacy = load_config(None, NOISY if seed is None else [*NOISY, f"privacy.seed={seed}"]).privacy
    key = jax.random.key(0)
    drawn = [jax.random.key_data(rounds_key(privacy, key)).tolist() for _ in range(2)]
    assert (drawn[0] == drawn[1]) == (seed is not None) and jax.random.key_data(key).tolist() not in drawn
    assert rounds_key(load_config().privacy, key) is key


@pytest.mark.parametrize("overrides", [[], [*NOISY, "privacy.noise_multiplier=1.0"]])
def test_items_without_interactions_have_no_factor_unless_that_is_private(overrides):
    config = load_config(None, ["data.num_users=30", "data.num_items=150", "data.mean_history=8", *overrides])
    placed = place(resolve(config, *load_datasets(config, split_seeds=[0])))
    state = placed.problem.federation().init(jax.random.key(0))
    is_untouched = placed.problem.train.item_counts == 0
    item_factors = placed.item_factors(state.item_factors)
    assert is_untouched.any() and item_factors[~is_untouched].all()
    assert np.all(item_factors[is_untouched] == 0) != bool(overrides)
