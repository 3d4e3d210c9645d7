"""Bayesian optimisation as the paper does it: the model by centralised ALS, then the server's step by FCF.

Everything is measured on the validation set; the test set is not here (`held_out`).

References:
    arXiv:1901.09888, the choice of hyperparameters.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optuna
from jax.sharding import Mesh
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState

from fcf_jax.als import has_converged
from fcf_jax.evaluation import summarize
from fcf_jax.experiments.build.held_out import HeldOut
from fcf_jax.experiments.build.problem import Problem, resolve
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.loop import Schedule
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.tune.candidates import (
    CandidateData,
    Learner,
    Report,
    advance,
    als_learner,
    begin,
    candidate_data,
    candidate_mesh,
    federated_learner,
)
from fcf_jax.experiments.tune.search_space import SHAPES, Values, model_start, server_start, space_around
from fcf_jax.experiments.tune.study import (
    Direction,
    Search,
    ask,
    best_trial,
    num_finished,
    open_study,
    start_trial,
    values_of,
)

_REPORTS = 8  # of a trial, at each of which it may be pruned
MAY_CHANGE = ("parallel.", "data.path", "checkpoint.", "tuning.num_server_trials")  # as a study goes on


class Tuned(NamedTuple):
    """The outcome; a value is that of the metric on the validation set."""

    config: ExperimentConfig  # as given, with the best values
    model: Study | None  # by ALS
    server: Study | None  # by federations with the best model
    start_value: float | None  # of the federation as given; None where no server step was tried
    best_value: float  # of the federation as tuned; of ALS where no server step was tried


class _Stage(NamedTuple):
    """How trials are trained."""

    name: str
    make_learner: Callable[[Problem, CandidateData], Learner]
    num_trials: int
    num_steps: int  # sweeps or rounds of a trial, at most
    stops_early: bool  # once its loss hardly falls


class _Task(NamedTuple):
    """What all stages share."""

    config: ExperimentConfig
    held_out: HeldOut
    data: CandidateData
    mesh: Mesh
    storage: BaseStorage
    progress: ProgressLine


def metric_of(config: ExperimentConfig) -> str:
    """Name the metric that decides."""
    by_feedback = "rmse" if config.data.feedback == "explicit" else f"map_at_{config.evaluation.k}"
    return config.tuning.metric or by_feedback


def run_tuning(
    config: ExperimentConfig, held_out: HeldOut, storage: BaseStorage, progress: ProgressLine
) -> Tuned:
    """Tune the model, then the server's step on top of it; what is finished in the studies stays.

    The first trial of both searches is what is configured. At the end the federation that was found is
    held against the configured one, so that the outcome is never worse than that on the validation set.

    Args:
        config: as `load_config` resolved it, checked for "tune".
        held_out: what `load_held_out(config)` returned.
        storage: where the studies are kept, from `study.journal`.
        progress: where to say how far it is.

    Raises:
        ConfigError: when the studies there were begun with another configuration or other data.
        DivergedError: when no trial of a search came to its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task, tuning = _task(config, held_out, storage, progress), config.tuning
    num_rounds = config.federation.num_rounds
    model = server = None
    tuned, best_value = config, math.nan
    if tuning.num_model_trials:
        stage = _Stage("model", als_learner, tuning.num_model_trials, tuning.num_sweeps, True)
        model = _search(task, stage, config, model_start(config))
        tuned, best_value = _with_best(config, model)
    if not tuning.num_server_trials:
        return Tuned(tuned, model, None, None, best_value)
    stage = _Stage("server", federated_learner, tuning.num_server_trials, num_rounds, False)
    server = as_given = _search(task, stage, tuned, server_start(config))
    if tuned != config:
        as_given = _search(task, stage._replace(name="as_given", num_trials=1), config, {})
    tuned, best_value = _with_best(tuned, server)
    start_value = value_at_start(as_given)
    sign = -1 if _direction(config) == "minimize" else 1
    if sign * start_value > sign * best_value:  # the model that was found needs more rounds than there are
        tuned, best_value = config, start_value
    return Tuned(tuned, model, server, start_value, best_value)


def value_at_start(study: Study) -> float:
    """Return the value of what was configured, nan if that diverged."""
    trial = start_trial(study)
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan


