"""Searches of `fcf tune`: optuna studies in a journal that outlives its process."""

import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.tune.space import FACTORS, LambdaScale, Params, Space

FILE = "study.log"
SHAPES = (FACTORS, "server.memory")  # keys that decide about shapes: one value in a batch
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

Direction = Literal["minimize", "maximize"]


class Search(NamedTuple):
    """A search, from which its study follows.

    Attributes:
        name: of the study.
        start: values of the first trial, by key of the configuration.
        scale: between lambda and the parameter that stands for it.
        space: a distribution for each parameter of the start.
        num_trials: finished trials that end the search.
        facts: what a resumed search must have in common with the one that began the study, by name.
        direction: whether the metric is to be minimized or maximized.
        num_steps: sweeps or rounds of a trial, at most.
        seed: of the samplers.
        start_value: of the first trial, if it is known already: then trials are asked for one by one.
    """

    name: str
    start: Params
    scale: LambdaScale
    space: Space
    num_trials: int
    num_steps: int
    facts: dict[str, Any]
    direction: Direction
    seed: int
    start_value: float | None = None


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
        _begin(study, search)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        if left.user_attrs.get("is_start"):
            _begin(study, search)
        elif search.start_value is None and left.params.keys() == search.space.keys():
            study.enqueue_trial(left.params)  # with fewer keys, the process was killed while sampling
    return study


def _begin(study: Study, search: Search) -> None:
    attributes: Params = {"is_start": True}
    params = search.scale.effective(search.start)
    if search.start_value is None:
        study.enqueue_trial(params, user_attrs=attributes)
    else:
        attributes["values"] = search.start
        trial = create_trial(
            value=search.start_value, params=params, distributions=search.space, user_attrs=attributes
        )
        study.add_trial(trial)


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
        trials.append(_valued(study.ask(search.space), search))
        shape = {name: value for name, value in trials[0].params.items() if name in SHAPES}
    return trials


def ask_for(study: Study, search: Search, params: Params) -> Trial:
    """Begin a trial of given parameters, which a resumed search asks for again."""
    study.sampler = _sampler(params, [search.seed], num_random=0)
    return _valued(study.ask(search.space), search)


def _valued(trial: Trial, search: Search) -> Trial:
    """Store the values that a trial stands for: those of the start as configured, others rounded."""
    is_start = trial.user_attrs.get("is_start")
    trial.set_user_attr("values", search.start if is_start else search.scale.values(trial.params))
    return trial


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


def values_of(trial: Trial | FrozenTrial) -> Params:
    """Return the values of a trial, by key of the configuration; none if it was killed while sampling."""
    return trial.user_attrs.get("values", {})


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
    for name in now:
        if name not in begun:
            raise ConfigError(
                f"{name}: expected a study of this version, got one that does not know it; "
                "choose another --out"
            )
    for name in begun | now:
        if begun[name] != now.get(name):
            raise ConfigError(
                f"{name}: the study was begun with {begun.get(name)}, now it is {now.get(name)}; "
                "set it back or choose another --out"
            )


def _shapes(search: Search) -> list[Params]:
    """List the shapes, that of the start first; a space has at most one key of `SHAPES`."""
    return [
        {name: choice}
        for name in SHAPES
        if isinstance(distribution := search.space.get(name), CategoricalDistribution)
        for choice in sorted(distribution.choices, key=lambda choice: choice != search.start[name])
    ]


def _sampler(shape: Params, seeds: list[int], *, num_random: int) -> BaseSampler:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    with warnings.catch_warnings():  # optuna has called these experimental for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(n_startup_trials=num_random, multivariate=True, constant_liar=True, seed=seed)
        return PartialFixedSampler(shape, sampler)
