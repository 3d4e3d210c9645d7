"""Federated training in blocks of rounds, timed, watched for divergence, stopped when asked to."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fcf_jax.core.records import Key, RoundInfo, ServerState
from fcf_jax.experiments.build.devices import Runner
from fcf_jax.experiments.config.privacy_modes import has_noise
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import step_of

_LARGEST_RISE = 10.0  # times the first loss; beyond, training has diverged
_LARGEST_BLOCK = 10

Record = dict[str, Any]


class Divergence(NamedTuple):
    """Where the loss left the ground."""

    round: int
    loss: float


class Begun(NamedTuple):
    """How far an earlier training came."""

    done: int  # rounds
    state: ServerState
    key: Key
    records: list[Record]  # of these rounds
    starts: list[int]  # rounds at which a process took over; the last is `done`


class Block(NamedTuple):
    """What there is to tell after a block of rounds."""

    done: int  # rounds of the whole training
    size: int
    state: ServerState
    records: list[Record]  # all so far; whoever is told may add some
    loss: float  # the latest
    seconds: float  # that each round of the block took
    is_due: bool  # for an evaluation


class Training(NamedTuple):
    """The outcome of all rounds, or of those before a stop or divergence."""

    done: int
    state: ServerState  # the last good one
    records: list[Record]  # one for each round and each evaluation
    starts: list[int]  # rounds at which a process took over from another
    divergence: Divergence | None


def train(
    runner: Runner,
    config: ExperimentConfig,
    *,
    on_block: Callable[[Block], bool],
    may_run: Callable[[int], bool] = lambda num_rounds: True,
    begun: Begun | None = None,
) -> Training:
    """Run all rounds that are left.

    Args:
        runner: what is trained, and where.
        config: how many rounds, and when an evaluation is due.
        on_block: is told of each block of rounds, and answers whether to stop there.
        may_run: is asked before each block, which counts so many rounds; a no ends the training.
        begun: where to go on; None: at the start.
    """
    num_rounds, every = config.federation.num_rounds, config.evaluation.every
    state = good = runner.start()
    done, records, starts = 0, [], []
    if begun is not None:
        done, state = begun.done, runner.place(begun.state)
        records, starts = begun.records, begun.starts
    for first, size in blocks(num_rounds, every):
        if first < done:
            continue
        if not may_run(size):
            break
        start, started = state, time.perf_counter()
        state, info = runner.run(state, size)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - started) / size
        records += _records(info, done, seconds)
        losses = [one["loss"] for one in records if one["kind"] == "round"]
        watched = losses if not has_noise(config) else _gradient_norms(records)
        divergence = find_divergence(watched, is_guarded=step_of(config).is_guarded)
        if divergence is not None:
            last_good = start if divergence.round > done else good
            return Training(done, last_good, records, starts, divergence)
        good = start
        done += size
        is_due = done % every == 0 or done == num_rounds
        if on_block(Block(done, size, state, records, losses[-1], seconds, is_due)):
            break
    return Training(done, state, records, starts, None)


def blocks(num_rounds: int, every: int) -> Iterator[tuple[int, int]]:
    """Yield each block of rounds: its first round and its size."""
    first = 0
    for size in block_sizes(num_rounds, every):
        yield first, size
        first += size


def block_sizes(num_rounds: int, every: int) -> list[int]:
    """Cut the rounds into blocks that end where evaluations are due, most of one size, at least three.

    Each size is a program of its own to compile.
    """
    largest = max(1, min(_LARGEST_BLOCK, every, num_rounds // 3))
    size = next(one for one in range(largest, 0, -1) if every % one == 0)
    whole, rest = divmod(num_rounds, size)
    return [size] * whole + [rest] * (rest > 0)


def seconds_per_round(training: Training, config: ExperimentConfig) -> float:
    """Compute the median over blocks, without the first of each size in each process: it compiles."""
    seconds = {one["round"]: one["seconds"] for one in training.records if one["kind"] == "round"}
    warm, compiled = [], set()
    for first, size in blocks(config.federation.num_rounds, config.evaluation.every):
        if first in training.starts:
            compiled.clear()
        if first in seconds and size in compiled:
            warm.append(seconds[first])
        compiled.add(size)
    return float(np.median(warm or list(seconds.values()) or [0.0]))


def find_divergence(losses: list[float], *, is_guarded: bool = False) -> Divergence | None:
    """Find the first loss that is not finite or above ten times the very first.

    A guarded step takes one such loss back in the next round: only two in a row count.
    """
    values = np.array(losses)
    bad = ~(np.isfinite(values) & (values <= _LARGEST_RISE * abs(values[0])))
    if is_guarded and len(bad) > 1:
        bad[1:] &= bad[:-1] | ~np.isfinite(values[1:])
        bad[0] = not np.isfinite(values[0])
    if not bad.any():
        return None
    position = int(bad.argmax())
    return Divergence(position, float(values[position]))


def _gradient_norms(records: list[Record]) -> list[float]:
    """Watch these where the clients do not send their loss."""
    return [one["gradient_norm"] for one in records if one["kind"] == "round"]


def _records(info: RoundInfo, done: int, seconds: float) -> list[Record]:
    host = jax.tree.map(np.asarray, info._replace(client_ids=None))
    return [
        {
            "kind": "round",
            "round": done + index,  # the loss is that of the item factors which this round began with
            "loss": float(host.loss[index]),
            "gradient_norm": float(host.gradient_norm[index]),
            "solve_error": float(host.solve_error[index]),
            "num_clients": int(host.num_clients[index]),
            "num_clipped_entries": int(host.num_clipped_entries[index]),
            "seconds": seconds,
        }
        for index in range(len(host.loss))
    ]
