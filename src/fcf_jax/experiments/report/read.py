"""What the commands stored, read back from its folders, and the series of numbers in a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.evaluation.metrics import RANKING
from fcf_jax.experiments.compare.curves import Curves, read_curves
from fcf_jax.experiments.store.files import File
from fcf_jax.experiments.store.run_directory import (
    AUDIT,
    COMPARISON,
    CONFIG,
    CURVES,
    ENVIRONMENT,
    METRICS,
    RUNS,
    SUMMARY,
    SWEEP,
    TRIALS,
    TUNED,
    TUNING,
    USERS,
    VARIED,
)
from fcf_jax.experiments.store.schemas import Summary


class Series(NamedTuple):
    """Values over rounds of the federation, or over sweeps of ALS."""

    rounds: np.ndarray
    values: np.ndarray

    def above(self, reference: float) -> "Series":
        """Return by how many percent each value exceeds the reference."""
        return Series(self.rounds, 100 * (self.values - reference) / (abs(reference) or np.nan))


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
        leading = k[0] if isinstance(k, list) else k
        return [f"{name}_at_{leading}" for name in RANKING]

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
        """Return the final values of a side, or "difference_percent"; empty if unknown."""
        return (self.summary or {}).get(name) or {}

    def series(self, kind: str, name: str) -> Series:
        """Return the values `name` of all records of a kind: "round", "evaluation" or "als_sweep"."""
        points = [(record["round"], record.get(name)) for record in self.records if record["kind"] == kind]
        return Series(*np.array(points, np.float64).reshape(-1, 2).T)

    def losses(self, kind: str = "round") -> Series:
        """Return the losses of the federation ("round") or of ALS ("als_sweep"), the final one included.

        A round's loss is that of the item factors it began with. A cohort only estimates it, and under noise
        no client sends it: then the exact losses of the evaluations are returned, if there are any.
        """
        rounds, values = self.series(kind, "loss")
        is_cohort = kind == "round" and "cohort_size" in self.config.get("federation", {})
        if is_cohort or not np.isfinite(values).any():
            exact = self.series("evaluation", "loss") if kind == "round" else Series(rounds, values)
            if np.isfinite(exact.values).any():
                return exact
        final = self.side("federated" if kind == "round" else "centralized").get("loss")
        if final is None:
            return Series(rounds, values)
        return Series(np.append(rounds, len(rounds)), np.append(values, final))

    @property
    def als_loss(self) -> float | None:
        """Final loss of ALS; None if it was not trained."""
        return self.side("centralized").get("loss")

    @property
    def lowest_loss(self) -> float:
        """Lowest loss on record; nan without one."""
        losses = self.losses().values
        return min(losses[np.isfinite(losses)], default=np.nan)

    def excess_loss(self, kind: str = "round", *, reference: float | None = None) -> Series:
        """Return by how many percent each loss exceeds the reference: by default ALS, or `lowest_loss`."""
        if reference is None:
            reference = self.lowest_loss if self.als_loss is None else self.als_loss
        return self.losses(kind).above(reference)

    def by_virtual_time(self, series: Series) -> Series:
        """Return values by the virtual time at which their rounds ended; empty without a clock."""
        ends = self.series("round", "virtual_seconds").values
        is_known = (series.rounds > 0) & (series.rounds <= len(ends))  # the axis is logarithmic
        return Series(ends[series.rounds[is_known].astype(int) - 1], series.values[is_known])

    def by_epsilon(self, name: str) -> Series:
        """Return the values `name` of the evaluations by the epsilon spent; empty without privacy budget."""
        spent, values = self.series("evaluation", "epsilon").values, self.series("evaluation", name).values
        is_spent = spent > 0  # the axis is logarithmic
        return Series(spent[is_spent], values[is_spent])


class StoredComparison(NamedTuple):
    """A folder of `fcf compare`.

    Attributes:
        name: of the folder.
        config: sections of `config.toml`.
        environment: content of `environment.json`.
        document: content of `comparison.json`; empty for an unfinished comparison.
        curves: content of `curves.csv`.
        users: rows of `users.csv`.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    document: dict[str, Any]
    curves: Curves
    users: list[dict[str, str]]


