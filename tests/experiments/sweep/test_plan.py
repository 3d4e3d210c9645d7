"""Which runs a sweep has, and which mistakes end it before it begins."""

import pytest

from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.store.run_directory import VARIED
from fcf_jax.experiments.sweep.plan import axes_of, begun_with, combinations_of, settings_text

BASE = load_config(None)


def planned(*vary, seeds=1, overrides=()):
    return combinations_of(None, list(overrides), axes_of(list(vary), seeds, BASE))


def test_the_last_key_varies_fastest_and_values_are_those_of_set():
    runs = planned("server.step=adam, sgd", "model.alpha=1,2.5", overrides=["data.num_users=50"])
    assert [one.values for one in runs] == [
        {"server.step": step, "model.alpha": alpha} for step in ("adam", "sgd") for alpha in (1.0, 2.5)
    ]
    assert [one.number for one in runs] == [0, 1, 2, 3]
    last = load_config(None, ["data.num_users=50", "server.step=sgd", "model.alpha=2.5"])
    assert runs[-1].config == last


def test_lists_and_quoted_values_stay_whole():
    runs = planned("attack.targets=[5, 10],[20]", 'data.split="ratio",leave_one_out')
    assert [one.values["attack.targets"] for one in runs] == [[5, 10], [5, 10], [20], [20]]
    assert [one.values["data.split"] for one in runs] == ["ratio", "leave_one_out"] * 2


def test_a_key_can_be_without_a_value():
    everybody, some = planned("federation.cohort_size=unset,100")
    assert everybody.config is not None and everybody.config.federation.cohort_size is None
    assert [settings_text(one.values) for one in (everybody, some)] == [
        "cohort_size unset",
        "cohort_size 100",
    ]


def test_seeds_count_up_together():
    runs = planned("model.alpha=1,2", seeds=2, overrides=[])
    configs = [one.config for one in runs if one.config is not None]
    assert [(one.federation.seed, one.data.seed) for one in configs] == [(0, 0), (1, 1)] * 2
    assert settings_text(runs[1].values) == "alpha 1, federation.seed 1, data.seed 1"


def test_a_combination_that_a_rule_refuses_is_kept_with_the_reason():
    plain, decaying = planned("server.decay=constant,cosine")
    assert plain.config is not None and decaying.config is None
    assert decaying.refusal.startswith("server.decay: guarded_gram has no schedule")


@pytest.mark.parametrize(
    ("vary", "options", "named"),
    [
        ([], {}, "--vary: expected at least one key"),
        (["model.alpha"], {}, "--vary model.alpha: expected section.key=a,b,c"),
        (["alpha=1,2"], {}, "--vary alpha=1,2: expected section.key=a,b,c"),
        (["model.alpha="], {}, "expected section.key=a,b,c"),
        (["model.alfa=1,2"], {}, "unknown key model.alfa; did you mean model.alpha?"),
        (["mode.alpha=1,2"], {}, r"unknown section \[mode\]; did you mean \[model\]?"),
        (["model.alpha=1,1"], {}, "expected different values, got 1 twice"),
        (["model.alpha=1,-1"], {}, "model.alpha: expected greater than or equal to 0, got -1"),
        (["model.alpha=1,much"], {}, "model.alpha: .*got 'much'"),
        (["model.alpha=1,unset"], {}, "model.alpha: .*got None"),
        (["model.alpha=1,2", "model.alpha=3"], {}, "--vary model.alpha: expected each key once"),
        (["data.seed=1,2"], {"seeds": 2}, r"--vary data.seed: .*\(--seeds varies all seeds\)"),
        (["model.alpha=1,2"], {"overrides": ["model.alpha=3"]}, "given by --set, too"),
        (["parallel.devices=1,2"], {}, "--vary parallel.devices: all runs share the devices"),
        (["tuning.seed=1,2"], {}, "--vary tuning.seed: it is of fcf tune"),
        (["evaluation.k=5,10"], {}, "--vary evaluation.k: all runs are compared by the same metric"),
        (["server.decay=cosine"], {}, "none of 1 combinations can be run: server.decay"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(vary, options, named):
    with pytest.raises(ConfigError, match=named):
        planned(*vary, **options)


def test_what_is_varied_comes_from_the_folder_of_a_sweep_that_was_begun(tmp_path):
    VARIED.write(tmp_path, {"vary": ["model.alpha=1,2"], "seeds": 3})
    assert begun_with(tmp_path, [], None) == (["model.alpha=1,2"], 3)
    assert begun_with(tmp_path, ["model.alpha=1,2"], 3) == (["model.alpha=1,2"], 3)
    with pytest.raises(ConfigError, match="expected --vary as the sweep was begun with"):
        begun_with(tmp_path, ["model.alpha=1,3"], None)
    with pytest.raises(ConfigError, match="expected --seeds as the sweep was begun with, 3, got 2"):
        begun_with(tmp_path, [], 2)
