"""Outcome of a sweep: runs averaged over their seeds, what they cost, and which of them none other beats."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fcf_jax.experiments.config.protection import Protection
from fcf_jax.experiments.store.files import Document
from fcf_jax.experiments.sweep.plan import Combination, is_seed, metric_of, value_text
from fcf_jax.experiments.sweep.runs import Prepared
from fcf_jax.messages import count_of
from fcf_jax.privacy.composition import Release, composed_epsilon

FINISHED = "finished"
COSTS = ("bytes_per_client", "epsilon", "virtual_seconds")  # what a configuration may cost
_FACTS = ("num_rounds", "cohort_size", "num_uploads", "payload_bytes_up", "payload_bytes_down")
_SAME = 1e-7  # relative difference of results that are the same

_Settings = tuple[tuple[str, str], ...]


class _Member(NamedTuple):
    """A run of the sweep with its record."""

    combination: Combination
    record: Document

    @property
    def is_finished(self) -> bool:
        return self.record["status"] == FINISHED


def non_dominated(points: Float[np.ndarray, "points objectives"]) -> Bool[np.ndarray, "points"]:
    """Mark the points that no other is as good as in everything and better than in something.

    Args:
        points: lower is better in every column; a point with a nan is not marked, and dominates none.
    """
    is_known = ~np.isnan(points).any(axis=1)
    known = points[is_known]
    as_good = (known[:, None] <= known[None]).all(axis=-1)  # [better, worse, objectives]
    better = (known[:, None] < known[None]).any(axis=-1)
    marked = np.zeros(len(points), bool)
    marked[is_known] = ~(as_good & better).any(axis=0)
    return marked


def document_of(
    prepared: Prepared, records: Sequence[Document], *, num_programs: int, seconds: float
) -> Document:
    """Return the content of `sweep.json`.

    Args:
        prepared: what was trained.
        records: of all runs, in their order.
        num_programs: that were compiled for them.
        seconds: that this process took.
    """
    members = [_Member(*pair) for pair in zip(prepared.combinations, records, strict=True)]
    first = next(one.config for one in prepared.combinations if one.config is not None)
    metric = metric_of(first)
    configurations = _configurations(members)
    costs = [name for name in COSTS if len({one.get(name) for one in configurations}) > 1]
    _mark(configurations, metric, costs)
    configurations.sort(key=lambda one: _rank(one, metric))
    return {
        "vary": _varied(prepared.combinations),
        "metric": metric,
        "is_lower_better": is_lower_better(metric),
        "costs": costs,
        "num_runs": len(records),
        "num_failed": sum(not one.is_finished for one in members),
        "num_programs": num_programs,
        "seconds": seconds,
        "configurations": configurations,
        "cautions": list(_cautions(members, prepared)),
    }


def rows_of(prepared: Prepared, records: Sequence[Document]) -> list[Document]:
    """Return the rows of `sweep.csv`: one for each run, with everything on record."""
    return [
        {
            "run": record["run"],
            **one.values,
            **{key: value for key, value in record.items() if key not in ("run", "metrics")},
            **record["metrics"],
        }
        for one, record in zip(prepared.combinations, records, strict=True)
    ]


def is_lower_better(metric: str) -> bool:
    """Return whether a metric is an error or a loss."""
    return metric.endswith(("rmse", "loss"))


def _varied(combinations: Sequence[Combination]) -> dict[str, list[Any]]:
    """Return the distinct values of each key, in order."""
    return {
        key: list({value_text(one.values[key]): one.values[key] for one in combinations}.values())
        for key in combinations[0].values
    }


def _settings(one: Combination, leave_out: Callable[[str], bool]) -> _Settings:
    return tuple((key, value_text(value)) for key, value in one.values.items() if not leave_out(key))


def _grouped(members: Sequence[_Member], leave_out: Callable[[str], bool]) -> list[list[_Member]]:
    """Group the members that agree in the keys that are not left out."""
    groups: dict[_Settings, list[_Member]] = {}
    for member in members:
        groups.setdefault(_settings(member.combination, leave_out), []).append(member)
    return list(groups.values())


def _configurations(members: Sequence[_Member]) -> list[Document]:
    return [_configuration(same) for same in _grouped(members, is_seed)]


def _configuration(members: Sequence[_Member]) -> Document:
    """Average over the seeds; runs that failed do not count in the means."""
    records = [one.record for one in members if one.is_finished]
    values = {key: value for key, value in members[0].combination.values.items() if not is_seed(key)}
    names = dict.fromkeys(name for record in records for name in record["metrics"])
    numbers = (*_FACTS, *COSTS, "popularity")
    means = {name: _mean([record[name] for record in records if name in record]) for name in numbers}
    return {
        "values": values,
        "num_runs": len(members),
        "num_failed": len(members) - len(records),
        "metrics": {name: _spread([record["metrics"][name] for record in records]) for name in names},
        **{name: mean for name, mean in means.items() if mean is not None},
        "is_private": all(record.get("is_private", False) for record in records) if records else False,
        "is_non_dominated": False,
        "failures": list(dict.fromkeys(one.record["reason"] for one in members if not one.is_finished)),
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> dict[str, float]:
    known = np.array([math.nan if value is None else value for value in values])
    sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return {"mean": float(known.mean()), "sd": sd}


def _mark(configurations: list[Document], metric: str, costs: Sequence[str]) -> None:
    """Mark the non-dominated configurations; one that failed with some seed is never marked."""
    sign = 1.0 if is_lower_better(metric) else -1.0
    points = [
        [
            math.nan if one["num_failed"] else sign * one["metrics"][metric]["mean"],
            *(_cost(one, name) for name in costs),
        ]
        for one in configurations
    ]
    for one, marked in zip(configurations, non_dominated(np.array(points)), strict=True):
        one["is_non_dominated"] = bool(marked)


def _cost(configuration: Document, name: str) -> float:
    """Return a cost; without noise, epsilon is infinite."""
    return configuration.get(name, math.inf if name == "epsilon" else math.nan)


def _rank(configuration: Document, metric: str) -> float:
    mean = configuration["metrics"].get(metric, {}).get("mean", math.nan)
    if math.isnan(mean):
        return math.inf
    return mean if is_lower_better(metric) else -mean


def _cautions(members: Sequence[_Member], prepared: Prepared) -> Iterator[str]:
    for status, wording in (("refused", "could not be run"), ("diverged", "diverged")):
        failed = [one for one in members if one.record["status"] == status]
        if failed:
            yield f"{len(failed)} of {count_of(len(members), 'run')} {wording}: {failed[0].record['reason']}"
    for key in members[0].combination.values:
        if _changes_nothing(key, members):
            yield f"{key} changed nothing: runs that differ in it alone have the same result"
    yield from _caution_of_privacy(prepared)


def _changes_nothing(key: str, members: Sequence[_Member]) -> bool:
    groups = _grouped([one for one in members if one.is_finished], lambda other: other == key)
    pairs = [(group[0].record, one.record) for group in groups for one in group[1:]]
    return bool(pairs) and all(_is_same(*pair) for pair in pairs)


def _is_same(one: Document, other: Document) -> bool:
    numbers = [
        np.array([*record["metrics"].values(), *(record.get(name) for name in (*_FACTS, *COSTS))], float)
        for record in (one, other)
    ]
    same_length = len(numbers[0]) == len(numbers[1])
    return same_length and bool(np.allclose(*numbers, rtol=_SAME, atol=0, equal_nan=True))


def _together(protections: Sequence[Protection], delta: float) -> float:
    """Compose the runs; those whose epsilons compare other neighbors are composed apart, and added."""
    kinds: dict[str, list[Release]] = {}
    for one in protections:
        release = Release(one.participation, one.noise_multiplier, one.num_rounds)
        kinds.setdefault(one.participation.adjacency, []).append(release)
    return sum(composed_epsilon(same, delta=delta / len(kinds)) for same in kinds.values())


def _caution_of_privacy(prepared: Prepared) -> Iterator[str]:
    runs = [run for group in prepared.groups for run in group.runs if run.problem.protection is not None]
    protections = [run.problem.protection for run in runs if run.problem.config.privacy.seed is None]
    if any(run.problem.config.privacy.seed is not None for run in runs):
        yield "NOT PRIVATE: privacy.seed fixes the noise, to measure what noise costs"
    known = [one for one in protections if one is not None]
    if len(known) < 2:
        return
    delta = min(one.delta for one in known)
    together, alone = _together(known, delta), max(one.epsilon or math.inf for one in known)
    yield (
        f"{len(known)} runs with noise are about the same users: together they spend epsilon {together:.3g} "
        f"at delta {delta:.2g}, one alone up to {alone:.3g}; metrics are computed from the data themselves"
    )
