"""The search itself, with a learner that costs nothing."""

import numpy as np
import optuna
import pytest
from jax import numpy as jnp
from rich.console import Console

from fcf_jax.evaluation import RankingMetrics, UserMetrics
from fcf_jax.experiments.build.held_out import load_held_out
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.tune import tuning
from fcf_jax.experiments.tune.candidates import Learner
from fcf_jax.experiments.tune.study import finished, journal, params_of, start_trial

SMALL = [
    "data.num_users=60", "data.num_items=30", "data.mean_history=8", "model.num_factors=4",
    "tuning.num_factors=[6, 8]", "tuning.num_server_trials=0", "tuning.batch_size=3",
]  # fmt: skip
CONFIG = load_config(None, SMALL)


def toy_learner(key):
    """Best where this setting is 8 and K is 6; beyond 30 it diverges."""

    def make(problem, data):
        def score(settings, item_factors, data):
            distance = jnp.log(settings[key] / 8) ** 2 + abs(problem.config.model.num_factors - 6)
            of_users = jnp.full(3, 1 / (1 + distance))
            metrics = RankingMetrics(*[of_users] * 6)
            return UserMetrics(
                {10: metrics}, {10: metrics}, of_users, of_users, of_users, jnp.ones(3, jnp.int32)
            )

        return Learner(
            init=lambda settings: jnp.where(settings[key] > 30, jnp.nan, jnp.ones((2, 2))),
            step=lambda settings, state, data: (state, jnp.zeros(())),
            item_factors=lambda state: state,
            score=score,
        )

    return make


def tune(config, monkeypatch, key="model.alpha"):
    monkeypatch.setattr(tuning, "als_learner", toy_learner(key))
    progress = ProgressLine(Console(), quiet=True)
    return tuning.run_tuning(config, load_held_out(config), optuna.storages.InMemoryStorage(), progress)


@pytest.fixture(scope="module")
def tuned():
    with pytest.MonkeyPatch.context() as patched:
        return tune(CONFIG, patched)


def test_search_beats_its_start_and_finds_the_best_known(tuned):
    trials = finished(tuned.model)
    assert len(trials) == 30
    assert params_of(start_trial(tuned.model)) == params_of(trials[0]) == {
        "model.num_factors": 4, "model.alpha": 4.0, "model.regularization": 1.0
    }  # fmt: skip
    assert tuned.config.model.num_factors == 6
    assert abs(np.log(tuned.config.model.alpha / 8)) < 0.3
    assert tuned.best_value == max(trial.value for trial in trials if trial.value is not None)


def test_batches_agree_in_shape_and_are_not_copies(tuned):
    tried = [params_of(trial) for trial in finished(tuned.model)]
    batches = [tried[first : first + 3] for first in range(0, 30, 3)]
    assert all(len({one["model.num_factors"] for one in batch}) == 1 for batch in batches)
    assert len({batch[0]["model.num_factors"] for batch in batches}) > 1
    assert len({one["model.alpha"] for one in tried}) == 30


def test_poor_trials_are_pruned_and_diverged_ones_have_no_value(tuned):
    trials = finished(tuned.model)
    is_pruned = [trial.state == optuna.trial.TrialState.PRUNED for trial in trials]
    assert not any(is_pruned[:5]) or trials[is_pruned.index(True)].value is None
    for trial, pruned in zip(trials, is_pruned, strict=True):
        if params_of(trial)["model.alpha"] > 30:
            assert pruned and trial.value is None
        else:
            assert trial.last_step == (10 if pruned else 40)  # after a quarter of 40 sweeps, or all
    assert sum(is_pruned) > 5


def test_same_seed_same_study_and_another_seed_another(tuned, monkeypatch):
    again = tune(CONFIG, monkeypatch)
    values = [params_of(trial) for trial in finished(tuned.model)]
    assert [params_of(trial) for trial in finished(again.model)] == values
    other = CONFIG.model_copy(update={"tuning": CONFIG.tuning.model_copy(update={"seed": 1})})
    assert [params_of(trial) for trial in finished(tune(other, monkeypatch).model)] != values


def test_explicit_ratings_go_by_rmse_and_have_no_alpha(monkeypatch):
    explicit = ["data.feedback=explicit", "model.unobserved_weight=0", "tuning.num_model_trials=9"]
    tuned = tune(load_config(None, [*SMALL, *explicit]), monkeypatch, "model.regularization")
    trials = [trial for trial in finished(tuned.model) if trial.value is not None]
    assert {*trials[0].params} == {"model.num_factors", "model.regularization"}
    assert tuned.best_value == min(trial.value for trial in trials) < max(trial.value for trial in trials)


def test_all_diverged_is_a_failure(monkeypatch):
    config = load_config(None, ["model.alpha=40", "tuning.alpha=[35, 50]", "tuning.num_server_trials=0"])
    with pytest.raises(DivergedError, match=r"every trial.*raise tuning\.regularization"):
        tune(config, monkeypatch)


def test_a_damaged_study_is_refused(tmp_path):
    (tmp_path / "study.log").write_bytes(b"not json\nnot json\n")
    with pytest.raises(ValueError, match="expected an intact study"):
        journal(tmp_path)
