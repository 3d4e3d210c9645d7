"""Runs summed in fixed point: under `secure_sum`, and plain ones with `parallel.deterministic`."""

import json

import numpy as np
import pytest
from rich.console import Console

from fcf_jax import cli
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.facts import facts_of
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.compare import comparison
from fcf_jax.experiments.compare.comparison import load_splits
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report.wording import privacy_note
from fcf_jax.experiments.run import run_experiment
from fcf_jax.experiments.store.run_directory import METRICS, claimed
from fcf_jax.privacy.secure_sum import SumRules

pytestmark = pytest.mark.usefixtures("all_undrawn")

TINY = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "federation.num_rounds=2", "evaluation.every=1", "evaluation.baseline=false",
]  # fmt: skip
SECURE = [*TINY, "privacy.mode=secure_sum", "privacy.min_cohort=20"]
SAMPLED = ["federation.cohort_size=20", "server.step=running_sums"]


def run(folder, *overrides):
    config = load_config(None, overrides)
    dataset = load_dataset(config)
    check(config, "run", facts_of(config, dataset))
    with ProgressLine(Console(), quiet=True) as progress, claimed(folder, config, resume=False):
        return run_experiment(resolve(config, dataset), folder, progress)


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "secure"
    return folder, run(folder, *SECURE)


def factors(folder):
    return np.load(folder / "item_factors.npz")["item_factors"]


def test_secure_sums_train_as_plain_ones_to_rounding(secure, tmp_path):
    folder, summary = secure
    plain = run(tmp_path / "plain", *TINY)
    # numbers are rounded to 2^-16 and less, in sums of 60: 1e-4 of factors near 1
    np.testing.assert_allclose(factors(folder), factors(tmp_path / "plain"), rtol=1e-3, atol=1e-4)
    for name, value in plain["federated"].items():
        assert summary["federated"][name] == pytest.approx(value, rel=1e-3), name
    assert "fixed_point" not in plain and "secure_sum" not in plain


def test_deterministic_plain_rounds_are_the_same_sums_bit_for_bit(secure, tmp_path):
    folder, summary = secure
    plain = run(tmp_path / "plain", *TINY, "parallel.deterministic=true")
    np.testing.assert_array_equal(factors(folder), factors(tmp_path / "plain"))
    assert plain["fixed_point"] == summary["fixed_point"] and "secure_sum" not in plain


def test_run_tells_of_formats_and_of_masks(secure):
    _, summary = secure
    assert summary["secure_sum"] == {"min_cohort": 20}
    assert set(summary["fixed_point"]["formats"]) == {"upload", "user_gram", "confidence_sum", "loss"}
    assert summary["fixed_point"]["num_clipped_entries"] == 0
    note = privacy_note(summary)
    assert all(word in note for word in ("at least 20 clients", "secure_cohort_sum", "fcf audit", "cancel"))


def test_entries_beyond_the_bounds_are_counted(tmp_path):
    summary = run(tmp_path / "run", *SECURE, "privacy.upload_bound=0.5")
    records = METRICS.read(tmp_path / "run")
    counts = [one["num_clipped_entries"] for one in records if one["kind"] == "round"]
    assert counts[0] > 0 and sum(counts) == summary["fixed_point"]["num_clipped_entries"]


def test_cohorts_train(tmp_path):
    summary = run(tmp_path / "run", *SECURE, *SAMPLED, "federation.num_rounds=3")  # of one pass
    assert summary["federated"]["map_at_10"] >= 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], r"privacy\.min_cohort: .* at least 100 clients .* got 60"),
        ([*SAMPLED, "privacy.min_cohort=21"], r"privacy\.min_cohort: .* got 20 in round 0"),
        (
            [*SAMPLED, "federation.cohort_size=55", "privacy.min_cohort=20"],
            r"difference of \d+ between rounds",
        ),
        (
            [*SAMPLED, "federation.sampling=poisson", "privacy.min_cohort=20"],
            r"privacy\.min_cohort: .* in round",
        ),
        (["privacy.min_cohort=20", "privacy.fraction_bits=25"], r"privacy\.fraction_bits: .*2\^31"),
    ],
)
def test_sums_that_tell_too_much_or_overflow_are_refused(overrides, told):
    config = load_config(None, [*TINY, "privacy.mode=secure_sum", *overrides])
    with pytest.raises(ConfigError, match=told):
        check(config, "run", facts_of(config, load_dataset(config)))


def test_refusal_is_a_mistake_of_the_user_and_writes_nothing(tmp_path, capsys):
    sets = [word for one in TINY for word in ("--set", one)]
    code = cli.main(["run", *sets, "--set", "privacy.mode=secure_sum", "--out", str(tmp_path / "run")])
    assert code == 2 and "privacy.min_cohort" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_plain_rounds_overflow_under_the_same_rule():
    config = load_config(None, [*TINY, "parallel.deterministic=true", "privacy.fraction_bits=25"])
    with pytest.raises(ConfigError, match=r"privacy\.fraction_bits"):
        check(config, "run", facts_of(config, load_dataset(config)))


def test_comparison_looks_at_the_cohorts_of_every_build():
    overrides = ["comparison.num_builds=3", *SAMPLED, "federation.num_rounds=3"]
    load_splits(load_config(None, [*SECURE, *overrides]))
    with pytest.raises(ConfigError, match=r"privacy\.min_cohort"):
        load_splits(load_config(None, [*SECURE, *overrides, "privacy.min_cohort=21"]))


def test_comparison_trains_on_secure_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "write_comparison_figures", lambda *unused: None)
    overrides = [*SECURE, "comparison.num_builds=2", "federation.num_rounds=40", "parallel.devices=1"]
    sets = [word for one in overrides for word in ("--set", one)]
    assert cli.main(["compare", *sets, "--out", str(tmp_path / "both"), "--quiet"]) == 0
    metrics = json.loads((tmp_path / "both" / "comparison.json").read_text())["metrics"]
    assert abs(metrics["loss"]["difference_percent"]) < 1.0


def test_smallest_cohort_is_that_of_the_protocol():
    assert load_config(None, []).privacy.min_cohort == SumRules().min_cohort


def test_tuning_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.mode: fcf tune"):
        check(load_config(None, SECURE), "tune")
