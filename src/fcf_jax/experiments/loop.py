"""Training in blocks of rounds: timed, watched for divergence, stopped on request."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.records import Key, RoundInfo, ServerState
from fcf_jax.experiments.build.devices import Durations, Runner

_LARGEST_RISE = 10.0  # times the first loss; a larger loss is divergence
_LARGEST_BLOCK = 10
_SHORT = 100  # rounds of a training that takes them one by one, rather than compile a second program

Record = dict[str, Any]
Stop = AbstractContextManager[Callable[[], bool]]  # entered while rounds run; yields () -> whether to stop
NEVER: Stop = nullcontext(lambda: False)


class Schedule(NamedTuple):
    """Schedule of a training: its blocks of rounds, evaluations and checkpoints.

    Attributes:
        num_rounds: of the whole training.
        evaluate_every: rounds between evaluations, apart from the first ones.
        checkpoint_every: fewest rounds between checkpoints; None: `evaluate_every`.
    """

    num_rounds: int
    evaluate_every: int
    checkpoint_every: int | None = None

    @property
    def block_size(self) -> int:
        """Size of most blocks; evaluations are due at their ends."""
        if self.num_rounds <= _SHORT:
            return 1
        largest = min(_LARGEST_BLOCK, self.evaluate_every)
        return next(one for one in range(largest, 0, -1) if self.evaluate_every % one == 0)

    @property
    def block_sizes(self) -> list[int]:
        """Sizes of the blocks: single rounds at first, and at the end where a block does not fit.

        Each size compiles a program of its own: a short training has only one.
        """
        size = self.block_size
        singles = min(size, self.num_rounds)
        whole, rest = divmod(self.num_rounds - singles, size)
        return [1] * singles + [size] * whole + [1] * rest

    def blocks(self, *, done: int = 0, endless_size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the first round and the size of each remaining block.

        Args:
            done: rounds that are done already; inside a block, its rest comes first.
            endless_size: size of further blocks without end, after the last round; 0: that of most blocks;
                None: no further blocks.
        """
        first = 0
        endless = [] if endless_size is None else itertools.repeat(endless_size or self.block_size)
        for size in itertools.chain(self.block_sizes, endless):
            after = first + size
            if after > done:
                yield max(first, done), after - max(first, done)
            first = after

    @property
    def reports(self) -> Iterator[tuple[int, int]]:
        """First round and size of each stretch between evaluations, for programs with a traced size."""
        for first in range(0, self.num_rounds, self.evaluate_every):
            yield first, min(self.evaluate_every, self.num_rounds - first)

    def is_evaluation_due(self, done: int) -> bool:
        """Return whether an evaluation is due after `done` rounds.

        The first ones are 0, 1, 2, 5, 10, 20, 50, ... as far as they come before `evaluate_every`, each at
        the end of its block: a learning curve bends there.
        """
        if done >= self.evaluate_every or done in (0, self.num_rounds):
            return done % self.evaluate_every == 0 or done == self.num_rounds
        size, exponent = self.block_size, len(str(done)) - 1
        early = [one * 10**power for power in (exponent - 1, exponent) for one in (1, 2, 5)]
        return done in (one if one < size else size * math.ceil(one / size) for one in early)

    def is_checkpoint_due(self, done: int, size: int) -> bool:
        """Return whether a checkpoint is due after a block of `size` rounds that ends after `done`."""
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
        starts: rounds at which a process took over from another; the last is `done`.
    """

    done: int
    state: ServerState
    key: Key
    records: list[Record]
    starts: list[int]


class Block(NamedTuple):
    """Result of a block of rounds.

    Attributes:
        done: rounds done since the start of training.
        size: rounds of the block.
        state: of the server; the next block takes its memory.
        records: of all rounds so far; the receiver may append to them.
        loss: of the last round.
        seconds: per round of the block.
        is_compiled: whether the program was compiled before, so that the seconds are those of rounds alone.
    """

    done: int
    size: int
    state: ServerState
    records: list[Record]
    loss: float
    seconds: float
    is_compiled: bool


class Learned(NamedTuple):
    """What a state has learned.

    Attributes:
        item_factors: Y.
        user_map: A; None: users have no features.
    """

    item_factors: jax.Array
    user_map: jax.Array | None

    @classmethod
    def of(cls, state: ServerState) -> "Learned":
        """Return the arrays of a state, which the next block takes the memory of."""
        return cls(state.item_factors, None if state.features is None else state.features.user_map)

    def copied(self) -> "Learned":
        """Return copies, which stay."""
        return jax.tree.map(jnp.copy, self)


class Training(NamedTuple):
    """Result of all rounds, or of those before a stop or divergence.

    Attributes:
        done: rounds done.
        learned: the last good item factors and user map.
        records: of each round and each evaluation.
        starts: rounds at which a process took over from another.
        divergence: None if training did not diverge.
    """

    done: int
    learned: Learned
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
    charge: Callable[[int], bool] = lambda num_rounds: True,
    on_compile: Callable[[], None] = lambda: None,
    begun: Begun | None = None,
    before: Sequence[Record] = (),
) -> Training:
    """Run the remaining rounds in blocks.

    Args:
        runner: runs the rounds.
        schedule: number of rounds, and their blocks.
        on_block: called with each block; returning True stops training.
        watched: name of the number in a round's record that is watched for divergence.
        is_guarded: whether the server step reverts a round whose loss rose.
        charge: called with the block size before each block, such as to charge a privacy budget; returning
            False stops training.
        on_compile: called before each block whose program is new to this process.
        begun: state to resume from; None: start anew.
        before: records of a new training before its first round.
    """
    state, done, records, starts = runner.start(), 0, list(before), []
    compiled: set[int] = set()
    if begun is not None:
        done, state = begun.done, runner.place(begun.state)
        records, starts = begun.records, begun.starts
    good = Learned.of(state).copied()  # a block takes the memory of the state that it begins with
    losses = [one[watched] for one in records if one["kind"] == "round"]
    for _, size in schedule.blocks(done=done):
        if not charge(size):
            break
        is_compiled = size in compiled
        if not is_compiled:
            on_compile()
            compiled.add(size)
        start, started = Learned.of(state).copied(), time.perf_counter()
        state, info = runner.run(state, size)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - started) / size
        rounds = records_of(info, done, seconds, runner.durations, before=records)
        records += rounds
        losses += [one[watched] for one in rounds]
        divergence = find_divergence(losses, first=max(done - 1, 0), is_guarded=is_guarded)
        if divergence is not None:
            last_good = start if divergence.round > done else good
            return Training(done, last_good, records, starts, divergence)
        good = start
        done += size
        if on_block(Block(done, size, state, records, rounds[-1]["loss"], seconds, is_compiled)):
            break
    return Training(done, Learned.of(state), records, starts, None)


def seconds_per_round(training: Training, schedule: Schedule) -> float:
    """Compute the median over blocks, leaving out the first of each size in each process: it compiles."""
    seconds = {one["round"]: one["seconds"] for one in training.records if one["kind"] == "round"}
    warm, compiled = [], set()
    for first, size in schedule.blocks():
        if first in training.starts:
            compiled.clear()
        if first in seconds and size in compiled:
            warm.append(seconds[first])
        compiled.add(size)
    return float(np.median(warm or list(seconds.values()) or [0.0]))


def virtual_seconds(records: Sequence[Record]) -> float | None:
    """Return the virtual time at the end of the last round; None without a clock."""
    last = next((one for one in reversed(records) if one["kind"] == "round"), {})
    return last.get("virtual_seconds")


def find_divergence(losses: list[float], *, first: int = 0, is_guarded: bool = False) -> Divergence | None:
    """Find the first loss that is not finite or exceeds ten times the first loss.

    A guarded step reverts such a round in the next one, so that only two in a row count.

    Args:
        losses: of all rounds so far.
        first: position to begin at; no divergence was found before or at it.
        is_guarded: whether the server step is guarded.
    """
    values = np.array(losses[first:])
    bad = ~(np.isfinite(values) & (values <= _LARGEST_RISE * abs(losses[0])))
    if is_guarded and len(bad) > 1:
        bad[1:] &= bad[:-1] | ~np.isfinite(values[1:])
        bad[0] = not np.isfinite(values[0])
    if not bad.any():
        return None
    position = int(bad.argmax())
    return Divergence(first + position, float(values[position]))


def records_of(
    info: RoundInfo, done: int, seconds: float, durations: Durations | None, *, before: Sequence[Record]
) -> list[Record]:
    """Return the records of a block of rounds, which comes after others.

    Args:
        info: of the rounds.
        done: rounds before them.
        seconds: per round.
        durations: as of `Runner`.
        before: records of earlier rounds; the last one is needed.
    """
    host = jax.tree.map(np.asarray, info._replace(client_ids=None))
    records = [
        {
            "kind": "round",
            "round": done + index,  # its loss is that of the item factors before it
            "loss": float(host.loss[index]),
            "gradient_norm": float(host.gradient_norm[index]),
            "solve_error": float(host.solve_error[index]),
            "num_clients": int(host.num_clients[index]),
            "num_clipped_entries": int(host.num_clipped_entries[index]),
            "seconds": seconds,
        }
        for index in range(len(host.loss))
    ]
    last = next((one for one in reversed(before) if one["kind"] == "round"), {})
    lasting = None if durations is None else durations(done, info).tolist()
    for index, record in enumerate(records):
        if not record["num_clients"] and "loss" in last:  # nobody came back: Y is as it was
            record["loss"] = last["loss"]
        if lasting is not None:
            record["virtual_seconds"] = last.get("virtual_seconds", 0.0) + lasting[index]
        last = record
    return records
