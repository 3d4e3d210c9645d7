"""Groups of runs that differ in their seeds alone, and the loss that all of them are compared with."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.experiments.report.drawing import SERIES
from fcf_jax.experiments.report.panels import Dash, LegendEntry, Line
from fcf_jax.experiments.report.read import Series, StoredRun

_SEEDS = ("data.seed", "federation.seed", "privacy.seed")
_WITHOUT_EFFECT = ("checkpoint.", "comparison.", "tuning.")  # on the outcome of a run
_PROBLEM = ("data.", "model.")  # losses of another problem are other numbers
_MOST_IN_A_LABEL = 2  # settings
_LONGEST_LABEL = 60  # characters
_DASHES: tuple[Dash, ...] = ("-", "--", "-.")
MOST_GROUPS = len(SERIES) * len(_DASHES)  # more looks than that there are not

Settings = dict[str, str]  # by key
_Key = tuple[tuple[str, str], ...]


class Reference(NamedTuple):
    """Loss that runs of one problem are compared with.

    Attributes:
        loss: of centralised ALS, or the lowest of all these runs if none has trained it.
        is_als: whether it is that of ALS.
    """

    loss: float
    is_als: bool


class Group(NamedTuple):
    """Runs that differ in their seeds alone.

    Attributes:
        entry: label and look.
        runs: at least one.
        settings: values of the keys that differ between the groups, or between the runs of a group.
    """

    entry: LegendEntry
    runs: list[StoredRun]
    settings: Settings

    def spread(self, value_of: Callable[[StoredRun], float | None]) -> tuple[float, float | None]:
        """Return mean and standard deviation (n - 1) over the runs; nan and None where they are unknown."""
        values = np.array([value_of(run) for run in self.runs], np.float64)
        values = values[np.isfinite(values)]
        mean = float(values.mean()) if values.size else np.nan
        return mean, float(values.std(ddof=1)) if values.size > 1 else None

    def line(self, series_of: Callable[[StoredRun], Series]) -> Line:
        """Return the mean of a series over the runs, and a band of one standard deviation around it.

        Points are those that all runs share which have any.
        """
        series = [one for one in map(series_of, self.runs) if len(one.rounds)]
        if not series:
            return Line(self.entry, np.zeros(0), np.zeros(0))
        shared = [rounds for rounds in series[0].rounds if all(rounds in one.rounds for one in series)]
        values = np.array([one.values[np.isin(one.rounds, shared)] for one in series])
        mean = values.mean(axis=0)
        if len(series) == 1:
            return Line(self.entry, np.array(shared), mean)
        sd = values.std(axis=0, ddof=1)
        return Line(self.entry, np.array(shared), mean, mean - sd, mean + sd)


def groups_of(runs: Sequence[StoredRun]) -> list[Group]:
    """Group runs by all settings but their seeds, in the order of the first run of each group."""
    flat = [_flat(run.config) for run in runs]
    by_settings: dict[_Key, list[int]] = {}
    for position, settings in enumerate(flat):
        kept = tuple(sorted((key, value) for key, value in settings.items() if key not in _SEEDS))
        by_settings.setdefault(kept, []).append(position)
    members = list(by_settings.values())
    keys = _differing(flat)
    labels = _labels([[runs[one].name for one in group] for group in members], keys, flat, members)
    return [
        Group(
            _entry(label, position),
            [runs[one] for one in group],
            {key: _joined(flat[one].get(key, "unset") for one in group) for key in keys},
        )
        for position, (label, group) in enumerate(zip(labels, members, strict=True))
    ]


def references_of(runs: Sequence[StoredRun]) -> dict[str, Reference]:
    """Return the loss to compare each run with, by name: one for all runs of the same problem.

    It is that of ALS on the same split; else the mean of ALS on other splits of the same data; else the
    lowest loss of any of these runs.
    """
    by_problem: dict[bool, dict[_Key, list[StoredRun]]] = {True: {}, False: {}}
    for has_seed, problems in by_problem.items():
        for run in runs:
            problems.setdefault(_problem(run, has_seed=has_seed), []).append(run)

    def reference(run: StoredRun) -> Reference:
        exact, alike = (
            problems[_problem(run, has_seed=has_seed)] for has_seed, problems in by_problem.items()
        )
        for same, choose in ((exact, np.min), (alike, np.mean)):
            if trained := [one.als_loss for one in same if one.als_loss is not None]:
                return Reference(float(choose(trained)), is_als=True)
        return Reference(float(np.fmin.reduce([one.lowest_loss for one in alike])), is_als=False)

    return {run.name: reference(run) for run in runs}


def _flat(config: dict[str, Any]) -> Settings:
    return {
        f"{section}.{key}": str(value).lower() if isinstance(value, bool) else str(value)
        for section, keys in config.items()
        for key, value in keys.items()
        if not f"{section}.".startswith(_WITHOUT_EFFECT)
    }


def _problem(run: StoredRun, *, has_seed: bool) -> _Key:
    return tuple(
        (key, value)
        for key, value in sorted(_flat(run.config).items())
        if key.startswith(_PROBLEM) and (has_seed or key not in _SEEDS)
    )


def _differing(flat: Sequence[Settings]) -> list[str]:
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in flat}) > 1]


def _joined(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _labels(
    names: Sequence[Sequence[str]], keys: Sequence[str], flat: Sequence[Settings], members: list[list[int]]
) -> list[str]:
    """Return a label for each group: the only name, otherwise what sets it apart."""
    telling = [key for key in keys if key not in _SEEDS][:_MOST_IN_A_LABEL]
    labels = []
    for group, of_group in zip(members, names, strict=True):
        settings = [f"{key.partition('.')[2]} {flat[group[0]].get(key, 'unset')}" for key in telling]
        label = of_group[0] if len(of_group) == 1 else ", ".join(settings) or f"{len(of_group)} runs"
        labels.append(label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 3]}...")
    return [
        f"{label}, {names[position][0]}" if labels.count(label) > 1 else label
        for position, label in enumerate(labels)
    ]


def _entry(label: str, position: int) -> LegendEntry:
    cycle, color = divmod(position, len(SERIES))
    return LegendEntry(label, SERIES[color], _DASHES[cycle % len(_DASHES)])
