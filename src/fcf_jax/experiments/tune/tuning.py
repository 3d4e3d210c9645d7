"""`fcf tune`: Bayesian optimization as in the paper, of the model by ALS and then of the server step.

Candidates are scored on the validation set; the test set is not loaded here (`held_out`).

References:
    arXiv:1901.09888, the choice of hyperparameters.
"""

import math
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from fcf_jax.evaluation import popularity, summarize, user_metrics_of_scores
from fcf_jax.experiments.build.held_out import HeldOut
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.tune.candidates import als_learner, candidate_data, candidate_mesh, federated_learner
from fcf_jax.experiments.tune.growth import grow
from fcf_jax.experiments.tune.space import lambda_scale, model_start, notes_on_bounds, server_start
from fcf_jax.experiments.tune.study import start_trial, values_of
from fcf_jax.experiments.tune.trials import Stage, Task, search_all


class Tuned(NamedTuple):
    """Result of tuning; values are those of the metric on the validation set.

    Attributes:
        given: configuration before tuning.
        config: the same with the best values.
        model: study by ALS; None if the model was not tuned.
        factors: study of larger K by ALS; None if there was none to try.
        server: study by federations with the best model; None if the server step was not tuned.
        start_value: value of the federation before tuning; None if the server step was not tuned.
        best_value: value of the federation after tuning, of ALS if the server step was not tuned.
        popularity: value of the ranking by popularity; None for an error, which it does not predict.
        at_bounds: a sentence for each value found at the end of its range.
    """

    given: ExperimentConfig
    config: ExperimentConfig
    model: Study | None
    factors: Study | None
    server: Study | None
    start_value: float | None
    best_value: float
    popularity: float | None
    at_bounds: tuple[str, ...]

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return self.given.tuning_metric

    @property
    def studies(self) -> dict[str, Study]:
        """The studies by name, in order: "model", "factors" and "server", as far as there are any."""
        studies = {"model": self.model, "factors": self.factors, "server": self.server}
        return {name: study for name, study in studies.items() if study is not None}


def run_tuning(
    config: ExperimentConfig, held_out: HeldOut, storage: BaseStorage, progress: ProgressLine
) -> Tuned:
    """Tune the model, then K, then the server step on top of them; finished trials of the studies are kept.

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
    model = factors = server = start_value = None
    tuned, best_value = config, math.nan
    if tuning.num_model_trials:
        stage = Stage("model", als_learner, tuning.num_model_trials, tuning.num_sweeps, stops_early=True)
        model = search_all(task, stage, config, model_start(config))
        tuned, best_value = _improved(config, model)
        stage = stage._replace(name="factors", num_trials=tuning.num_factors_trials)
        if factors := grow(task, stage, tuned, best_value):
            tuned, best_value = _improved(tuned, factors)
    if tuning.num_server_trials:
        num_rounds = config.federation.num_rounds
        stage = Stage("server", federated_learner, tuning.num_server_trials, num_rounds, stops_early=False)
        server = as_given = search_all(task, stage, tuned, server_start(config.server))
        if tuned != config:
            as_given = search_all(task, stage._replace(name="as_given", num_trials=1), config, {})
        tuned, best_value = _improved(tuned, server)
        start_value = value_at_start(as_given)
        if task.is_better(start_value, best_value):  # the tuned model needs more rounds than there are
            tuned, best_value = config, start_value
    notes = notes_on_bounds(tuned, config, task.scale) if model else ()
    return Tuned(
        config, tuned, model, factors, server, start_value, best_value, _popularity(task, config), notes
    )


def _improved(config: ExperimentConfig, study: Study) -> tuple[ExperimentConfig, float]:
    """Return the configuration with the best values of a study, and its value of the metric."""
    return with_values(config, values_of(study.best_trial)), study.best_value


def _popularity(task: Task, config: ExperimentConfig) -> float | None:
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
) -> Task:
    mesh = candidate_mesh(config.tuning.batch_size, max_devices=config.parallel.devices)
    data = candidate_data(
        held_out.train,
        held_out.validation,
        mesh,
        fold_in=held_out.fold_in,
        negatives=held_out.negatives,
        max_users=config.evaluation.max_users,
        seed=config.data.seed,
    )
    return Task(
        held_out,
        data,
        mesh,
        storage,
        progress,
        metric=config.tuning_metric,
        k=config.evaluation.lengths,
        batch_size=config.tuning.batch_size,
        scale=lambda_scale(config, held_out.train),
    )
