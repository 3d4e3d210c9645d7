"""Some seconds of the fuzzer of configurations, and what it once found."""

import pytest
from fuzz import configs

from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError

FOUND = {
    "nested": "[data]\nseed = " + "[" * 3000,
    "number": "[model]\nnum_factors = " + "9" * 5000,
    "key of two lines": '[data]\n"a\\nb" = 1',
    "long key": "[data]\n" + "k" * 5000 + " = 1",
    "deep key": "[data]\n" + ".".join("a" * 900) + " = 1",
    "home of nobody": '[data]\npath = "~no.such.user/x"',
    "no path": '[data]\npath = ""',
    "zero byte": "[data]\nseed = \x00",
    "split of simulated data": '[data]\nsplit = "published"',
    "seed": "[federation]\nseed = 4294967296",
    "rounds": "[federation]\nnum_rounds = 9223372036854775808",
}


@pytest.mark.parametrize("content", FOUND.values(), ids=FOUND)
def test_what_was_found_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "found.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_config(str(path))
    configs.refusal(raised.value)


def test_some_seconds_of_fuzzing():
    outcomes = configs.fuzz(3.0, seed=0)
    assert outcomes["refused"] > 0 < outcomes["resolved"]
