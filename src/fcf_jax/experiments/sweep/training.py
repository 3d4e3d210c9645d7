"""Training of a sweep: batch after batch in blocks of rounds, recorded and resumable."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from fcf_jax.core.records import RoundInfo
from fcf_jax.experiments.build.arrivals import durations_of
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.config.protection import Protection
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.endings import remedy_of_divergence
from fcf_jax.experiments.errors import StoppedError
from fcf_jax.experiments.loop import NEVER, Divergence, Stop, find_divergence, records_of
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.experiments.store.files import Document
from fcf_jax.experiments.store.resume import open_checkpoints
from fcf_jax.experiments.store.run_directory import RUNS
from fcf_jax.experiments.sweep.batches import (
    MOST_ROUNDS,
    Batch,
    Job,
    Outcome,
    advance,
    assess,
    begin,
    job_of,
    placed,
    start,
)
from fcf_jax.experiments.sweep.plan import Combination, metric_of, settings_text
from fcf_jax.experiments.sweep.runs import Prepared, Run
from fcf_jax.messages import count_of
from fcf_jax.parallel.batch import place_runs

FINISHED, DIVERGED, REFUSED = "finished", "diverged", "refused"
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class _Progress(NamedTuple):
    """Progress of a batch; the content of a checkpoint.

    Attributes:
        states: of all places.
        watched: number that is watched for divergence, [runs, rounds], nan for rounds to come.
        num_uploads: received so far, by run.
        virtual_seconds: on the clients' clock, by run.
    """

    states: Any
    watched: np.ndarray
    num_uploads: np.ndarray
    virtual_seconds: np.ndarray

    def add(self, place: int, run: Run, info: RoundInfo, done: int) -> None:
        """Add the rounds of a run that follow after `done`."""
        has_noise = run.problem.config.privacy.has_noise
        watched = "gradient_norm" if has_noise else "loss"  # under noise no client sends its loss
        last = {"kind": "round", "virtual_seconds": float(self.virtual_seconds[place])}
        if done:
            last[watched] = float(self.watched[place, done - 1])
        durations = durations_of(run.problem, run.timetable)
        for record in records_of(info, done, 0.0, durations, before=[last]):
            self.watched[place, record["round"]] = record[watched]
            self.num_uploads[place] += record["num_clients"]
            self.virtual_seconds[place] = record.get("virtual_seconds", 0.0)


class _Sweep(NamedTuple):
    """What the functions below share."""

    prepared: Prepared
    folder: Path
    progress: ProgressLine
    num_done: Callable[[], int]
    is_stop_requested: Callable[[], bool]

    @property
    def num_runs(self) -> int:
        """Runs of the whole sweep."""
        return len(self.prepared.combinations)


def train_all(
    prepared: Prepared, folder: Path, progress: ProgressLine, *, mesh: Mesh | None = None, stop: Stop = NEVER
) -> tuple[list[Document], int]:
    """Train all runs that are not on record yet.

    Args:
        prepared: from `prepare`.
        folder: of the sweep, where runs are recorded as their batches end.
        progress: shows the progress.
        mesh: devices that share the runs; None: one device.
        stop: entered while rounds run; yields a function that is called after each block of rounds and
            returns True to stop.

    Returns:
        The records of all runs in their order, and the number of programs that they take.

    Raises:
        StoppedError: if a stop was requested; a checkpoint is written.
        CheckpointError: if a checkpoint belongs to another sweep.
        OSError: if the folder cannot be written.
    """
    jobs = [job_of(group, prepared.packed, mesh) for group in prepared.groups]
    records = _begun(folder, prepared.combinations, jobs)
    with stop as is_stop_requested:
        sweep = _Sweep(prepared, folder, progress, lambda: len(records), is_stop_requested)
        for job in jobs:
            left = [runs for runs in job.batches if runs[0].number not in records]
            if not left:
                continue
            progress.compiling("run")
            on_devices = placed(job)
            for runs in left:
                found = _train(sweep, begin(on_devices, runs))
                RUNS.append(folder, found)
                records |= {record["run"]: record for record in found}
                _report(sweep, found)
    on_record = {record["run"]: record for record in RUNS.read(folder)}  # the same numbers as after a resume
    return [on_record[one.number] for one in prepared.combinations], len({job.program for job in jobs})


def _begun(folder: Path, combinations: Sequence[Combination], jobs: Sequence[Job]) -> dict[int, Document]:
    """Read the records of batches that are complete, and add those of combinations that are refused."""
    known = {record["run"]: record for record in RUNS.read_or(folder, [])}
    batches = [[run.number for run in runs] for job in jobs for runs in job.batches]
    whole = [numbers for numbers in batches if all(number in known for number in numbers)]
    records = {number: known[number] for numbers in whole for number in numbers}
    for one in combinations:
        if one.config is None:
            records[one.number] = {"run": one.number, "status": REFUSED, "reason": one.refusal, "metrics": {}}
    RUNS.write(folder, list(records.values()))
    return records


def _train(sweep: _Sweep, batch: Batch) -> list[Document]:
    """Train the runs of a batch, from its checkpoint if there is one, and measure them."""
    checkpoints = _checkpoints(sweep, batch)
    most, done = max(map(_num_rounds, batch.runs)), 0
    size = len(batch.runs)
    at = _Progress(start(batch), np.full((size, most), np.nan), np.zeros(size), np.zeros(size))
    if (restored := checkpoints.latest(at)) is not None:
        done, at = restored.done, restored.state
        at = at._replace(states=place_runs(at.states, batch.job.program.mesh))
        sweep.progress.say(f"resuming after {count_of(done, 'round')} of the runs that were stopped")
    saved = time.monotonic()
    while any(sizes := _sizes(batch, at.watched, done)):
        states, infos = advance(batch, at.states, sizes)
        at = at._replace(states=states)
        for place, (run, info) in enumerate(zip(batch.runs, infos, strict=True)):
            at.add(place, run, info, done)
        done += max(sizes)
        _show(sweep, done, most)
        stops = sweep.is_stop_requested()
        if stops or time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            checkpoints.save(done, at)
            saved = time.monotonic()
        if stops:
            raise StoppedError(f"after {sweep.num_done()} of {sweep.num_runs} runs")
    outcomes = assess(batch, at.states)
    checkpoints.discard()  # before the runs are on record: it would be taken for that of the next batch
    records = []
    for place, (run, outcome) in enumerate(zip(batch.runs, outcomes, strict=True)):
        record = _record(run, outcome, at.watched[place], batch.job.packed[run.data].popularity)
        devices = run.problem.config.devices
        if devices.has_dropouts or devices.waits_for_some:
            record["num_uploads"] = int(at.num_uploads[place])
        if devices.has_clock:
            record["virtual_seconds"] = float(at.virtual_seconds[place])
        records.append(record)
    return records


def _checkpoints(sweep: _Sweep, batch: Batch) -> Checkpoints:
    first = batch.runs[0].problem
    return open_checkpoints(sweep.folder, first.config, first.dataset.split, on_damaged=sweep.progress.say)


def _sizes(batch: Batch, watched: np.ndarray, done: int) -> list[int]:
    """Return the rounds of each run in the next block: none for a run that has ended or diverged."""
    return [
        0 if _divergence(run, watched[place, :done]) else min(MOST_ROUNDS, max(_num_rounds(run) - done, 0))
        for place, run in enumerate(batch.runs)
    ]


def _num_rounds(run: Run) -> int:
    return run.problem.config.federation.num_rounds


def _divergence(run: Run, watched: np.ndarray) -> Divergence | None:
    values = watched[: _num_rounds(run)].tolist()
    return find_divergence(values, is_guarded=run.problem.config.server.spec.is_guarded) if values else None


def _record(run: Run, outcome: Outcome, watched: np.ndarray, popularity: dict[str, float]) -> Document:
    problem, config = run.problem, run.problem.config
    divergence = _divergence(run, watched)
    status, reason = FINISHED, ""
    if divergence is not None:
        status = DIVERGED
        reason = (
            f"diverged in round {divergence.round} (loss {divergence.loss:g}); "
            f"{remedy_of_divergence(problem, divergence)}"
        )
    elif not outcome.is_finite:
        status, reason = DIVERGED, "the last round gave item factors that are not finite"
    return {
        "run": run.number,
        "status": status,
        "reason": reason,
        "metrics": outcome.metrics if status == FINISHED else {},
        "num_rounds": config.federation.num_rounds,
        "cohort_size": problem.cohort_size,
        "num_users": problem.train.num_users,
        "popularity": popularity.get(metric_of(config), math.nan),
        **_costs(problem),
    }


def _costs(problem: Problem) -> Document:
    """Return what a run costs its clients: bytes, and epsilon under noise."""
    ledger, protection = problem.ledger, problem.protection
    up, down = ledger["bytes_up"]["mean"], ledger["bytes_down"]["mean"]
    share = problem.cohort_size / problem.train.num_users
    costs = {
        "payload_bytes_up": round(up),
        "payload_bytes_down": round(down),
        "bytes_per_client": (up + down) * share * problem.config.federation.num_rounds,
    }
    if protection is not None and (epsilon := _epsilon(protection)) is not None:
        costs |= {"epsilon": epsilon, "delta": protection.delta}
        costs["is_private"] = protection.privacy.seed is None
    return costs


@functools.cache
def _epsilon(protection: Protection) -> float | None:  # takes seconds
    return protection.epsilon


def _show(sweep: _Sweep, done: int, num_rounds: int) -> None:
    status = f"round {done} of {num_rounds}" if done < num_rounds else "measuring"
    sweep.progress.show("run", sweep.num_done(), sweep.num_runs, status, is_kept=False)


def _report(sweep: _Sweep, found: Sequence[Document]) -> None:
    """Show the runs that have ended; where lines stay, each gets its own."""
    for record in found:
        one = sweep.prepared.combinations[record["run"]]
        metric = metric_of(one.config or ExperimentConfig())
        value = record["metrics"].get(metric, math.nan)
        measured = f"{metric} {value:.4f}" if record["status"] == FINISHED else record["status"]
        status = f"{settings_text(one.values)}: {measured}"
        sweep.progress.show("run", sweep.num_done(), sweep.num_runs, status)
