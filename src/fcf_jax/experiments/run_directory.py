"""What a run leaves on disk, each file written whole or not at all, and never pickled."""

import io
import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tomli_w

from fcf_jax.experiments.config import ExperimentConfig, resolve

_PACKAGES = ("fcf_jax", "jax", "jaxlib", "optax", "numpy", "scipy", "pandas")
_CONFIG, _FACTORS = "config.toml", "item_factors.npz"


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
    if folder.is_file():
        raise ValueError(f"{folder}: expected a folder for --out, got a file; choose another")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected an empty folder for --out, got one in use; choose another")


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
    write_atomically(folder / _CONFIG, tomli_w.dumps(config.to_dict()).encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON; numbers that are not finite become null."""
    write_atomically(path, (json.dumps(_finite(content), indent=2) + "\n").encode())


def write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON record a line."""
    write_atomically(path, "".join(json.dumps(_finite(record)) + "\n" for record in records).encode())


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
    for name in (_CONFIG, _FACTORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: expected a run directory with {name}; make one with `fcf run`"
            )
    try:
        config = resolve(tomllib.loads((folder / _CONFIG).read_text("utf-8")), place=f"{folder / _CONFIG}: ")
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
