"""Run directories: the table of their files, the lock of the writing process, and models read back.

SUMMARY.write(folder, summary)
SUMMARY.read(folder)["federated"]

Checkpoints have a module of their own.
"""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from filelock import FileLock, Timeout

from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.store.files import Arrays, Document, File, remove_temporary
from fcf_jax.experiments.store.schemas import (
    AuditDocument,
    ComparisonDocument,
    Environment,
    MetricsRecord,
    PrivacyStatement,
    Summary,
    SweepDocument,
    SweepRecord,
    TuningDocument,
    VariedDocument,
)
from fcf_jax.experiments.store.trained_features import TrainedFeatures, read_features_of_run
from fcf_jax.messages import count_of

_PACKAGES = ("fcf_jax", "jax", "jaxlib", "optax", "numpy", "scipy", "pandas")
_LOCK = ".lock"
CHECKPOINTS = "checkpoints"
# The configuration is written first: a folder that has it is a run directory.
CONFIG = File[Document]("config.toml")
ENVIRONMENT = File[Document](
    "environment.json", schema=Environment, remedy="delete it, which loses where the run was before"
)
METRICS = File[list[Document]]("metrics.jsonl", schema=list[MetricsRecord])
BUDGET = File[PrivacyStatement](
    "privacy_budget.json",
    schema=PrivacyStatement,
    remedy="what is spent cannot be known: choose another --out",
)
SALT = File[Document](
    "checkpoint_salt.json",
    required=("salt",),
    remedy="checkpoints cannot be told apart: choose another --out",
)
ITEM_COUNTS = File[Arrays]("item_counts.npz", required=("counts",))
FEDERATED_EVALUATION = File[Document]("federated_evaluation.json")
SECOND_MOMENTS = File[Arrays]("second_moments.npz", required=("item_factors",))
ITEM_FACTORS = File[Arrays]("item_factors.npz", required=("item_factors", "item_ids", "mean_rating"))
TRIALS = File[list[Document]]("trials.csv")
TUNED = File[Document]("tuned.toml")
TUNING = File[Document]("tuning.json", schema=TuningDocument)
CURVES = "curves.csv"
VARIED = File[Document]("varied.json", schema=VariedDocument, remedy="choose another --out")
RUNS = File[list[Document]]("runs.jsonl", schema=list[SweepRecord], remedy="delete it: all runs are repeated")
USERS = File[list[Document]]("users.csv", required=("metric", "low", "high", "users"))
SWEEP_ROWS = File[list[Document]]("sweep.csv")
# Each of these is written last: a folder that has it is finished.
_GO_ON = "delete it, and go on with --resume"
SUMMARY = File[Summary]("summary.json", schema=Summary, remedy=_GO_ON)
COMPARISON = File[Document]("comparison.json", schema=ComparisonDocument, remedy=_GO_ON)
AUDIT = File[Document]("audit.json", schema=AuditDocument)
SWEEP = File[Document]("sweep.json", schema=SweepDocument, remedy=_GO_ON)


class TrainedModel(NamedTuple):
    """Model of a finished run.

    Attributes:
        config: configuration of the run.
        item_factors: [items, factors].
        item_ids: original id of each item.
        mean_rating: subtracted from explicit ratings; 0 for implicit feedback.
        features: what was learned from features; None: there are none.
    """

    config: ExperimentConfig
    item_factors: np.ndarray
    item_ids: np.ndarray
    mean_rating: float
    features: TrainedFeatures | None = None


class MetricsLog:
    """`metrics.jsonl` of a training in progress: records are appended, so that none is written twice.

    Args:
        folder: run directory.
        records: those that the training begins with; what else the file holds is dropped.
    """

    def __init__(self, folder: Path, records: list[Document]) -> None:
        METRICS.write(folder, records)
        self._folder = folder
        self._num_written = len(records)

    def write(self, records: list[Document]) -> None:
        """Append what is new among all records so far.

        Raises:
            OSError: when they cannot be written.
        """
        METRICS.append(self._folder, records[self._num_written :])
        self._num_written = len(records)


def is_used(folder: Path) -> bool:
    """Return whether the folder holds files; hidden ones are traces of a run that wrote nothing.

    Raises:
        ValueError: when it is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: expected a folder for --out, got a file; choose another")
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds files, before work is lost in it.

    Raises:
        ValueError: when it is not empty, or is a file.
    """
    if is_used(folder):
        remedy = "choose another" + (", or go on with it: --resume" if CONFIG.is_in(folder) else "")
        raise ValueError(f"{folder}: expected an empty folder for --out, got one in use; {remedy}")


