"""`fcf tune`: Bayesian optimization as in the paper, of the model by ALS and then of the server step.

Candidates are scored on the validation set; the test set is not loaded here (`held_out`).

References:
    arXiv:1901.09888, the choice of hyperparameters.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optuna
from jax.sharding import Mesh
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState

from fcf_jax.als import has_converged
from fcf_jax.evaluation import popularity, summarize, user_metrics_of_scores
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
from fcf_jax.experiments.tune.study import (
    SHAPES,
    Direction,
    Params,
    Search,
    ask,
    best_trial,
    finished,
    model_start,
    open_study,
    params_of,
    server_start,
    space_around,
    start_trial,
)

_REPORTS = 8  # of a trial, at each of which it may be pruned
MAY_CHANGE = (
    "parallel.",
    "data.path",
    "data.train_path",
    "data.test_path",
    "checkpoint.",
    "tuning.num_server_trials",
)  # when a study is resumed


class Tuned(NamedTuple):
    """Result of tuning; values are those of the metric on the validation set.

    Attributes:
        given: configuration before tuning.
        config: the same with the best values.
        model: study by ALS; None if the model was not tuned.
        server: study by federations with the best model; None if the server step was not tuned.
        start_value: value of the federation before tuning; None if the server step was not tuned.
        best_value: value of the federation after tuning, of ALS if the server step was not tuned.
        popularity: value of the ranking by popularity; None for an error, which it does not predict.
    """

    given: ExperimentConfig
    config: ExperimentConfig
    model: Study | None
    server: Study | None
    start_value: float | None
    best_value: float
    popularity: float | None

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return self.given.tuning_metric

    @property
    def studies(self) -> dict[str, Study]:
        """The studies by name: "model" and "server", if there are any."""
        studies = {"model": self.model, "server": self.server}
        return {name: study for name, study in studies.items() if study is not None}


class _Stage(NamedTuple):
    """Training of the trials of one study.

    Attributes:
        name: of the study.
        make_learner: sets up the training of a candidate.
        num_trials: finished trials that end the stage.
        num_steps: sweeps or rounds of a trial, at most.
        stops_early: whether a trial ends when its loss has converged.
    """

    name: str
    make_learner: Callable[[Problem, CandidateData], Learner]
    num_trials: int
    num_steps: int
    stops_early: bool


class _Task(NamedTuple):
    """Constants of all stages.

    Attributes:
        held_out: training and validation set.
        data: the same, packed on every device of the mesh.
        mesh: devices that share the candidates.
        storage: of the studies.
        progress: shows the progress.
        metric: that decides.
        k: lengths of the recommendation lists.
        batch_size: candidates side by side.
    """

    held_out: HeldOut
    data: CandidateData
    mesh: Mesh
    storage: BaseStorage
    progress: ProgressLine
    metric: str
    k: tuple[int, ...]
    batch_size: int

    @property
    def direction(self) -> Direction:
        """Whether the metric is to be minimized or maximized."""
        return "minimize" if self.metric.endswith("rmse") else "maximize"

    def is_better(self, value: float, other: float) -> bool:
        """Return whether a value of the metric is better than another; False for nan."""
        return value < other if self.direction == "minimize" else value > other


def run_tuning(
    config: ExperimentConfig, held_out: HeldOut, storage: BaseStorage, progress: ProgressLine
) -> Tuned:
    """Tune the model, then the server step on top of it; finished trials of the studies are kept.

    The first trial of each study has the configured values. At the end the tuned federation is compared
    with the configured one, so that the result is never worse on the validation set.

    Args:
        config: from `load_config`, checked for "tune".
        held_out: from `load_held_out(config)`.
        storage: of the studies, from `study.journal`.
        progress: shows the progress.

    Raises:
        ConfigError: if the studies were begun with another configuration or other data.
        DivergedError: if no trial of a study was completed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task, tuning = _prepare(config, held_out, storage, progress), config.tuning
    model = server = start_value = None
    tuned, best_value = config, math.nan
    if tuning.num_model_trials:
        stage = _Stage("model", als_learner, tuning.num_model_trials, tuning.num_sweeps, stops_early=True)
        model = _search(task, stage, config, model_start(config.model, config.data.feedback))
        tuned, best_value = with_values(config, params_of(model.best_trial)), model.best_value
    if tuning.num_server_trials:
        num_rounds = config.federation.num_rounds
        stage = _Stage("server", federated_learner, tuning.num_server_trials, num_rounds, stops_early=False)
        server = as_given = _search(task, stage, tuned, server_start(config.server))
        if tuned != config:
            as_given = _search(task, stage._replace(name="as_given", num_trials=1), config, {})
        tuned, best_value = with_values(tuned, params_of(server.best_trial)), server.best_value
        start_value = value_at_start(as_given)
        if task.is_better(start_value, best_value):  # the tuned model needs more rounds than there are
            tuned, best_value = config, start_value
    return Tuned(config, tuned, model, server, start_value, best_value, _popularity(task, config))


