"""Resuming a run: what has to be unchanged, and the state that a run goes on from."""

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fcf_jax.core.records import Key, ServerState
from fcf_jax.data import Split
from fcf_jax.experiments.build.devices import share_files
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import CheckpointError, ConfigError
from fcf_jax.experiments.loop import Begun, Record
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.experiments.store.run_directory import (
    BUDGET,
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    SALT,
    is_used,
    read_config,
)
from fcf_jax.messages import count_of

_WITHOUT_EFFECT = (
    "checkpoint.",
    "data.path",
    "data.train_path",
    "data.test_path",
    "data.validation_path",
    "parallel.coordinator",
    "parallel.num_processes",
    "parallel.process_id",
)


class Snapshot(NamedTuple):
    """Content of a checkpoint, which holds nothing of a single user.

    Attributes:
        server: state of the server.
        key: base key of the start.
    """

    server: ServerState
    key: Key


def refuse_another(folder: Path, config: ExperimentConfig, *, may_change: tuple[str, ...] = ()) -> None:
    """Refuse to resume a run under a configuration that differs from its own.

    Args:
        folder: of the run.
        config: to resume with.
        may_change: prefixes of keys that may differ.

    Raises:
        ConfigError: naming the first key that differs.
        ValueError: when the folder is in use, but not by a run.
    """
    if not CONFIG.is_in(folder):
        if is_used(folder):
            raise ValueError(
                f"{folder}: expected a run directory with {CONFIG.name}, got another; choose another --out"
            )
        return
    theirs, ours = _settings(read_config(folder)), _settings(config)
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key) and not key.startswith(may_change):
            raise ConfigError(
                f"{folder}: expected the configuration it was begun with ({_sha256(theirs)[:12]}), "
                f"got another ({_sha256(ours)[:12]}): {key} is {ours.get(key)}, was {theirs.get(key)}; "
                f"leave out CONFIG and --set, or choose another --out{_list_of(may_change)}"
            )


def _list_of(may_change: tuple[str, ...]) -> str:
    shown = [f"{one}*" if one.endswith(".") else one for one in may_change]
    return f" (only {' and '.join(shown)} may change)" if shown else ""


def refuse_unbegun(folder: Path) -> None:
    """Refuse to resume where nothing was begun, as under a misspelt name.

    Raises:
        ValueError: naming the folder.
    """
    if not CONFIG.is_in(folder):
        raise ValueError(
            f"{folder}: expected a run directory with {CONFIG.name} to continue, got "
            f"{'another folder' if folder.exists() else 'no folder'}; check --out, or name a CONFIG to begin"
        )


def open_checkpoints(
    folder: Path,
    config: ExperimentConfig,
    *splits: Split,
    on_damaged: Callable[[str], None],
    may_change: tuple[str, ...] = (),
) -> Checkpoints:
    """Open the checkpoints of a run, which belong to its configuration and data.

    Args:
        folder: of the run.
        config: of the run.
        *splits: data of the run.
        on_damaged: called with one line about each damaged checkpoint.
        may_change: prefixes of keys that they do not depend on.
    """
    parts = [part for split in splits for part in (split.train, split.validation, split.test)]
    data = [None if part is None else part.fingerprint() for part in parts]
    others = [part for split in splits for part in (split.fold_in, split.cold)]
    data += [part.fingerprint() for part in others if part is not None]
    if config.privacy.has_noise:
        data.append(_salt(folder))
    settings = {key: value for key, value in _settings(config).items() if not key.startswith(may_change)}
    return Checkpoints(
        folder / CHECKPOINTS,
        keep=config.checkpoint.keep,
        fingerprints={"config": _sha256(settings), "data": _sha256(data)},
        on_damaged=on_damaged,
    )


def _salt(folder: Path) -> str:
    """Return what hides the digest of the data from readers of a checkpoint of noised item factors.

    Without it, the digest would tell whether a guess at all of the data is right. Collective.
    """
    share_files(folder, [SALT.name])
    if not SALT.is_in(folder):
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            SALT.write(folder, {"salt": secrets.token_hex(32)})
        share_files(folder, [SALT.name])
    return SALT.read(folder)["salt"]


def read_begun(folder: Path, checkpoints: Checkpoints, like: Snapshot) -> Begun | None:
    """Read the state that a run goes on from; None without a checkpoint.

    Collective: process 0 shares its files with all others.

    Raises:
        CheckpointError: when the checkpoint belongs to another run, or its records are missing.
    """
    names = [file.name for file in (METRICS, ENVIRONMENT, BUDGET)]
    share_files(folder, [f"{CHECKPOINTS}/*.npz", *names])
    restored = checkpoints.latest(like)
    if restored is None:
        return None
    done, snapshot = restored.done, restored.state
    records = _records_until(done, folder)
    starts = [*ENVIRONMENT.read_or(folder, {}).get("resumed_from_rounds", []), done]
    return Begun(done, snapshot.server, snapshot.key, records, starts)


def _records_until(done: int, folder: Path) -> list[Record]:
    """Read the records of the first `done` rounds; a killed process may have written more."""
    last = {"round": done - 1, "evaluation": done}
    try:
        records = [one for one in METRICS.read(folder) if one["round"] <= last.get(one["kind"], -1)]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{error} (the checkpoint needs these records; choose another --out)"
        ) from error
    rounds = [one["round"] for one in records if one["kind"] == "round"]
    if len(rounds) != done or rounds != list(range(done)):
        raise CheckpointError(
            f"{folder / METRICS.name}: expected the records of {count_of(done, 'round')}, as "
            "the checkpoint has, "
            f"got {len(rounds)}; choose another --out"
        )
    return records


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return the values that decide about the outcome, by key; the data are compared by fingerprint."""
    return {key: value for key, value in config.by_key().items() if not key.startswith(_WITHOUT_EFFECT)}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