@contextmanager
def claimed(
    folder: Path,
    config: ExperimentConfig,
    *,
    resume: bool = False,
    writes_config: bool = True,
) -> Iterator[None]:
    """Lock the run directory for this process, and write the resolved configuration there.

    The lock dies with its process. Temporary files of killed processes are removed.

    Args:
        folder: created if missing.
        config: of the run.
        resume: whether a run may already have begun there.
        writes_config: False leaves the configuration of a resumed run, to be replaced later.

    Raises:
        ValueError: when another process holds the lock, or the folder is in use.
        OSError: when it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder}: expected a folder for this process alone, got one that another is writing to; "
            "wait for it, or choose another --out"
        ) from None
    try:
        if not resume:
            refuse_used(folder)
        for own in (folder, folder / CHECKPOINTS):
            remove_temporary(own)
        if writes_config:
            CONFIG.write(folder, config.to_dict())
        yield
    finally:
        lock.release()


def read_config(folder: Path) -> ExperimentConfig:
    """Read the configuration of a run and check it.

    Raises:
        ConfigError: when it is damaged, or not valid in this version.
        OSError: when it cannot be read.
    """
    return load_config(str(folder / CONFIG.name))


def write_environment(folder: Path, *, resumed_from_rounds: list[int]) -> str:
    """Write where the run takes place, and at which rounds a process took over from another.

    Returns:
        A note if the run has moved to other devices, otherwise "".
    """
    now = environment()
    now["resumed_from_rounds"] = resumed_from_rounds
    before, note = ENVIRONMENT.read_or(folder, None), ""
    if before is not None and resumed_from_rounds:
        earlier = before.pop("earlier", [])
        now["earlier"] = [*earlier, before]
        theirs, ours = before.get("devices"), now.get("devices")
        if theirs is not None and theirs != ours:
            note = (
                f"begun on {_list_of(theirs)}, going on with {_list_of(ours)}: sums in another order, "
                "and a result that differs a little from that of an unbroken run"
            )
    ENVIRONMENT.write(folder, now)
    return note


def num_devices_begun_with(folder: Path) -> int | None:
    """Return the number of CPU devices that a run was begun on; None if it was not, or not on a CPU."""
    begun = ENVIRONMENT.read_or(folder, None)
    if begun is None or begun.get("device_kind") != "cpu":
        return None
    return len(begun.get("devices", [])) or None


def _list_of(devices: list[str] | None) -> str:
    return f"{count_of(len(devices or []), 'device')} ({', '.join((devices or [])[:4])})"


def environment() -> Document:
    """Describe the machine, the package versions and the command line."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree
            versions[name] = "not installed"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "versions": versions,
        "arguments": sys.argv[1:],
    }


def write_item_factors(
    folder: Path, item_factors: np.ndarray, item_ids: np.ndarray, *, mean_rating: float
) -> None:
    """Write the model with the original ids of its items."""
    if item_ids.dtype == object:
        item_ids = item_ids.astype(str)
    mean = np.asarray(mean_rating, np.float64)
    ITEM_FACTORS.write(folder, {"item_factors": item_factors, "item_ids": item_ids, "mean_rating": mean})


def read_run(folder: Path) -> TrainedModel:
    """Read the model of a finished run.

    Raises:
        FileNotFoundError: when the folder has no configuration or no model.
        ValueError: when its files are damaged.
    """
    for file in (CONFIG, ITEM_FACTORS):
        if not file.is_in(folder):
            raise FileNotFoundError(
                f"{folder}: expected a run directory with {file.name}; make one with `fcf run`"
            )
    arrays, path = ITEM_FACTORS.read(folder), folder / ITEM_FACTORS.name
    item_factors, item_ids = arrays["item_factors"], arrays["item_ids"]
    if item_factors.ndim != 2 or len(item_factors) != len(item_ids):
        raise ValueError(
            f"{path}: expected item factors of {count_of(len(item_ids), 'item')} as rows, "
            f"got shape {item_factors.shape}; run it again"
        )
    if not np.isfinite(item_factors).all():
        raise ValueError(f"{path}: expected finite item factors, got NaN or inf; run it again")
    features = read_features_of_run(folder)
    return TrainedModel(read_config(folder), item_factors, item_ids, float(arrays["mean_rating"]), features)
