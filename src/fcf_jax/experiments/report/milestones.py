"""Milestones of a run: when it first reached a goal, and the bytes until then."""

from typing import NamedTuple

import numpy as np

from fcf_jax.experiments.report.read import StoredRun
from fcf_jax.experiments.report.wording import metric_text, percent_text

_LOSS_LEVELS = (10.0, 1.0, 0.1)  # percent above the final loss of ALS
_METRIC_SHARE = 0.995  # of the final value of ALS


class Milestone(NamedTuple):
    """When a goal was first reached; None if it was not, or not measured.

    Attributes:
        goal: in words.
        rounds: of the federation.
        bytes: sent and received by all clients in these rounds.
        sweeps: of ALS.
        virtual_seconds: on the clock of the clients' devices; None without a clock, too.
    """

    goal: str
    rounds: int | None
    bytes: float | None
    sweeps: int | None
    virtual_seconds: float | None = None


def milestones(run: StoredRun) -> list[Milestone]:
    """Return the first round within 10, 1 and 0.1 % of the loss of ALS, and at 99.5 % of its MAP.

    Empty without ALS to compare with.
    """
    centralized, name = run.side("centralized"), run.leading_metric
    if not centralized:
        return []
    rounds, sweeps = run.excess_loss(), run.excess_loss("als_sweep")
    found = [
        _milestone(
            run,
            f"loss within {percent_text(level, decimals=None, is_signed=False)} of ALS's",
            _first(rounds.rounds, rounds.values <= level),
            _first(sweeps.rounds, sweeps.values <= level),
        )
        for level in _LOSS_LEVELS
    ]
    if name != "rmse" and centralized.get(name) is not None:
        evaluated = run.series("evaluation", name)
        share = percent_text(100 * _METRIC_SHARE, decimals=None, is_signed=False)
        reached = _first(evaluated.rounds, evaluated.values >= _METRIC_SHARE * centralized[name])
        found.append(_milestone(run, f"{metric_text(name)} at {share} of ALS's", reached, None))
    return found


def _milestone(run: StoredRun, goal: str, rounds: int | None, sweeps: int | None) -> Milestone:
    if rounds is None:
        return Milestone(goal, None, None, sweeps)
    ends = run.series("round", "virtual_seconds").values[:rounds]
    is_timed = ends.size > 0 and bool(np.isfinite(ends[-1]))
    return Milestone(
        goal, rounds, rounds * run.bytes_per_round, sweeps, float(ends[-1]) if is_timed else None
    )


def _first(rounds: np.ndarray, is_reached: np.ndarray) -> int | None:
    return int(rounds[is_reached.argmax()]) if is_reached.any() else None
