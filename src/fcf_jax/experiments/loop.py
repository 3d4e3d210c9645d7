"""Training in blocks of rounds: timed, watched for divergence, stopped on request."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np

from fcf_jax.core.records import Key, RoundInfo, ServerState
from fcf_jax.experiments.build.devices import Runner

_LARGEST_RISE = 10.0  # times the first loss; beyond, training has diverged
_LARGEST_BLOCK = 10

Record = dict[str, Any]
Stop = AbstractContextManager[Callable[[], bool]]  # entered while rounds run; yields () -> whether to stop
NEVER: Stop = nullcontext(lambda: False)


class Schedule(NamedTuple):
    """When blocks of rounds end, and what is due there.

    Attributes:
        num_rounds: of the whole training.
        evaluate_every: rounds between evaluations.
        checkpoint_every: rounds between checkpoints, at least; None: with every evaluation.
    """

    num_rounds: int
    evaluate_every: int
    checkpoint_every: int | None = None

    @property
    def block_sizes(self) -> list[int]:
        """Blocks of rounds that end where evaluations are due, most of one size, at least three.

        Each size is a program of its own to compile.
        """
        largest = max(1, min(_LARGEST_BLOCK, self.evaluate_every, self.num_rounds // 3))
        size = next(one for one in range(largest, 0, -1) if self.evaluate_every % one == 0)
        whole, rest = divmod(self.num_rounds, size)
        return [size] * whole + [rest] * (rest > 0)

    def blocks(self, *, done: int = 0, then_of: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the first round and the size of every block that is left.

        Args:
            done: rounds that need not be repeated.
            then_of: size of further blocks without end, after the last round; 0: that of the first block, if
                there is any; None: no further blocks.
        """
        sizes, first = self.block_sizes, 0
        endless = [] if then_of is None else itertools.repeat(then_of or sizes[0])
        for size in itertools.chain(sizes, endless):
            if first >= done:
                yield first, size
            first += size

    @property
    def reports(self) -> Iterator[tuple[int, int]]:
        """First round and size of every stretch between evaluations, for programs of any number of rounds."""
        for first in range(0, self.num_rounds, self.evaluate_every):
            yield first, min(self.evaluate_every, self.num_rounds - first)

    def is_evaluation_due(self, done: int) -> bool:
        """Return True after so many rounds."""
        return done % self.evaluate_every == 0 or done == self.num_rounds

    def is_checkpoint_due(self, done: int, size: int) -> bool:
        """Return True after a block of this size that ends after so many rounds."""
        every = self.checkpoint_every or self.evaluate_every
        return done == self.num_rounds or done // every > (done - size) // every


class Divergence(NamedTuple):
    """Round and loss at which training diverged."""

    round: int
    loss: float


class Begun(NamedTuple):
    """State of an earlier training that is resumed.

    Attributes:
        done: rounds done.
        state: of the server.
        key: of the first item factors.
        records: of these rounds.
        starts: rounds at which a process took over; the last is `done`.
    """

    done: int
    state: ServerState
    key: Key
    records: list[Record]
    starts: list[int]


class Block(NamedTuple):
    """Outcome of a block of rounds.

    Attributes:
        done: rounds of the whole training.
        size: rounds of the block.
        state: of the server.
        records: all so far; the receiver may add some.
        loss: the latest.
        seconds: per round of the block.
    """

    done: int
    size: int
    state: ServerState
    records: list[Record]
    loss: float
    seconds: float


class Training(NamedTuple):
    """Outcome of all rounds, or of those before a stop or divergence.

    Attributes:
        done: rounds done.
        state: the last good one.
        records: one for each round and each evaluation.
        starts: rounds at which a process took over from another.
        divergence: None if training did not diverge.
    """

    done: int
    state: ServerState
    records: list[Record]
    starts: list[int]
    divergence: Divergence | None


def train(
    runner: Runner,
    schedule: Schedule,
    *,
    on_block: Callable[[Block], bool],
    watched: str = "loss",
    is_guarded: bool = False,
    may_run: Callable[[int], bool] = lambda num_rounds: True,
    begun: Begun | None = None,
) -> Training:
    """Run all rounds that are left.

    Args:
        runner: runs the rounds.
        schedule: how many rounds, in which blocks.
        on_block: called with each block; returning True stops training.
        watched: number of the records that shows divergence.
        is_guarded: whether the server step takes back a round whose loss rose.
        may_run: called with the block size before each block; returning False stops training.
        begun: where to resume; None: at the start.
    """
    state = good = runner.start()
    done, records, starts = 0, [], []
    if begun is not None:
        done, state = begun.done, runner.place(begun.state)
        records, starts = begun.records, begun.starts
    for _, size in schedule.blocks(done=done):
        if not may_run(size):
            break
        start, started = state, time.perf_counter()
        state, info = runner.run(state, size)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - started) / size
        records += _records(info, done, seconds)
        rounds = [one for one in records if one["kind"] == "round"]
        divergence = find_divergence([one[watched] for one in rounds], is_guarded=is_guarded)
        if divergence is not None:
            last_good = start if divergence.round > done else good
            return Training(done, last_good, records, starts, divergence)
        good = start
        done += size
        if on_block(Block(done, size, state, records, rounds[-1]["loss"], seconds)):
            break
    return Training(done, state, records, starts, None)


def seconds_per_round(training: Training, schedule: Schedule) -> float:
    """Compute the median over blocks, without the first of each size in each process: it compiles."""
    seconds = {one["round"]: one["seconds"] for one in training.records if one["kind"] == "round"}
    warm, compiled = [], set()
    for first, size in schedule.blocks():
        if first in training.starts:
            compiled.clear()
        if first in seconds and size in compiled:
            warm.append(seconds[first])
        compiled.add(size)
    return float(np.median(warm or list(seconds.values()) or [0.0]))


def find_divergence(losses: list[float], *, is_guarded: bool = False) -> Divergence | None:
    """Find the first loss that is not finite, or above ten times the very first.

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


def _records(info: RoundInfo, done: int, seconds: float) -> list[Record]:
    host = jax.tree.map(np.asarray, info._replace(client_ids=None))
    return [
        {
            "kind": "round",
            "round": done + index,  # its loss is that of the item factors it began with
            "loss": float(host.loss[index]),
            "gradient_norm": float(host.gradient_norm[index]),
            "solve_error": float(host.solve_error[index]),
            "num_clients": int(host.num_clients[index]),
            "num_clipped_entries": int(host.num_clipped_entries[index]),
            "seconds": seconds,
        }
        for index in range(len(host.loss))
    ]