def _task(config: ExperimentConfig, held_out: HeldOut, storage: BaseStorage, progress: ProgressLine) -> _Task:
    mesh = candidate_mesh(config.tuning.batch_size, max_devices=config.parallel.devices)
    sample = {"max_users": config.evaluation.max_users, "seed": config.data.seed}
    data = candidate_data(held_out.train, held_out.validation, mesh, **sample)
    return _Task(config, held_out, data, mesh, storage, progress)


def _search(task: _Task, stage: _Stage, config: ExperimentConfig, start: Values) -> Study:
    """Search around `start`, everything else as in `config`; what is told of a batch is told together."""
    search = Search(
        name=stage.name,
        start=start,
        space=space_around(config, start),
        num_trials=stage.num_trials,
        num_steps=stage.num_steps,
        facts=_facts(config, task.held_out),
        direction=_direction(config),
        seed=config.tuning.seed,
    )
    of_shape = [key for key in SHAPES if key in start]

    @functools.cache
    def learner_of(*shape: int) -> Learner:
        shaped = with_values(config, dict(zip(of_shape, shape, strict=True)))
        problem = resolve(shaped, task.held_out.dataset)._replace(formats=None)  # plain sums, in floats
        return stage.make_learner(problem, task.data)

    study = open_study(task.storage, search)
    while num_finished(study) < search.num_trials:
        trials = ask(study, search, batch_size=config.tuning.batch_size)
        learner = learner_of(*(trials[0].params[key] for key in of_shape))
        for trial, value in zip(trials, _train(task, stage, learner, trials), strict=True):
            study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
        _show(task, study, stage)
    if best_trial(study) is None:
        remedy = "raise tuning.regularization" if stage.name == "model" else "set a safer server.step"
        raise DivergedError(f"every trial of the {stage.name} diverged or was pruned; {remedy}")
    return study


def _train(task: _Task, stage: _Stage, learner: Learner, trials: list[Trial]) -> list[float | None]:
    """Train trials of one shape side by side.

    Returns:
        The value of each, None for those that were pruned or diverged.
    """
    tried = [values_of(trial) for trial in trials]
    settings = {name: [one[name] for one in tried] for name in tried[0] if name not in SHAPES}
    batch = begin(learner, settings, task.mesh, num_places=task.config.tuning.batch_size)
    values: list[float | None] = [None] * len(trials)
    is_running = [True] * len(trials)
    schedule = Schedule(stage.num_steps, evaluate_every=max(stage.num_steps // _REPORTS, 1))
    for first, size in schedule.reports:
        batch, report = advance(learner, batch, task.data, [size * running for running in is_running])
        done = first + size
        for place, trial in enumerate(trials):
            if not is_running[place]:
                continue
            one: Report = jax.tree.map(lambda leaf, place=place: leaf[place], report)
            value = _value(task.config, one)
            settles = stage.stops_early and bool(has_converged(one.previous_loss, one.loss))
            is_last = done == stage.num_steps or settles
            if math.isfinite(value):
                trial.report(value, done)
                values[place] = value if is_last else None
            is_running[place] = math.isfinite(value) and not is_last and not trial.should_prune()
        if not any(is_running):
            break
    return values


def _value(config: ExperimentConfig, report: Report) -> float:
    metrics = summarize(report.metrics, k=config.evaluation.k)
    return metrics[metric_of(config)] if report.is_finite else math.nan


def _with_best(config: ExperimentConfig, study: Study) -> tuple[ExperimentConfig, float]:
    trial = study.best_trial
    return with_values(config, values_of(trial)), study.best_value


def _direction(config: ExperimentConfig) -> Direction:
    return "minimize" if metric_of(config).endswith("rmse") else "maximize"


def _facts(config: ExperimentConfig, held_out: HeldOut) -> dict[str, Any]:
    """List what a study depends on, by key."""
    values = {
        f"{section}.{key}": value for section, keys in config.to_dict().items() for key, value in keys.items()
    }
    return {name: value for name, value in values.items() if not name.startswith(MAY_CHANGE)} | {
        "training data": held_out.train.fingerprint(),
        "validation data": held_out.validation.fingerprint(),
    }


def _show(task: _Task, study: Study, stage: _Stage) -> None:
    best = best_trial(study)
    values = {} if best is None else values_of(best)
    told = "  ".join(f"{name.partition('.')[2]} {value:.4g}" for name, value in values.items())
    status = "" if best is None else f"best {metric_of(task.config)} {best.value:.4f}: {told}"
    task.progress.show(f"{stage.name} trials", num_finished(study), stage.num_trials, status)
