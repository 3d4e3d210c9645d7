"""The tables of server steps and privacy modes."""

import optax
import pytest

from fcf_jax.core.records import SentNorms
from fcf_jax.experiments.audit.bounds import figure_names
from fcf_jax.experiments.config.load import load_config, value_of
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES, has_noise, is_in_fixed_point
from fcf_jax.experiments.config.server_steps import SERVER_STEPS, build_optimizer, learning_rate
from fcf_jax.experiments.errors import ConfigError


@pytest.mark.parametrize("name", SERVER_STEPS)
def test_a_step_is_a_choice_and_is_built(name):
    config, step = load_config(None, [f"server.step={name}"]), SERVER_STEPS[name]
    assert isinstance(build_optimizer(config), optax.GradientTransformation)
    assert set(step.pieces) <= set(SentNorms._fields)
    assert "loss" in step.pieces or not step.is_guarded
    for key in step.tuned:
        assert key.startswith("server.") and hasattr(config.server, key.partition(".")[2])
        value_of(config, key)


@pytest.mark.parametrize("key", ["server.step", "privacy.mode"])
def test_an_unknown_name_is_told_the_known_ones(key):
    table = SERVER_STEPS if key == "server.step" else PRIVACY_MODES
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"{key}=other"])
    assert all(f"'{name}'" in str(raised.value) for name in table)


def test_configured_learning_rate_comes_before_that_of_the_step():
    assert learning_rate(load_config(None, ["server.step=adam"])) == SERVER_STEPS["adam"].learning_rate
    assert learning_rate(load_config(None, ["server.step=adam", "server.learning_rate=0.3"])) == 0.3
    with pytest.raises(ValueError, match="learning rate, got guarded_gram"):
        learning_rate(load_config())


@pytest.mark.parametrize("name", PRIVACY_MODES)
def test_a_mode_is_a_choice_and_its_attacks_have_figures(name):
    config, mode = load_config(None, [f"privacy.mode={name}"]), PRIVACY_MODES[name]
    assert has_noise(config) == mode.has_noise
    assert is_in_fixed_point(config) == mode.sums_securely
    for has_cohorts in (False, True):
        figures = figure_names(name, has_cohorts=has_cohorts, sends_gram=True)
        assert set(figures) == set(mode.attacks_on(has_cohorts=has_cohorts))
        assert all(figures.values())