def _popularity(task: _Task, config: ExperimentConfig) -> float | None:
    if task.direction == "minimize":
        return None
    model = resolve(config, task.held_out.dataset).model
    shares = popularity(task.held_out.train)
    metrics = user_metrics_of_scores(model, shares, task.data.validation, k=task.k)
    return summarize(metrics)[task.metric]


def value_at_start(study: Study) -> float:
    """Return the value of the configured start; nan if it diverged."""
    trial = start_trial(study)
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan


def _prepare(
    config: ExperimentConfig, held_out: HeldOut, storage: BaseStorage, progress: ProgressLine
) -> _Task:
    mesh = candidate_mesh(config.tuning.batch_size, max_devices=config.parallel.devices)
    data = candidate_data(
        held_out.train,
        held_out.validation,
        mesh,
        fold_in=held_out.fold_in,
        max_users=config.evaluation.max_users,
        seed=config.data.seed,
    )
    return _Task(
        held_out,
        data,
        mesh,
        storage,
        progress,
        metric=config.tuning_metric,
        k=config.evaluation.lengths,
        batch_size=config.tuning.batch_size,
    )


def _search(task: _Task, stage: _Stage, config: ExperimentConfig, start: Params) -> Study:
    """Search around `start`, with everything else as in `config`; batches of trials end together."""
    values = {key: value for key, value in config.by_key().items() if not key.startswith(MAY_CHANGE)}
    fingerprints = {
        "training data": task.held_out.train.fingerprint(),
        "validation data": task.held_out.validation.fingerprint(),
    }
    search = Search(
        name=stage.name,
        start=start,
        space=space_around(start, config.tuning, config.server),
        num_trials=stage.num_trials,
        num_steps=stage.num_steps,
        facts=values | fingerprints,
        direction=task.direction,
        seed=config.tuning.seed,
    )
    shape_keys = [key for key in SHAPES if key in start]

    @functools.cache
    def learner_of(*shape: int) -> Learner:
        task.progress.compiling(f"{stage.name} trials")
        shaped = with_values(config, dict(zip(shape_keys, shape, strict=True)))
        problem = resolve(shaped, task.held_out.dataset)._replace(formats=None)  # sums in floating point
        return stage.make_learner(problem, task.data)

    study = open_study(task.storage, search)
    while len(finished(study)) < search.num_trials:
        trials = ask(study, search, batch_size=task.batch_size)
        learner = learner_of(*(trials[0].params[key] for key in shape_keys))
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
    params = [params_of(trial) for trial in trials]
    settings = {key: [each[key] for each in params] for key in params[0] if key not in SHAPES}
    batch = begin(learner, settings, task.mesh, num_places=task.batch_size)
    values: list[float | None] = [None] * len(trials)
    is_running = [True] * len(trials)
    schedule = Schedule(stage.num_steps, evaluate_every=max(stage.num_steps // _REPORTS, 1))
    for first, size in schedule.reports:
        batch, report = advance(learner, batch, task.data, [size * running for running in is_running])
        done = first + size
        for place, trial in enumerate(trials):
            if not is_running[place]:
                continue
            of_trial: Report = jax.tree.map(lambda leaf, place=place: leaf[place], report)
            value = summarize(of_trial.metrics)[task.metric] if of_trial.is_finite else math.nan
            has_settled = stage.stops_early and bool(has_converged(of_trial.previous_loss, of_trial.loss))
            is_last = done == stage.num_steps or has_settled
            if math.isfinite(value):
                trial.report(value, done)
                values[place] = value if is_last else None
            is_running[place] = math.isfinite(value) and not is_last and not trial.should_prune()
        if not any(is_running):
            break
    return values


def _show(task: _Task, study: Study, stage: _Stage) -> None:
    best, status = best_trial(study), ""
    if best is not None:
        params = (f"{key.partition('.')[2]} {value:.4g}" for key, value in params_of(best).items())
        status = f"best {task.metric} {best.value:.4f}: {'  '.join(params)}"
    task.progress.show(f"{stage.name} trials", len(finished(study)), stage.num_trials, status)
