"""A ledger that runs on the same users share: what all of them together cost.

Each run has one entry, of all rounds that it may release, written before its first round and never taken
back. The file is changed under a lock. An entry without a mechanism, such as one written by hand for a
release of another program, is added up by its epsilon and delta.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NotRequired, cast

from filelock import FileLock
from pydantic import Field
from typing_extensions import TypedDict

from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.store.files import File
from fcf_jax.experiments.store.schemas import Count
from fcf_jax.privacy.accounting import Participation, ParticipationSampling
from fcf_jax.privacy.composition import Release, composed_epsilon


class Mechanism(TypedDict):
    """What a run releases, for the accountant; fields as of `Release` and `Participation`."""

    sampling: ParticipationSampling
    num_users: Annotated[int, Field(ge=1)]
    cohort_size: Annotated[int, Field(ge=1)]
    count_noise_multiplier: Annotated[float, Field(gt=0)] | None
    noise_multiplier: Annotated[float, Field(gt=0)]
    num_rounds: Annotated[int, Field(ge=0, le=10**7)]


class Entry(TypedDict):
    """Entry of a run.

    Attributes:
        run: name of the entry, drawn at random.
        folder: run directory; for people.
        epsilon: of this run alone; None: infinite.
        delta: of this run alone.
        mechanism: missing where it is not known.
    """

    run: str
    folder: NotRequired[str]
    epsilon: Annotated[float, Field(ge=0)] | None
    delta: Annotated[float, Field(ge=0, lt=1)]
    mechanism: NotRequired[Mechanism]


class Ledger(TypedDict):
    """Content of the file.

    Attributes:
        entries: of all runs.
        epsilon: of all of them together, at the delta of the run that wrote last; None: infinite.
        delta: of all of them together.
        num_runs: number of entries.
    """

    entries: list[Entry]
    epsilon: NotRequired[Annotated[float, Field(ge=0)] | None]
    delta: NotRequired[float]
    num_runs: NotRequired[Count]


def entry_of(run: str, folder: Path, release: Release, *, epsilon: float, delta: float) -> Entry:
    """Build the entry of a run."""
    who = release.participation
    return {
        "run": run,
        "folder": str(folder.absolute()),
        "epsilon": epsilon,
        "delta": delta,
        "mechanism": {
            "sampling": who.sampling,
            "num_users": who.num_users,
            "cohort_size": who.cohort_size,
            "count_noise_multiplier": who.release_noise_multiplier,  # of an evaluation, too
            "noise_multiplier": release.noise_multiplier,
            "num_rounds": release.num_rounds,
        },
    }


def charge_ledger(path: Path, entry: Entry, *, limit: float | None) -> float:
    """Write an entry in place of that of the same run, and return the epsilon of all runs together.

    Args:
        path: of the ledger; a new file if there is none.
        entry: of the run.
        limit: largest epsilon of all runs together, at the delta of the entry; None: no limit.

    Raises:
        ConfigError: when the limit would be exceeded; the ledger is then left as it was.
        DamagedFileError: when the ledger cannot be read.
        OSError: when it cannot be written; then nothing may be released.
    """
    file = File[Ledger](
        path.name, schema=Ledger, remedy="what is spent cannot be known: restore it from a copy"
    )
    with FileLock(f"{path}.lock"):
        ledger = file.read_or(path.parent, cast(Ledger, {"entries": []}))
        others = [one for one in ledger["entries"] if one["run"] != entry["run"]]
        entries = [*others, entry]
        total = total_epsilon(entries, delta=entry["delta"])
        if limit is not None and total > limit:
            before = total_epsilon(others, delta=entry["delta"])
            raise ConfigError(
                f"privacy.ledger_epsilon: expected at most {limit:g} with this run, got {total:.4g} "
                f"({path} holds {before:.4g}); lower privacy.epsilon or federation.num_rounds"
            )
        written: Ledger = {
            "entries": entries,
            "epsilon": total,
            "delta": entry["delta"],
            "num_runs": len(entries),
        }
        file.write(path.parent, written)
    return total


def total_epsilon(entries: Iterable[Entry], *, delta: float) -> float:
    """Compute the epsilon of entries: known mechanisms are composed, the epsilons of others added."""
    known, unknown, entries = [], 0.0, list(entries)
    for one in entries:
        if (mechanism := one.get("mechanism")) is None:
            unknown += math.inf if one["epsilon"] is None else one["epsilon"]
            delta -= one["delta"]
        else:
            known.append(_release(mechanism))
    if delta <= 0:
        return math.inf
    return unknown + composed_epsilon(known, delta=delta)


def _release(mechanism: Mechanism) -> Release:
    who = Participation(
        mechanism["sampling"],
        mechanism["num_users"],
        mechanism["cohort_size"],
        mechanism["count_noise_multiplier"],
    )
    return Release(who, mechanism["noise_multiplier"], mechanism["num_rounds"])
