import tomllib

import pytest

from fcf_jax.experiments.config.load import explain, load_config, validate
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.source import shipped_configs
from fcf_jax.experiments.errors import ConfigError


def test_overrides_beat_the_file_and_the_file_beats_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nnum_factors = 7\nalpha = 2.0\n")
    config = load_config(str(path), ["model.alpha=3", "data.layout=generic", 'data.generator="uniform"'])
    assert (config.model.num_factors, config.model.alpha, config.model.regularization) == (7, 3.0, 1.0)
    assert (config.data.layout, config.data.generator) == ("generic", "uniform")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.num_factor=3", "model.num_factors"),
        ("model.num_rounds=3", "federation.num_rounds"),
        ("modle.alpha=3", "[model]"),
        ("federation.num_rounds=-1", "greater than or equal to 0"),
        ("model.num_factors=0", "greater than or equal to 1"),
        ("privacy.noise_multiplier=0", "privacy.noise_multiplier"),
        ("model.alpha=nan", "model.alpha"),
        ("model.alpha=four", "model.alpha"),
        ("federation.num_rounds=2.5", "federation.num_rounds"),
        ("server.step=lbfgs", "guarded_gram"),
        ("data.test_fraction=1", "data.test_fraction"),
        ("data.feedback=explicit", "set model.unobserved_weight = 0"),
        ("model.alpha", "expected section.key=value"),
        ("alpha=3", "expected section.key=value"),
    ],
)
def test_a_mistake_names_the_key_or_the_remedy(override, named):
    with pytest.raises(ConfigError) as raised:
        load_config(None, [override])
    assert named in str(raised.value)


def test_broken_toml_names_the_line(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("[model]\nalpha = \n")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(str(path))


def test_key_outside_a_section_is_refused(tmp_path):
    path = tmp_path / "flat.toml"
    path.write_text("data = 3\n")
    with pytest.raises(ConfigError, match="expected a section"):
        load_config(str(path))


def test_path_decides_the_source():
    assert load_config().data.source == "simulated"
    assert load_config(None, ["data.path=ratings.csv"]).data.source == "file"
    with pytest.raises(ConfigError, match="leave out one"):
        load_config(None, ["data.path=ratings.csv", "data.source=simulated"])


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_shipped_configs_resolve(name):
    config = load_config(name)
    assert validate(config.to_dict()) == config


def test_simulated_config_spells_out_the_defaults():
    assert load_config("simulated") == load_config()


def test_every_field_is_described_and_explained():
    explained = tomllib.loads(explain())
    for section, field in ExperimentConfig.model_fields.items():
        for key, of_key in field.annotation.model_fields.items():
            assert of_key.description
            assert key in explained[section] or of_key.default is None
            assert f"{key} " in explain()
