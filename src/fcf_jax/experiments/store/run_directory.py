"""What a run leaves on disk, each file written whole or not at all, and never pickled."""

import io
import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tomli_w
from filelock import FileLock, Timeout

from fcf_jax.experiments.config.load import resolve
from fcf_jax.experiments.config.schema import ExperimentConfig

_PACKAGES = ("fcf_jax", "jax", "jaxlib", "optax", "numpy", "scipy", "pandas")
CONFIG, ENVIRONMENT, METRICS, SUMMARY = "config.toml", "environment.json", "metrics.jsonl", "summary.json"
_FACTORS, _LOCK = "item_factors.npz", ".lock"


class TrainedModel(NamedTuple):
    """A finished run, read back."""

    config: ExperimentConfig
    item_factors: np.ndarray  # [items, factors]
    item_ids: np.ndarray  # the original ids
    mean_rating: float


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds anything, before work is lost in it.

    Raises:
        ValueError: when it is not empty, or is a file.
    """
    if _is_used(folder):
        remedy = "choose another, or go on with it: --resume" if is_run(folder) else "choose another"
        raise ValueError(f"{folder}: expected an empty folder for --out, got one in use; {remedy}")


def refuse_stranger(folder: Path) -> None:
    """Refuse to go on with what no run has begun.

    Raises:
        ValueError: when it is a file, or a folder in use that holds no configuration.
    """
    if _is_used(folder) and not is_run(folder):
        raise ValueError(
            f"{folder}: expected a run directory with {CONFIG}, got another; choose another --out"
        )


def is_run(folder: Path) -> bool:
    """Tell whether a run has begun there."""
    return (folder / CONFIG).is_file()


def is_finished(folder: Path, result: str = SUMMARY) -> bool:
    """Tell whether a run has ended there: its summary, or another result, is written last."""
    return (folder / result).is_file()


@contextmanager
def claimed(folder: Path, config: ExperimentConfig, *, resume: bool = False) -> Iterator[None]:
    """Make the run directory this process's own, and write the configuration there as resolved.

    The lock dies with its process. Files that a killed process was writing are removed.

    Args:
        folder: made if need be.
        config: of the run.
        resume: whether a run may have begun there.

    Raises:
        ValueError: when another process has it, or it is in use.
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
        for left_over in folder.rglob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        write_config(folder, config)
        yield
    finally:
        lock.release()


def _is_used(folder: Path) -> bool:
    """Tell whether anything is there that counts: hidden files are traces of a run that wrote nothing."""
    if folder.is_file():
        raise ValueError(f"{folder}: expected a folder for --out, got a file; choose another")
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary neighbour, flush it to disk, rename it, and flush the folder's names."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_config(folder: Path, config: ExperimentConfig) -> None:
    """Write the configuration as resolved: it reproduces the run."""
    write_atomically(folder / CONFIG, tomli_w.dumps(config.to_dict()).encode())


def write_environment(folder: Path, *, resumed_from_rounds: list[int]) -> None:
    """Write where the run takes place, and at which rounds a process took over from another."""
    content = {**environment(), "resumed_from_rounds": resumed_from_rounds}
    write_json(folder / ENVIRONMENT, content)


def read_environment(folder: Path) -> dict[str, Any]:
    """Read what `write_environment` wrote."""
    return json.loads((folder / ENVIRONMENT).read_text("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON; numbers that are not finite become null."""
    write_atomically(path, (json.dumps(_finite(content), indent=2) + "\n").encode())


def write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON record a line."""
    write_atomically(path, "".join(json.dumps(_finite(record)) + "\n" for record in records).encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read what `write_json_lines` wrote; null becomes nan.

    Raises:
        ValueError: when the file is damaged.
        OSError: when it cannot be read.
    """
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: expected one JSON record a line, got {error}") from None
    return [
        {key: float("nan") if value is None else value for key, value in record.items()} for record in records
    ]


def write_item_factors(
    folder: Path, item_factors: np.ndarray, item_ids: np.ndarray, *, mean_rating: float
) -> None:
    """Write the model with the original ids of its items."""
    if item_ids.dtype == object:
        item_ids = item_ids.astype(str)
    buffer = io.BytesIO()
    np.savez(buffer, item_factors=item_factors, item_ids=item_ids, mean_rating=np.float64(mean_rating))
    write_atomically(folder / _FACTORS, buffer.getvalue())


def read_run(folder: Path) -> TrainedModel:
    """Read a finished run.

    Raises:
        FileNotFoundError: when it is no run, or not a finished one.
        ValueError: when its files are damaged.
    """
    for name in (CONFIG, _FACTORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: expected a run directory with {name}; make one with `fcf run`"
            )
    try:
        config = resolve(tomllib.loads((folder / CONFIG).read_text("utf-8")), place=f"{folder / CONFIG}: ")
        with np.load(folder / _FACTORS, allow_pickle=False) as arrays:
            model = TrainedModel(
                config, arrays["item_factors"], arrays["item_ids"], float(arrays["mean_rating"])
            )
    except Exception as error:  # a damaged zip can raise anything: BadZipFile, zlib.error, KeyError, EOFError
        raise ValueError(f"{folder}: expected an intact run, got {error}; run it again") from error
    if model.item_factors.ndim != 2 or len(model.item_factors) != len(model.item_ids):
        raise ValueError(
            f"{folder / _FACTORS}: expected one factor for each of the {len(model.item_ids)} items, "
            f"got shape {model.item_factors.shape}; run it again"
        )
    if not np.isfinite(model.item_factors).all():
        raise ValueError(f"{folder / _FACTORS}: expected finite item factors, got NaN or inf; run it again")
    return model


def environment() -> dict[str, Any]:
    """Describe where a run takes place."""
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


def _flush_names(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    return content
