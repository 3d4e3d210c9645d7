"""Where a run was when it ended, and whether it may go on from there."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fcf_jax.core.records import Key, ServerState
from fcf_jax.data import Split
from fcf_jax.experiments.build.processes import share_files
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import CheckpointError, ConfigError
from fcf_jax.experiments.loop import Begun, Record
from fcf_jax.experiments.store import run_directory
from fcf_jax.experiments.store.budget import BUDGET
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.experiments.store.run_directory import read_json_lines

_CHECKPOINTS = "checkpoints"
_WITHOUT_EFFECT = (
    "checkpoint.",
    "data.path",
    "parallel.coordinator",
    "parallel.num_processes",
    "parallel.process_id",
)


class Snapshot(NamedTuple):
    """What a checkpoint holds: nothing of any single user."""

    server: ServerState
    key: Key


def refuse_another(folder: Path, config: ExperimentConfig, *, may_change: tuple[str, ...] = ()) -> None:
    """Refuse to go on with a run under a configuration that is not its own.

    Args:
        folder: of the run.
        config: of now.
        may_change: beginnings of keys that may differ.

    Raises:
        ConfigError: naming the first key that differs.
        ValueError: when the folder is in use, and not by a run.
    """
    run_directory.refuse_stranger(folder)
    if not run_directory.is_run(folder):
        return
    theirs = _settings(load_config(str(folder / run_directory.CONFIG)))
    ours = _settings(config)
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key) and not key.startswith(may_change):
            raise ConfigError(
                f"{folder}: expected the configuration it was begun with ({_sha256(theirs)[:12]}), "
                f"got another ({_sha256(ours)[:12]}): {key} is {ours.get(key)}, was {theirs.get(key)}; "
                "leave out CONFIG and --set, or choose another --out"
            )


def open_checkpoints(
    folder: Path, config: ExperimentConfig, *splits: Split, on_damaged: Callable[[str], None]
) -> Checkpoints:
    """Open the checkpoints of a run: those that depend on the same configuration and data."""
    parts = [part for split in splits for part in (split.train, split.validation, split.test)]
    data = [None if part is None else part.fingerprint() for part in parts]
    return Checkpoints(
        folder / _CHECKPOINTS,
        keep=config.checkpoint.keep,
        fingerprints={"config": _sha256(_settings(config)), "data": _sha256(data)},
        on_damaged=on_damaged,
    )


def read_begun(folder: Path, checkpoints: Checkpoints, like: Snapshot) -> Begun | None:
    """Read how far a run came, on process 0 for all processes; None when there is no checkpoint.

    Raises:
        CheckpointError: when the checkpoint belongs to another run, or its records are gone.
    """
    share_files(folder, (f"{_CHECKPOINTS}/*.npz", run_directory.METRICS, run_directory.ENVIRONMENT, BUDGET))
    restored = checkpoints.latest(like)
    if restored is None:
        return None
    done, snapshot = restored
    records = _records_until(done, folder / run_directory.METRICS)
    starts = [*run_directory.read_environment(folder)["resumed_from_rounds"], done]
    return Begun(done, snapshot.server, snapshot.key, records, starts)


def _records_until(done: int, path: Path) -> list[Record]:
    """Read the records of so many rounds; a process that was killed may have left more."""
    last = {"round": done - 1, "evaluation": done}
    try:
        records = [one for one in read_json_lines(path) if one["round"] <= last.get(one["kind"], -1)]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{error}; the checkpoint needs it: choose another --out") from error
    rounds = [one["round"] for one in records if one["kind"] == "round"]
    if rounds != list(range(done)):
        raise CheckpointError(
            f"{path}: expected the records of {done} rounds, as the checkpoint has, got {len(rounds)}; "
            "choose another --out"
        )
    return records


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """Flatten what decides about the outcome; the data themselves are known by their content."""
    sections = config.model_dump()
    flat = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return {key: value for key, value in flat.items() if not key.startswith(_WITHOUT_EFFECT)}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
