"""Searches of `fcf tune`: start and space, and an optuna study in a journal that outlives its process."""

import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fcf_jax.experiments.config.schema import ModelConfig, ServerConfig, TuningConfig
from fcf_jax.experiments.errors import ConfigError

FILE = "study.log"
SHAPES = ("model.num_factors", "server.memory")  # keys that decide about shapes: one value in a batch
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_DIGITS = 4  # significant digits of a tried value: enough for distinct trials, and easy to read
_MEMORIES = [0, 2, 5, 10]
_RATE_FACTOR = 10.0  # learning rates are tried up to this factor above and below the step's default
_RANGES = {  # key -> low, high, whether logarithmic
    "server.b1": (0.0, 0.95, False),
    "server.b2": (0.9, 0.999, False),
    "server.confidence_factor": (0.5, 5.0, False),  # 1 is bold, 3 is safe on MovieLens
    "server.initial_damping": (0.5, 8.0, True),
}

Direction = Literal["minimize", "maximize"]
Params = dict[str, Any]  # values by key of the configuration, such as "model.alpha"
Space = dict[str, BaseDistribution]  # by key


class Search(NamedTuple):
    """A search, from which its study follows.

    Attributes:
        name: of the study.
        start: values of the first trial.
        space: a distribution for each key of the start.
        num_trials: finished trials that end the search.
        num_steps: sweeps or rounds of a trial, at most.
        facts: what a resumed search must have in common with the one that began the study, by name.
        direction: whether the metric is to be minimized or maximized.
        seed: of the samplers.
    """

    name: str
    start: Params
    space: Space
    num_trials: int
    num_steps: int
    facts: dict[str, Any]
    direction: Direction
    seed: int


def model_start(model: ModelConfig, feedback: str) -> Params:
    """Return the configured K, alpha (for implicit feedback only) and lambda."""
    alpha = {} if feedback == "explicit" else {"model.alpha": model.alpha}
    return {
        "model.num_factors": model.num_factors,
        **alpha,
        "model.regularization": model.regularization,
    }


def server_start(server: ServerConfig) -> Params:
    """Return the numbers that the server step uses: as configured, otherwise the defaults of the step."""
    resolved = {"learning_rate": "rate", "confidence_factor": "factor"}  # properties that fill in defaults
    keys = list(server.spec.tuned)
    if server.decay == "cosine":
        keys.append("server.final_learning_rate")
    names = {key: key.partition(".")[2] for key in keys}
    return {key: getattr(server, resolved.get(name, name)) for key, name in names.items()}


def space_around(start: Params, tuning: TuningConfig, server: ServerConfig) -> Space:
    """Return a distribution for each key of the start, wide enough to contain the start.

    Starts on a logarithmic scale are above 0, which the checks for "tune" guarantee.

    Args:
        start: from `model_start` or `server_start`.
        tuning: ranges of the model's keys.
        server: whose default learning rate is the middle of the range.
    """
    rate = server.spec.learning_rate or 0.0
    choices = {"model.num_factors": tuning.num_factors, "server.memory": _MEMORIES}
    ranges = _RANGES | {
        "model.alpha": (*tuning.alpha, True),
        "model.regularization": (*tuning.regularization, True),
        "server.learning_rate": (rate / _RATE_FACTOR, rate * _RATE_FACTOR, True),
        "server.final_learning_rate": (0.0, rate / _RATE_FACTOR, False),
    }
    space: Space = {}
    for key, value in start.items():
        if key in choices:
            space[key] = CategoricalDistribution(sorted({*choices[key], value}))
        else:
            low, high, is_logarithmic = ranges[key]
            space[key] = FloatDistribution(min(low, value), max(high, value), log=is_logarithmic)
    return space


