"""Runs, comparisons and tunings read back from their folders, and the series of numbers in a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.experiments.store.run_directory import (
    COMPARISON,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    SUMMARY,
    TRIALS,
    TUNED,
)
from fcf_jax.experiments.store.schemas import Summary

_RANKING = ("precision", "recall", "map", "ndcg")


class Series(NamedTuple):
    """Values over rounds of the federation, or over sweeps of ALS."""

    rounds: np.ndarray
    values: np.ndarray


class StoredRun(NamedTuple):
    """A folder of `fcf run`, as far as the run came.

    Attributes:
        name: of the folder.
        config: sections of `config.toml`.
        environment: content of `environment.json`, empty if it was not written.
        records: lines of `metrics.jsonl`.
        summary: content of `summary.json`; None for an unfinished run.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    summary: Summary | None

    @property
    def num_rounds(self) -> int:
        """Rounds on record."""
        return sum(record["kind"] == "round" for record in self.records)

    @property
    def main_metrics(self) -> list[str]:
        """Metrics that judge a run: RMSE for explicit ratings, otherwise four of ranking."""
        if self.config.get("data", {}).get("feedback") == "explicit":
            return ["rmse"]
        k = self.config.get("evaluation", {}).get("k", 10)
        return [f"{name}_at_{k}" for name in _RANKING]

    @property
    def leading_metric(self) -> str:
        """The metric to compare runs by: MAP, or RMSE for explicit ratings."""
        return next((name for name in self.main_metrics if name.startswith("map")), "rmse")

    @property
    def bytes_per_round(self) -> float:
        """Bytes that all clients of a round send and receive; nan for an unfinished run."""
        summary = self.summary or {}
        per_client = summary.get("payload_bytes_up", np.nan) + summary.get("payload_bytes_down", np.nan)
        return per_client * summary.get("cohort_size", np.nan)

    def side(self, name: str) -> dict[str, Any]:
        """Return the final "federated", "centralized" or "difference_percent" values, empty if unknown."""
        return (self.summary or {}).get(name) or {}

    def series(self, kind: str, name: str) -> Series:
        """Return the values `name` of all records of a kind: "round", "evaluation" or "als_sweep"."""
        points = [(record["round"], record.get(name)) for record in self.records if record["kind"] == kind]
        return Series(*np.array(points, np.float64).reshape(-1, 2).T)

    def losses(self, kind: str = "round") -> Series:
        """Return the losses of the federation ("round") or of ALS ("als_sweep"), the final one included.

        A round's loss is that of the item factors it began with. A cohort only estimates it, so with cohorts
        the exact losses of the evaluations are returned, if there are any.
        """
        is_cohort = kind == "round" and "cohort_size" in self.config.get("federation", {})
        exact = self.series("evaluation", "loss")
        if is_cohort and np.isfinite(exact.values).any():
            return exact
        rounds, values = self.series(kind, "loss")
        final = self.side("federated" if kind == "round" else "centralized").get("loss")
        if final is None:
            return Series(rounds, values)
        return Series(np.append(rounds, len(rounds)), np.append(values, final))

    def als_loss(self, others: Sequence["StoredRun"] = ()) -> float | None:
        """Return the final loss of ALS, from this run or from another one with the same data and model."""
        for run in (self, *others):
            is_same = all(run.config.get(name) == self.config.get(name) for name in ("data", "model"))
            if is_same and run.side("centralized"):
                return run.side("centralized").get("loss")
        return None

    def excess_loss(self, kind: str = "round", *, others: Sequence["StoredRun"] = ()) -> Series:
        """Return by how many percent each loss exceeds `als_loss`, or the best loss of the run itself."""
        rounds, values = self.losses(kind)
        reference = self.als_loss(others)
        if reference is None:
            reference = min(values[np.isfinite(values)], default=np.nan)
        return Series(rounds, 100 * (values - reference) / (abs(reference) or np.nan))


class StoredComparison(NamedTuple):
    """A folder of `fcf compare`.

    Attributes:
        name: of the folder.
        config: sections of `config.toml`.
        environment: content of `environment.json`.
        document: content of `comparison.json`.
        images: PNG files by name.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    document: dict[str, Any]
    images: dict[str, bytes]


class StoredTuning(NamedTuple):
    """A folder of `fcf tune`.

    Attributes:
        name: of the folder.
        config: sections of `tuned.toml`; empty if tuning was stopped.
        environment: content of `environment.json`.
        trials: rows of `trials.csv`.
        images: PNG files by name.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    trials: list[dict[str, str]]
    images: dict[str, bytes]


Stored = StoredRun | StoredComparison | StoredTuning


def read_folder(folder: Path) -> Stored:
    """Read a folder, whichever command wrote it.

    Raises:
        FileNotFoundError: if there is no such folder, or no run, comparison or tuning in it.
        ValueError: if one of its files is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run directory, got no folder; check the path")
    name = folder.resolve().name
    environment = ENVIRONMENT.read_or(folder, {})
    if COMPARISON.is_in(folder):
        config, document = CONFIG.read_or(folder, {}), COMPARISON.read(folder)
        return StoredComparison(name, config, environment, document, _images(folder))
    if TUNED.is_in(folder) or TRIALS.is_in(folder):
        tuned, trials = TUNED.read_or(folder, {}), TRIALS.read_or(folder, [])
        return StoredTuning(name, tuned, environment, trials, _images(folder))
    if not CONFIG.is_in(folder):
        raise FileNotFoundError(
            f"{folder}: expected a run directory with {CONFIG.name}; make one with `fcf run`"
        )
    config, records = CONFIG.read(folder), METRICS.read_or(folder, [])
    return StoredRun(name, config, environment, records, SUMMARY.read_or(folder, None))


def read_folders(folders: Sequence[Path]) -> list[Stored]:
    """Read several folders; those that share a name are called by their paths."""
    everything = [read_folder(folder) for folder in folders]
    names = [stored.name for stored in everything]
    return [
        stored._replace(name=str(folder)) if names.count(stored.name) > 1 else stored
        for stored, folder in zip(everything, folders, strict=True)
    ]


def _images(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
