"""Federated training in blocks of rounds, timed, watched for divergence."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fcf_jax.core.server import ServerState
from fcf_jax.core.types import RoundInfo
from fcf_jax.experiments.config import ExperimentConfig
from fcf_jax.experiments.placement import Runner

_LARGEST_RISE = 10.0  # times the first loss; beyond, training has diverged
_LARGEST_BLOCK = 10


class Divergence(NamedTuple):
    """Where the loss left the ground."""

    round: int
    loss: float


class Training(NamedTuple):
    """The outcome of all rounds."""

    state: ServerState  # the last good one
    records: list[dict[str, Any]]  # one for each round and each evaluation
    seconds_per_round: float  # median over blocks, the first of each size (it compiles) left out
    divergence: Divergence | None


def train(
    runner: Runner,
    config: ExperimentConfig,
    *,
    on_block: Callable[[ServerState, list[dict[str, Any]], float, bool], None],
) -> Training:
    """Run all rounds.

    Args:
        runner: what is trained, and where.
        config: how many rounds, and when an evaluation is due.
        on_block: is told the state, all records so far (it may add some), the seconds that each
            round of the block took, and whether an evaluation is due.
    """
    num_rounds = config.federation.num_rounds
    state = good = runner.start()
    records: list[dict[str, Any]] = []
    block_seconds: dict[int, list[float]] = {}
    done = 0
    for size in block_sizes(num_rounds, config.evaluation.every):
        start, started = state, time.perf_counter()
        state, info = runner.run(state, size)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - started) / size
        block_seconds.setdefault(size, []).append(seconds)
        records += _records(info, done, seconds)
        losses = [one["loss"] for one in records if one["kind"] == "round"]
        divergence = find_divergence(losses, is_guarded=config.server.step == "guarded_gram")
        if divergence is not None:
            last_good = start if divergence.round > done else good
            return Training(last_good, records, _median(block_seconds), divergence)
        good = start
        done += size
        is_due = done % config.evaluation.every == 0 or done == num_rounds
        on_block(state, records, seconds, is_due)
    return Training(state, records, _median(block_seconds), None)


def block_sizes(num_rounds: int, every: int) -> list[int]:
    """Cut the rounds into blocks that end where evaluations are due, most of one size, at least three.

    Each size is a program of its own to compile.
    """
    largest = max(1, min(_LARGEST_BLOCK, every, num_rounds // 3))
    size = next(one for one in range(largest, 0, -1) if every % one == 0)
    whole, rest = divmod(num_rounds, size)
    return [size] * whole + [rest] * (rest > 0)


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


def _records(info: RoundInfo, done: int, seconds: float) -> list[dict[str, Any]]:
    host = jax.tree.map(np.asarray, info._replace(client_ids=None))
    return [
        {
            "kind": "round",
            "round": done + index,  # the loss is that of the item factors which this round began with
            "loss": float(host.loss[index]),
            "gradient_norm": float(host.gradient_norm[index]),
            "solve_error": float(host.solve_error[index]),
            "num_clients": int(host.num_clients[index]),
            "seconds": seconds,
        }
        for index in range(len(host.loss))
    ]


def _median(block_seconds: dict[int, list[float]]) -> float:
    warm = [seconds for of_size in block_seconds.values() for seconds in of_size[1:]]
    everything = [seconds for of_size in block_seconds.values() for seconds in of_size]
    return float(np.median(warm or everything or [0.0]))
