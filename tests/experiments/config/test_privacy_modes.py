"""The table of privacy modes."""

import pytest

from fcf_jax.experiments.audit.bounds import figure_names
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES


@pytest.mark.parametrize("name", PRIVACY_MODES)
def test_a_mode_is_a_choice_and_its_attacks_have_figures(name):
    config, mode = load_config(None, [f"privacy.mode={name}"]), PRIVACY_MODES[name]
    assert config.privacy.spec is mode
    assert config.privacy.has_noise == mode.has_noise
    assert config.is_in_fixed_point == mode.sums_securely
    for has_cohorts in (False, True):
        figures = figure_names(name, has_cohorts=has_cohorts, sends_gram=True)
        assert set(figures) == set(mode.attacks_on(has_cohorts=has_cohorts))
        assert all(figures.values())


def test_noise_is_never_summed_in_fixed_point():
    """A number that is cut off could make an upload longer than its clip norm."""
    noisy = ["privacy.mode=central_noise", "server.step=gram", "parallel.deterministic=true"]
    assert not load_config(None, noisy).is_in_fixed_point