def journal(folder: Path) -> BaseStorage:
    """Open the studies of a folder that this process has locked (`run_directory.claimed`).

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / FILE
    _drop_torn_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_AlreadyLocked(str(path))))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected an intact study, got {error}; choose another --out") from error


def open_study(storage: BaseStorage, search: Search) -> Study:
    """Open or create the study of a search, and enqueue the trials that a killed process left unfinished.

    `MedianPruner` suits learning curves that are alike and seldom cross; Hyperband's brackets would need
    more than a few tens of trials. Nothing is pruned before five trials have ended, nor in the first quarter
    of a trial.

    Raises:
        ConfigError: if the study was begun with another configuration or other data.
    """
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=search.num_steps // 4)
    if search.name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=search.name, storage=storage, pruner=pruner)
    else:
        study = optuna.create_study(
            study_name=search.name, storage=storage, pruner=pruner, direction=search.direction
        )
    if "facts" not in study.user_attrs:
        study.set_user_attr("facts", search.facts)
    _check_facts(study.user_attrs["facts"], search.facts)
    if not study.trials:
        study.enqueue_trial(search.start, user_attrs={"is_start": True})
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        if left.user_attrs.get("is_start"):
            study.enqueue_trial(search.start, user_attrs={"is_start": True})
        elif left.params.keys() == search.space.keys():  # otherwise the process was killed while sampling
            study.enqueue_trial(left.params)
    return study


def ask(study: Study, search: Search, *, batch_size: int) -> list[Trial]:
    """Sample a batch of trials of one shape: the first trial decides it, the others vary the other numbers.

    The first batches take each shape once, with random numbers, so that every shape is seen; later ones come
    from the tree-structured Parzen estimator, which keeps away from trials that still run (constant liar).
    Seeds derive from the number of finished trials, so that a resumed search continues unchanged.
    """
    num_done, shapes = len(finished(study)), _shapes(search)
    turn = num_done // batch_size
    shape = shapes[turn] if turn < len(shapes) else {}
    trials: list[Trial] = []
    for place in range(min(batch_size, search.num_trials - num_done)):
        num_random = max(batch_size * len(shapes), search.num_trials // 5)
        study.sampler = _sampler(shape, [search.seed, num_done, place], num_random=num_random)
        trials.append(study.ask(search.space))
        shape = {name: value for name, value in trials[0].params.items() if name in SHAPES}
    return trials


def finished(study: Study) -> list[FrozenTrial]:
    """Return the completed and the pruned trials."""
    return study.get_trials(deepcopy=False, states=_FINISHED)


def best_trial(study: Study) -> FrozenTrial | None:
    """Return the best completed trial, the first of equals; None if there is none."""
    is_complete = any(trial.state == TrialState.COMPLETE for trial in finished(study))
    return study.best_trial if is_complete else None


def start_trial(study: Study) -> FrozenTrial:
    """Return the finished trial of the configured values."""
    return next(trial for trial in finished(study) if trial.user_attrs.get("is_start"))


def params_of(trial: Trial | FrozenTrial) -> Params:
    """Return the values of a trial, rounded to a few digits; those of the start as configured."""
    if trial.user_attrs.get("is_start"):
        return trial.params
    return {name: _rounded(value) for name, value in trial.params.items()}


class _AlreadyLocked(JournalFileOpenLock):
    """Lock that does nothing: this process holds the lock of the folder."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line, left by a process that was killed while writing."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _check_facts(begun: dict[str, Any], now: dict[str, Any]) -> None:
    for name in begun | now:
        if begun.get(name) != now.get(name):
            raise ConfigError(
                f"{name}: the study was begun with {begun.get(name)}, now it is {now.get(name)}; "
                "set it back or choose another --out"
            )


def _shapes(search: Search) -> list[Params]:
    """List the shapes, that of the start first; a space has at most one key of `SHAPES`."""
    return [
        {name: choice}
        for name, distribution in search.space.items()
        if isinstance(distribution, CategoricalDistribution)
        for choice in sorted(distribution.choices, key=lambda choice: choice != search.start[name])
    ]


def _sampler(shape: Params, seeds: list[int], *, num_random: int) -> BaseSampler:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    with warnings.catch_warnings():  # optuna has called these experimental for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(n_startup_trials=num_random, multivariate=True, constant_liar=True, seed=seed)
        return PartialFixedSampler(shape, sampler)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