class StoredTuning(NamedTuple):
    """A folder of `fcf tune`.

    Attributes:
        name: of the folder.
        config: sections of `tuned.toml`; empty if tuning was stopped.
        environment: content of `environment.json`.
        trials: rows of `trials.csv`.
        document: content of `tuning.json`; empty in a folder of an older version.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    trials: list[dict[str, str]]
    document: dict[str, Any]


class StoredAudit(NamedTuple):
    """A folder of `fcf audit`.

    Attributes:
        name: of the folder.
        config: sections of `config.toml`.
        environment: content of `environment.json`.
        document: content of `audit.json`; empty for an unfinished audit.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    document: dict[str, Any]


class StoredSweep(NamedTuple):
    """A folder of `fcf sweep`.

    Attributes:
        name: of the folder.
        config: sections of `config.toml`, without the varied values.
        environment: content of `environment.json`.
        document: content of `sweep.json`; empty for an unfinished sweep.
        num_done: runs on record.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    document: dict[str, Any]
    num_done: int


Stored = StoredRun | StoredComparison | StoredTuning | StoredAudit | StoredSweep
_Read = Callable[[str, Path, dict[str, Any]], Stored]


def _read_run(name: str, folder: Path, environment: dict[str, Any]) -> StoredRun:
    config, records = CONFIG.read(folder), METRICS.read_or(folder, [])
    return StoredRun(name, config, environment, records, SUMMARY.read_or(folder, None))


def _read_comparison(name: str, folder: Path, environment: dict[str, Any]) -> StoredComparison:
    config, document = CONFIG.read_or(folder, {}), COMPARISON.read_or(folder, {})
    return StoredComparison(name, config, environment, document, _curves(folder), USERS.read_or(folder, []))


def _read_tuning(name: str, folder: Path, environment: dict[str, Any]) -> StoredTuning:
    tuned, trials = TUNED.read_or(folder, {}), TRIALS.read_or(folder, [])
    return StoredTuning(name, tuned, environment, trials, TUNING.read_or(folder, {}))


def _read_audit(name: str, folder: Path, environment: dict[str, Any]) -> StoredAudit:
    return StoredAudit(name, CONFIG.read_or(folder, {}), environment, AUDIT.read_or(folder, {}))


def _read_sweep(name: str, folder: Path, environment: dict[str, Any]) -> StoredSweep:
    config, document = CONFIG.read_or(folder, {}), SWEEP.read_or(folder, {})
    return StoredSweep(name, config, environment, document, len(RUNS.read_or(folder, [])))


def _curves(folder: Path) -> Curves:
    path = folder / CURVES
    try:
        return read_curves(path) if path.is_file() else Curves()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: expected an intact file, got {error}; repeat the comparison") from error


class _Kind(NamedTuple):
    """Command that wrote a folder, the files that only it writes, and how to read the folder."""

    command: str
    files: tuple[File[Any], ...]
    read: _Read


_KINDS = (
    _Kind("audit", (AUDIT,), _read_audit),
    _Kind("compare", (COMPARISON,), _read_comparison),
    _Kind("sweep", (SWEEP, VARIED), _read_sweep),
    _Kind("tune", (TUNED, TRIALS), _read_tuning),
    _Kind("run", (SUMMARY,), _read_run),
)


def read_folder(folder: Path) -> Stored:
    """Read a folder, whichever command wrote it, and however far that came.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing of a command in it.
        ValueError: if one of its files is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run directory, got no folder; check the path")
    environment = ENVIRONMENT.read_or(folder, {})
    kind = next((kind for kind in _KINDS if any(file.is_in(folder) for file in kind.files)), None)
    if kind is None:
        if not CONFIG.is_in(folder):
            raise FileNotFoundError(
                f"{folder}: expected a run directory with {CONFIG.name}; make one with `fcf run`"
            )
        command = next(iter(environment.get("arguments") or []), "run")  # did not finish
        kind = next((kind for kind in _KINDS if kind.command == command), _KINDS[-1])
    return kind.read(folder.resolve().name, folder, environment)


def read_folders(folders: Sequence[Path]) -> list[Stored]:
    """Read several folders; those that share a name are called by their paths."""
    everything = [read_folder(folder) for folder in folders]
    names = [stored.name for stored in everything]
    return [
        stored._replace(name=str(folder)) if names.count(stored.name) > 1 else stored
        for stored, folder in zip(everything, folders, strict=True)
    ]
