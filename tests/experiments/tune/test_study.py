"""The search itself, with a learner that costs nothing."""

import numpy as np
import optuna
import pytest
from jax import numpy as jnp
from rich.console import Console

from fcf_jax.evaluation import RankingMetrics, UserMetrics
from fcf_jax.experiments.build.held_out import load_held_out
from fcf_jax.experiments.config.load import load_config, value_of, with_values
from fcf_jax.experiments.errors import ConfigError, DivergedError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.tune import trials, tuning
from fcf_jax.experiments.tune.candidates import Learner, advance
from fcf_jax.experiments.tune.space import lambda_scale, notes_on_bounds
from fcf_jax.experiments.tune.study import finished, journal, start_trial, values_of

SMALL = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "tuning.num_factors=[6, 8]", "tuning.num_server_trials=0", "tuning.batch_size=3",
]  # fmt: skip
CONFIG = load_config(None, SMALL)


def toy_learner(key, best_factors=6):
    """Best where this setting is 8 and K is 6 or as given; beyond 30 it diverges."""

    def make(problem, data):
        def value(settings):
            return settings.get(key, value_of(problem.config, key))

        def score(settings, item_factors, data):
            num_factors = problem.config.model.num_factors
            distance = jnp.log(value(settings) / 8) ** 2 + abs(num_factors / best_factors - 1)
            of_users = jnp.full(3, 1 / (1 + distance))
            metrics = RankingMetrics(*[of_users] * 6)
            return UserMetrics(
                {10: metrics}, {10: metrics}, of_users, of_users, of_users, jnp.ones(3, jnp.int32)
            )

        return Learner(
            init=lambda settings: jnp.where(value(settings) > 30, jnp.nan, jnp.ones((2, 2))),
            step=lambda settings, state, data: (state, jnp.zeros(())),
            item_factors=lambda state: state,
            score=score,
        )

    return make


def tune(config, monkeypatch, key="model.alpha", *, storage=None, best_factors=6):
    monkeypatch.setattr(tuning, "als_learner", toy_learner(key, best_factors))
    progress, storage = ProgressLine(Console(), quiet=True), storage or optuna.storages.InMemoryStorage()
    return tuning.run_tuning(config, load_held_out(config), storage, progress)


@pytest.fixture(scope="module")
def tuned():
    with pytest.MonkeyPatch.context() as patched:
        return tune(CONFIG, patched)


def test_search_beats_its_start_and_finds_the_best_known(tuned):
    trials = finished(tuned.model)
    assert len(trials) == 30
    assert values_of(start_trial(tuned.model)) == values_of(trials[0]) == {
        "model.num_factors": 4, "model.alpha": 4.0, "model.regularization": 1.0,
        "model.regularization_exponent": 0.0,
    }  # fmt: skip
    assert tuned.config.model.num_factors == 6
    assert abs(np.log(tuned.config.model.alpha / 8)) < 0.3
    assert tuned.best_value == max(trial.value for trial in trials if trial.value is not None)


def test_batches_agree_in_shape_and_are_not_copies(tuned):
    tried = [values_of(trial) for trial in finished(tuned.model)]
    batches = [tried[first : first + 3] for first in range(0, 30, 3)]
    assert all(len({one["model.num_factors"] for one in batch}) == 1 for batch in batches)
    assert len({batch[0]["model.num_factors"] for batch in batches}) > 1
    assert len({one["model.alpha"] for one in tried}) == 30


def test_poor_trials_are_pruned_and_diverged_ones_have_no_value(tuned):
    trials = finished(tuned.model)
    is_pruned = [trial.state == optuna.trial.TrialState.PRUNED for trial in trials]
    assert not any(is_pruned[:5]) or trials[is_pruned.index(True)].value is None
    for trial, pruned in zip(trials, is_pruned, strict=True):
        if values_of(trial)["model.alpha"] > 30:
            assert pruned and trial.value is None
        else:
            assert trial.last_step == (10 if pruned else 40)  # after a quarter of 40 sweeps, or all
    assert sum(is_pruned) > 5


def test_same_seed_same_study_and_another_seed_another(tuned, monkeypatch):
    again = tune(CONFIG, monkeypatch)
    values = [values_of(trial) for trial in finished(tuned.model)]
    assert [values_of(trial) for trial in finished(again.model)] == values
    other = CONFIG.model_copy(update={"tuning": CONFIG.tuning.model_copy(update={"seed": 1})})
    assert [values_of(trial) for trial in finished(tune(other, monkeypatch).model)] != values


def test_explicit_ratings_go_by_rmse_and_have_no_alpha(monkeypatch):
    explicit = ["data.feedback=explicit", "model.unobserved_weight=0", "tuning.num_model_trials=9"]
    tuned = tune(load_config(None, [*SMALL, *explicit]), monkeypatch, "model.regularization")
    trials = [trial for trial in finished(tuned.model) if trial.value is not None]
    names = {"model.num_factors", "model.regularization", "model.regularization_exponent"}
    assert {*values_of(trials[0])} == names
    assert tuned.best_value == min(trial.value for trial in trials) < max(trial.value for trial in trials)


