"""A search that survives its process: an optuna study in a journal file, asked for batches of one shape."""

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
from optuna.trial import FrozenTrial, Trial, TrialState

from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.tune.search_space import SHAPES, Space, Values

FILE = "study.log"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_DIGITS = 4  # of a value that is tried: enough to tell settings apart, and a config stays readable

Direction = Literal["minimize", "maximize"]


class Search(NamedTuple):
    """One search: where it starts, over what, for how many trials of how many steps."""

    name: str
    start: Values
    space: Space
    num_trials: int
    num_steps: int  # sweeps or rounds of a trial, at most
    facts: dict[str, Any]  # what must be the same when the search is resumed, by key
    direction: Direction
    seed: int


def journal(folder: Path) -> BaseStorage:
    """Open the studies of a folder that this process has claimed (`run_directory.claimed`).

    Raises:
        ValueError: when the file is damaged.
    """
    path = folder / FILE
    _drop_torn_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_LockedAlready(str(path))))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected an intact study, got {error}; start anew") from error


def open_study(storage: BaseStorage, search: Search) -> Study:
    """Open or begin the study of a search; trials that a killed process left behind are to be tried again.

    `MedianPruner`, as the curves of candidates are alike and seldom cross, and it needs no budget for
    brackets, which a few tens of trials could not fill (Hyperband). Nothing is pruned before five trials
    have ended, nor in the first quarter of a trial.

    Raises:
        ConfigError: for a study that was begun with another configuration or other data.
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
    _refuse_other(study.user_attrs["facts"], search.facts)
    if not study.trials:
        study.enqueue_trial(search.start, user_attrs={"is_start": True})
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        if left.user_attrs.get("is_start"):
            study.enqueue_trial(search.start, user_attrs={"is_start": True})
        elif left.params.keys() == search.space.keys():  # else it was killed while being asked for
            study.enqueue_trial(left.params)
    return study


def ask(study: Study, search: Search, *, batch_size: int) -> list[Trial]:
    """Ask for trials that agree in shape: the first decides, the others try other numbers.

    The first batches take the shapes in turn, at random otherwise, so that none is judged unseen; then the
    tree-structured Parzen estimator, told to keep away from trials that still run (constant liar). The
    seed of a trial counts what is finished: a resumed search goes on as if nothing had happened.
    """
    num_done, shapes = num_finished(study), _shapes(search)
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
    """Return the trials that count: completed, or pruned."""
    return study.get_trials(deepcopy=False, states=_FINISHED)


def num_finished(study: Study) -> int:
    """Count the trials that count."""
    return len(finished(study))


def best_trial(study: Study) -> FrozenTrial | None:
    """Return the best trial that was completed; of equals the first."""
    is_complete = any(trial.state == TrialState.COMPLETE for trial in finished(study))
    return study.best_trial if is_complete else None


def start_trial(study: Study) -> FrozenTrial:
    """Return the finished trial of the configured values."""
    return next(trial for trial in finished(study) if trial.user_attrs.get("is_start"))


def values_of(trial: Trial | FrozenTrial) -> Values:
    """Return what is tried, rounded to a few digits; the start as it was configured."""
    if trial.user_attrs.get("is_start"):
        return trial.params
    return {name: _rounded(value) for name, value in trial.params.items()}


class _LockedAlready(JournalFileOpenLock):
    """For a journal of one process: the folder is locked as long as it runs, and no longer."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _drop_torn_line(path: Path) -> None:
    """Cut off what a process that was killed while writing left behind the last whole line."""
    if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _refuse_other(begun: dict[str, Any], now: dict[str, Any]) -> None:
    for name in begun | now:
        if begun.get(name) != now.get(name):
            raise ConfigError(
                f"{name}: the study was begun with {begun.get(name)}, now it is {now.get(name)}; "
                "set it back or choose another --out"
            )


def _shapes(search: Search) -> list[Values]:
    """List the shapes, that of the start first; a search has at most one key that decides about them."""
    return [
        {name: choice}
        for name, distribution in search.space.items()
        if isinstance(distribution, CategoricalDistribution)
        for choice in sorted(distribution.choices, key=lambda choice: choice != search.start[name])
    ]


def _sampler(shape: Values, seeds: list[int], *, num_random: int) -> BaseSampler:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    with warnings.catch_warnings():  # optuna has called these experimental for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(n_startup_trials=num_random, multivariate=True, constant_liar=True, seed=seed)
        return PartialFixedSampler(shape, sampler)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
