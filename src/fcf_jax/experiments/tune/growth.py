"""Growth of K after a search at small K: larger values in turn, as long as the metric rises.

The best alpha and nu hardly depend on K, and lambda little: a large K needs a few trials of lambda around the
best one, where a search of everything would be slow.

References:
    Rendle et al., RecSys 2022, "Revisiting the Performance of iALS", section 4.3: K is doubled last.
"""

import math

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.tune.space import FACTORS, LAMBDA, Params, Space, rounded
from fcf_jax.experiments.tune.study import Search, ask_for, finished, values_of
from fcf_jax.experiments.tune.trials import Stage, Task, begin_search, show, trainer

_MULTIPLES = tuple(1.5**power for power in (0, 1, -1, 2, -2))  # of the best lambda so far, in this order


def grow(task: Task, stage: Stage, config: ExperimentConfig, value: float) -> Study | None:
    """Try each larger K with a few lambdas, beginning with the best one so far, until none is better.

    Args:
        task: data and storage.
        stage: training of the trials, `num_trials` of them for each K.
        config: best configuration of the search.
        value: its value of the metric.

    Returns:
        The study, whose first trial is the best of the search; None if there is no larger K.

    Raises:
        ConfigError: if the study was begun with another configuration or other data.
    """
    larger = sorted(k for k in config.tuning.num_factors if k > config.model.num_factors)
    if not larger or not stage.num_trials:
        return None
    start: Params = {FACTORS: config.model.num_factors, LAMBDA: config.model.regularization}
    room = max(_MULTIPLES) ** (len(larger) + 1)  # lambda moves by less than this factor in all
    space: Space = {
        FACTORS: CategoricalDistribution([start[FACTORS], *larger]),
        LAMBDA: FloatDistribution(start[LAMBDA] / room, start[LAMBDA] * room, log=True),
    }
    search, study = begin_search(task, stage, config, start, space=space, start_value=value)
    train = trainer(task, stage, config, search)
    for num_factors in larger:
        before = _best(study, search, below=num_factors)
        first = values_of(before)[LAMBDA]
        wanted = [rounded(first * multiple) for multiple in _MULTIPLES[: stage.num_trials]]
        done = sum(values_of(one)[FACTORS] == num_factors for one in finished(study))
        while done < len(wanted):
            batch = [
                ask_for(study, search, {FACTORS: num_factors, LAMBDA: regularization})
                for regularization in wanted[done : done + task.batch_size]
            ]
            train(study, batch)
            done += len(batch)
            show(task, study, f"K = {num_factors} trials", done, len(wanted))
        if not task.is_better(study.best_value, _value_of(before)):
            break
    return study


def _best(study: Study, search: Search, *, below: int) -> FrozenTrial:
    """Return the best trial of a smaller K."""
    smaller = [one for one in finished(study) if one.value is not None and values_of(one)[FACTORS] < below]
    complete = [one for one in smaller if one.state == TrialState.COMPLETE]
    return (min if search.direction == "minimize" else max)(complete, key=_value_of)


def _value_of(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value
