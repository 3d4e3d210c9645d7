"""Continuation of a run with more rounds or another evaluation: what may change, and what that outdates."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fcf_jax.experiments.build.devices import any_process
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.loop import Begun
from fcf_jax.experiments.store.run_directory import CHECKPOINTS, CONFIG, METRICS, SUMMARY, read_config

MAY_CHANGE = ("federation.num_rounds", "evaluation.")
_DECIDES_ABOUT_METRICS = ("evaluation.k", "evaluation.max_users", "evaluation.masked")


class _Rule(NamedTuple):
    """A reason to refuse more rounds.

    Attributes:
        is_broken: (configuration of the run, the one to go on with, its folder) -> whether it holds.
        message: of the same arguments.
    """

    is_broken: Callable[[ExperimentConfig, ExperimentConfig, Path], bool]
    message: Callable[[ExperimentConfig, ExperimentConfig, Path], str]


def refuse_impossible(folder: Path, config: ExperimentConfig) -> None:
    """Refuse a number of rounds with which the run cannot go on.

    Args:
        folder: of the run; anything else passes.
        config: to go on with, which differs from that of the run by `MAY_CHANGE` alone.

    Raises:
        ConfigError: naming the key and both values, and why.
    """
    if not CONFIG.is_in(folder):
        return
    theirs = read_config(folder)
    rounds = f"federation.num_rounds is {config.federation.num_rounds}, was {theirs.federation.num_rounds}"
    if theirs.federation.num_rounds == config.federation.num_rounds:
        return
    for rule in _RULES:
        if rule.is_broken(theirs, config, folder):
            raise ConfigError(f"{folder}: {rounds}: {rule.message(theirs, config, folder)}")


def changed_keys(folder: Path, config: ExperimentConfig) -> list[str]:
    """Return the keys of `MAY_CHANGE` that differ from those of the run in the folder, if there is one."""
    if not CONFIG.is_in(folder):
        return []
    theirs, ours = read_config(folder).by_key(), config.by_key()
    return [key for key in ours if key.startswith(MAY_CHANGE) and ours[key] != theirs[key]]


def continued(folder: Path, config: ExperimentConfig, begun: Begun | None) -> Begun | None:
    """Replace the configuration of a run that goes on, and drop what the new one outdates.

    That is the summary, and evaluations with another list length or sample of users. A process may be killed
    at any moment: a summary is always that of the configuration beside it. Collective: call on all.

    Args:
        folder: run directory, locked; without a change, nothing is written.
        config: to go on with.
        begun: state that the run goes on from, as read and checked.

    Returns:
        The state without outdated records.

    Raises:
        OSError: when the folder cannot be written.
    """
    changed = changed_keys(folder, config)
    records = [] if begun is None else begun.records
    if any_process(bool(set(changed) & set(_DECIDES_ABOUT_METRICS))):
        records = [one for one in records if one["kind"] != "evaluation"]
    if changed:
        SUMMARY.remove(folder)
        METRICS.write(folder, records)
        CONFIG.write(folder, config.to_dict())
    return None if begun is None else begun._replace(records=records)


def _new_run(folder: Path) -> str:
    return f"begin a new run, with server.initial_item_factors={folder} for a warm start"


_RULES = (
    _Rule(
        lambda theirs, ours, folder: ours.federation.num_rounds < theirs.federation.num_rounds,
        lambda theirs, ours, folder: "a run can only be made longer; choose another --out",
    ),
    _Rule(
        lambda theirs, ours, folder: theirs.server.decay != "constant",
        lambda theirs, ours, folder: (
            f"server.decay is {theirs.server.decay}, and the learning rate has fallen over the first number "
            f"of rounds; {_new_run(folder)}"
        ),
    ),
    _Rule(
        lambda theirs, ours, folder: theirs.privacy.has_noise and theirs.privacy.noise_multiplier is None,
        lambda theirs, ours, folder: (
            f"the noise was calibrated so that the first number spends privacy.epsilon = "
            f"{theirs.privacy.epsilon:g}, and more rounds would spend more; begin a new run, with "
            "privacy.noise_multiplier set if it is to go on later: epsilon is then counted as it grows"
        ),
    ),
    _Rule(
        lambda theirs, ours, folder: theirs.devices.is_asynchronous,
        lambda theirs, ours, folder: (
            "the sums that wait for the steps of asynchronous rounds (devices.concurrency) are arranged for "
            f"the first number; {_new_run(folder)}"
        ),
    ),
    _Rule(
        lambda theirs, ours, folder: SUMMARY.is_in(folder) and not any((folder / CHECKPOINTS).glob("*.npz")),
        lambda theirs, ours, folder: (
            f"expected a checkpoint in {folder / CHECKPOINTS} to go on from, got none; {_new_run(folder)}"
        ),
    ),
)
