"""Trials of a search: one search from its start to its end, trials of one shape side by side."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
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
from fcf_jax.experiments.tune.candidates import CandidateData, Learner, Report, advance, begin
from fcf_jax.experiments.tune.space import FACTORS, LambdaScale, Params, Space, space_around
from fcf_jax.experiments.tune.study import (
    SHAPES,
    Direction,
    Search,
    ask,
    best_trial,
    finished,
    open_study,
    values_of,
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


class Stage(NamedTuple):
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


class Task(NamedTuple):
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
        scale: of lambda.
    """

    held_out: HeldOut
    data: CandidateData
    mesh: Mesh
    storage: BaseStorage
    progress: ProgressLine
    metric: str
    k: tuple[int, ...]
    batch_size: int
    scale: LambdaScale

    @property
    def direction(self) -> Direction:
        """Whether the metric is to be minimized or maximized."""
        return "minimize" if self.metric.endswith("rmse") else "maximize"

    def is_better(self, value: float, other: float) -> bool:
        """Return whether a value of the metric is better than another; False for nan."""
        return value < other if self.direction == "minimize" else value > other


def begin_search(
    task: Task,
    stage: Stage,
    config: ExperimentConfig,
    start: Params,
    space: Space | None = None,
    start_value: float | None = None,
) -> tuple[Search, Study]:
    """Describe a search around `start`, and open its study.

    Args:
        task: data and storage.
        stage: training of the trials.
        config: everything that is not searched.
        start: values of the first trial.
        space: of the parameters; None: as wide as the section `tuning` says.
        start_value: of the first trial, if it is known.

    Raises:
        ConfigError: if the study was begun with another configuration or other data.
    """
    values = {key: value for key, value in config.by_key().items() if not key.startswith(MAY_CHANGE)}
    fingerprints = {
        "training data": task.held_out.train.fingerprint(),
        "validation data": task.held_out.validation.fingerprint(),
    }
    search = Search(
        name=stage.name,
        start=start,
        scale=task.scale,
        space=space or space_around(task.scale.effective(start), config.tuning, config.server),
        num_trials=stage.num_trials,
        num_steps=stage.num_steps,
        facts=values | fingerprints,
        direction=task.direction,
        seed=config.tuning.seed,
        start_value=start_value,
    )
    return search, open_study(task.storage, search)


def search_all(task: Task, stage: Stage, config: ExperimentConfig, start: Params) -> Study:
    """Search around `start`, with everything else as in `config`; batches of trials end together.

    Raises:
        DivergedError: if no trial was completed.
        ConfigError: if the study was begun with another configuration or other data.
    """
    search, study = begin_search(task, stage, config, start)
    train = trainer(task, stage, config, search)
    while len(finished(study)) < search.num_trials:
        train(study, ask(study, search, batch_size=task.batch_size))
        show(task, study, f"{stage.name} trials", len(finished(study)), stage.num_trials)
    if best_trial(study) is None:
        remedy = "raise tuning.regularization" if stage.name == "model" else "set a safer server.step"
        raise DivergedError(f"every trial of the {stage.name} diverged or was pruned; {remedy}")
    return study


def trainer(
    task: Task, stage: Stage, config: ExperimentConfig, search: Search
) -> Callable[[Study, list[Trial]], None]:
    """Return a function that trains trials of one shape and tells the study how good they are."""
    shape_keys = [key for key in SHAPES if key in search.space]
    constant = {key for key, distribution in search.space.items() if distribution.single()}

    @functools.cache
    def learner_of(*shape: int) -> Learner:
        shaped = dict(zip(shape_keys, shape, strict=True))
        num_factors = shaped.get(FACTORS, config.model.num_factors)
        task.progress.compiling(f"{stage.name} trials, K = {num_factors}")
        problem = resolve(with_values(config, shaped), task.held_out.dataset)
        return stage.make_learner(problem._replace(formats=None), task.data)  # sums in floating point

    def train(study: Study, trials: list[Trial]) -> None:
        learner = learner_of(*(trials[0].params[key] for key in shape_keys))
        values = _train(task, stage, learner, trials, {*SHAPES, *constant})
        for trial, value in zip(trials, values, strict=True):
            study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)

    return train


def _train(
    task: Task, stage: Stage, learner: Learner, trials: list[Trial], constant: set[str]
) -> list[float | None]:
    """Train trials of one shape side by side.

    Returns:
        The value of each, None for those that were pruned or diverged.
    """
    values_of_each = [values_of(trial) for trial in trials]
    varied = [key for key in values_of_each[0] if key not in constant]
    settings = {key: [each[key] for each in values_of_each] for key in varied}
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


def show(task: Task, study: Study, what: str, done: int, num_trials: int) -> None:
    """Show how many trials have ended, and the best of the study."""
    best, status = best_trial(study), ""
    if best is not None:
        found = (f"{key.partition('.')[2]} {value:.4g}" for key, value in values_of(best).items())
        status = f"best {task.metric} {best.value:.4f}: {'  '.join(found)}"
    task.progress.show(what, done, num_trials, status)