def test_all_diverged_is_a_failure(monkeypatch):
    config = load_config(None, ["model.alpha=40", "tuning.alpha=[35, 50]", "tuning.num_server_trials=0"])
    with pytest.raises(DivergedError, match=r"every trial.*raise tuning\.regularization"):
        tune(config, monkeypatch)


def test_lambda_is_searched_on_one_scale_for_every_nu(tuned):
    held_out, trials = load_held_out(CONFIG), finished(tuned.model)
    train, mean = held_out.train, {}
    users, items = (np.bincount(ids, minlength=size) for ids, size in (
        (train.user_ids, train.num_users), (train.item_ids, train.num_items)
    ))  # fmt: skip
    counts = np.concatenate([users + train.num_items, items + train.num_users])
    for trial in trials:
        values = values_of(trial)
        exponent = values["model.regularization_exponent"]
        mean[exponent] = np.mean(counts.astype(float) ** exponent)
        effective = values["model.regularization"] * mean[exponent]
        assert trial.params["effective_regularization"] == pytest.approx(effective, rel=2e-3)  # rounded
        assert 0.0999 <= effective <= 1001
    assert {*mean} == {0.0, 0.5, 1.0} and mean[1.0] > 40


GROWING = ["tuning.num_factors=[4,80,160,320,640]", "tuning.num_model_trials=3", "tuning.seed=1"]


def test_larger_factors_follow_until_none_is_better_and_a_resumed_growth_agrees(monkeypatch):
    config = load_config(None, [*SMALL, *GROWING])
    found = tune(config, monkeypatch, "model.regularization", best_factors=160)
    tried = [values_of(trial) for trial in finished(found.factors)]
    assert [one["model.num_factors"] for one in tried] == [4] + 3 * [80] + 3 * [160] + 3 * [320]
    kept = values_of(found.model.best_trial)["model.regularization"]
    assert [one["model.regularization"] / kept for one in tried[:4]] == pytest.approx(
        [1, 1, 1.5, 1 / 1.5], rel=1e-3
    )
    assert found.config.model.num_factors == 160 and found.at_bounds == ()
    assert found.best_value == found.factors.best_value > found.model.best_value
    nearer = [
        abs(np.log(one["model.regularization"] / 8))
        for one in (tried[0], values_of(found.factors.best_trial))
    ]
    assert nearer[1] <= nearer[0]

    storage, calls = optuna.storages.InMemoryStorage(), []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return advance(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(trials, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            tune(config, patched, "model.regularization", storage=storage, best_factors=160)
    again = tune(config, monkeypatch, "model.regularization", storage=storage, best_factors=160)
    assert [values_of(trial) for trial in finished(again.factors)] == tried
    assert again.config == found.config


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, []),
        (
            {"model.alpha": 390.0},
            ["model.alpha is 390, at the high end of [0.2, 400]: raise tuning.alpha's high"],
        ),
        ({"model.alpha": 0.2}, ["lower tuning.alpha's low"]),
        ({"model.regularization": 1500.0}, ["raise tuning.regularization's high"]),
        (
            {"model.regularization": 20.0, "model.regularization_exponent": 1.0, "model.num_factors": 8},
            ["effective_regularization is", "model.num_factors is 8, the largest tried"],
        ),
        ({"model.num_factors": 4}, ["model.num_factors is 4, the smallest tried"]),
    ],
)  # fmt: skip
def test_values_at_the_end_of_their_range_are_named_with_the_remedy(found, told):
    train = load_held_out(CONFIG).train
    given = with_values(CONFIG, {"tuning.num_factors": [4, 6, 8]})
    best = with_values(given, {"model.num_factors": 6, **found})
    notes = notes_on_bounds(best, given, lambda_scale(given, train))
    assert len(notes) == len(told)
    assert all(one in note for one, note in zip(told, notes, strict=True))


def test_a_range_of_one_value_is_no_bound():
    fixed = {"tuning.alpha": [4.0, 4.0], "tuning.regularization": [1.0, 1.0], "tuning.num_factors": [4]}
    given = with_values(CONFIG, fixed)
    assert notes_on_bounds(given, given, lambda_scale(given, load_held_out(given).train)) == ()


def test_a_study_of_an_older_version_is_refused(monkeypatch):
    storage = optuna.storages.InMemoryStorage()
    old = optuna.create_study(study_name="model", storage=storage, direction="maximize")
    old.set_user_attr("facts", {"tuning.alpha": [0.2, 400.0]})
    with pytest.raises(ConfigError, match=r"expected a study of this version.*choose another --out"):
        tune(CONFIG, monkeypatch, storage=storage)


def test_a_damaged_study_is_refused(tmp_path):
    (tmp_path / "study.log").write_bytes(b"not json\nnot json\n")
    with pytest.raises(ValueError, match="expected an intact study"):
        journal(tmp_path)
