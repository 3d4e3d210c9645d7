"""Known sets: their names, their configs and the cache."""

from fcf_jax import cli
from fcf_jax.data import known_sets
from fcf_jax.data.known_sets import KNOWN_SETS, cache_folder
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.source import shipped_configs


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(known_sets.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "data" and "fcf_jax" in cache_folder().parts
    monkeypatch.setenv(known_sets.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_every_known_set_has_a_shipped_config_of_its_layout():
    configs = [load_config(name).data for name in shipped_configs()]
    named = {data.name: data.layout for data in configs if data.name is not None}
    assert named == {name: known.layout for name, known in KNOWN_SETS.items()}


def test_unknown_name_suggests_the_nearest(capsys):
    assert cli.main(["data", "fetch", "ml-10k"]) == 2
    assert "did you mean ml-100k?" in capsys.readouterr().err
