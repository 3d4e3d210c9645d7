r"""The timetable of asynchronous rounds: who computes with which item factors, and in which step it counts.

`concurrency` clients are in flight at a time; when an upload arrives, another client starts with the latest
item factors. After `buffer_size` uploads the server takes a step. An upload that started tau steps before
weighs (1 + tau)^-power, relative to the others of its step.

How long clients take does not depend on values, so that all of this is simulated on the host before the first
round, event by event. More rounds only lengthen the timetable: a resumed run finds the same.

References:
    Nguyen et al., AISTATS 2022, "Federated Learning with Buffered Asynchronous Aggregation" (FedBuff).
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.checks import require
from fcf_jax.core.records import Key
from fcf_jax.core.sampling import Drawing, Sampling, draw_cohorts

_COHORTS_AT_A_TIME = 64


class Timetable(NamedTuple):
    """Timetable of asynchronous rounds; round t begins after t steps, and ends with the next step.

    Uploads that wait for the same step are added up in one slot.

    Attributes:
        starts: users that start in each round, in waves of at most `buffer_size`; `users` for an empty place.
        weights: factor on everything that each of them sends; the mean over the uploads of a step is 1.
        slots: slot of each of their uploads.
        num_waves: waves of each round that are not empty.
        step_slots: slot that is emptied by the step of each round.
        received: users whose uploads the step takes, in the order of their arrival.
        lags: tau of these uploads, in steps.
        seconds: time of the step since the start of the first round.
        num_lost: uploads that were lost during the round.
    """

    starts: Int[Array | np.ndarray, "rounds waves places"]
    weights: Float[Array | np.ndarray, "rounds waves places"]
    slots: Int[Array | np.ndarray, "rounds waves places"]
    num_waves: Int[Array | np.ndarray, "rounds"]
    step_slots: Int[Array | np.ndarray, "rounds"]
    received: Int[Array | np.ndarray, "rounds buffer"]
    lags: Int[Array | np.ndarray, "rounds buffer"]
    seconds: Float[Array | np.ndarray, "rounds"]
    num_lost: Int[Array | np.ndarray, "rounds"]

    @property
    def num_slots(self) -> int:
        """Number of slots, on the host."""
        return 1 + int(np.max(self.slots, initial=0))


class Upload(NamedTuple):
    """An upload that the server has received.

    Attributes:
        user: user id.
        start: number of steps before the client started.
        step: index of the step that takes it.
    """

    user: int
    start: int
    step: int

    @property
    def lag(self) -> int:
        """Return tau, the number of steps between."""
        return self.step - self.start


def simulate(
    key: Key,
    seconds: Float[np.ndarray, "users"],
    *,
    num_rounds: int,
    buffer_size: int,
    concurrency: int,
    staleness_power: float = 0.5,
    sampling: Sampling | Drawing = "shuffled",
    dropout: Float[np.ndarray, "users"] | float = 0.0,
) -> Timetable:
    """Simulate asynchronous rounds.

    Clients start in the order in which `sampling` draws them, cohort by cohort. Passed over are those that
    are in flight, and those that have computed with the latest item factors already.

    Args:
        key: key of all rounds.
        seconds: time that each user takes, above 0, such as `fcf_jax.channel.client_seconds`.
        num_rounds: steps of the server.
        buffer_size: uploads of a step.
        concurrency: clients in flight.
        staleness_power: p in (1 + tau)^-p; 0 weighs all uploads alike, 0.5 is that of FedBuff.
        sampling: "shuffled", "independent" or "poisson".
        dropout: chance that an upload is lost: for all, or for each user. Another client starts in its place
            when it would have arrived.

    Raises:
        ValueError: for sizes below 1, more clients than there are, or times that are not positive.
    """
    num_users = len(seconds)
    chances = np.broadcast_to(np.asarray(dropout, np.float64), (num_users,))
    _check(seconds, chances, num_rounds=num_rounds, buffer_size=buffer_size, concurrency=concurrency)
    order = _order(key, num_users, cohort_size=buffer_size, sampling=sampling)
    uploads, times, num_lost = _run(
        order,
        np.asarray(seconds, np.float64),
        chances,
        np.random.Generator(np.random.Philox(np.asarray(jax.random.key_data(key)).tolist())),
        num_rounds=num_rounds,
        buffer_size=buffer_size,
        concurrency=concurrency,
    )
    table = np.array(uploads, np.int64).reshape(-1, 3)
    users, starts, steps = table.T
    weights = _weights(starts, steps, buffer_size=buffer_size, staleness_power=staleness_power)
    num_received = num_rounds * buffer_size
    return Timetable(
        **_of_starts(users, starts, steps, weights, num_rounds, num_users, buffer_size),
        received=users[:num_received].reshape(num_rounds, buffer_size).astype(np.int32),
        lags=(steps - starts)[:num_received].reshape(num_rounds, buffer_size).astype(np.int32),
        seconds=np.array(times[:num_rounds]),
        num_lost=np.array(num_lost[:num_rounds], np.int32),
    )


def _check(seconds: np.ndarray, chances: np.ndarray, **sizes: int) -> None:
    require(num_rounds=sizes["num_rounds"])
    for name in ("buffer_size", "concurrency"):
        if sizes[name] < 1:
            raise ValueError(f"expected {name} of at least 1, got {sizes[name]}")
    if len(seconds) < (needed := sizes["buffer_size"] + sizes["concurrency"]):
        raise ValueError(
            f"expected at least {needed} users for concurrency {sizes['concurrency']} and buffer_size "
            f"{sizes['buffer_size']}, got {len(seconds)}; lower one of them"
        )
    if not np.all(np.isfinite(seconds) & (np.asarray(seconds) > 0)):
        raise ValueError("expected finite seconds above 0 for each user; give client_seconds a base above 0")
    if not np.all((chances >= 0) & (chances < 1)):
        raise ValueError(
            f"expected dropout of at least 0 and below 1, got {chances.min():g} to {chances.max():g}"
        )


def _order(key: Key, num_users: int, *, cohort_size: int, sampling: Sampling | Drawing) -> Iterator[int]:
    """Yield users in the order in which cohorts draw them, without end."""
    for first in itertools.count(0, _COHORTS_AT_A_TIME):
        cohorts = draw_cohorts(
            key,
            jnp.asarray(first, jnp.int32),
            num_rounds=_COHORTS_AT_A_TIME,
            num_users=num_users,
            cohort_size=cohort_size,
            sampling=sampling,
        )
        yield from (user for user in np.asarray(cohorts.client_ids).ravel().tolist() if user < num_users)


def _run(
    order: Iterator[int],
    seconds: np.ndarray,
    chances: np.ndarray,
    rng: np.random.Generator,
    *,
    num_rounds: int,
    buffer_size: int,
    concurrency: int,
) -> tuple[list[Upload], list[float], list[int]]:
    """Simulate until the steps are over that take the uploads of all clients of these rounds.

    Returns the uploads received, the time of each step, and the number of uploads lost before it.
    """
    arrivals: list[tuple[float, int, int, int]] = []  # time, number of the start, user, steps before it
    uploads: list[Upload] = []
    times: list[float] = []
    num_lost, numbers, in_flight, fresh = [0], itertools.count(), set(), set()
    num_awaited = last_step = 0

    def start(now: float) -> None:
        nonlocal num_awaited
        user = next(user for user in order if user not in in_flight and user not in fresh)
        heapq.heappush(arrivals, (now + seconds[user], next(numbers), user, len(times)))
        in_flight.add(user)
        fresh.add(user)
        num_awaited += len(times) < num_rounds

    for _ in range(concurrency if num_rounds else 0):
        start(0.0)
    while num_awaited or len(times) < max(num_rounds, last_step + bool(uploads)):
        now, _, user, version = heapq.heappop(arrivals)
        in_flight.remove(user)
        num_awaited -= version < num_rounds
        if chances[user] > 0 and rng.random() < chances[user]:
            num_lost[-1] += 1
            fresh.discard(user)
        else:
            uploads.append(Upload(user, version, len(times)))
            last_step = len(times) if version < num_rounds else last_step
            if len(uploads) % buffer_size == 0:
                times.append(now)
                num_lost.append(0)
                fresh.clear()
        start(now)
    return uploads, times, num_lost


def _weights(
    starts: np.ndarray, steps: np.ndarray, *, buffer_size: int, staleness_power: float
) -> np.ndarray:
    """Compute (1 + tau)^-power, scaled to a mean of 1 over the uploads of each step."""
    raw = (1.0 + steps - starts) ** -staleness_power
    of_steps = np.bincount(steps, weights=raw, minlength=1)
    return buffer_size * raw / of_steps[steps]


def _of_starts(
    users: np.ndarray,
    starts: np.ndarray,
    steps: np.ndarray,
    weights: np.ndarray,
    num_rounds: int,
    num_users: int,
    buffer_size: int,
) -> dict[str, np.ndarray]:
    """Arrange the uploads by the round in which their clients start, and give the steps their slots."""
    order = np.flatnonzero(starts < num_rounds)
    order = order[np.argsort(starts[order], kind="stable")]
    users, starts, steps, weights = users[order], starts[order], steps[order], weights[order]
    counts = np.bincount(starts, minlength=num_rounds)
    position = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot_of_step = _slots(starts, steps, num_rounds=num_rounds)
    num_waves = -(-counts // buffer_size)
    shape = (num_rounds, int(num_waves.max(initial=1)) * buffer_size)

    def arranged(values: np.ndarray, empty: float, kind: type) -> np.ndarray:
        table = np.full(shape, empty, kind)
        table[starts, position] = values
        return table.reshape(num_rounds, -1, buffer_size)

    return {
        "starts": arranged(users, num_users, np.int32),
        "weights": arranged(weights, 0.0, np.float32),
        "slots": arranged(np.array([slot_of_step[step] for step in steps.tolist()]), 0, np.int32),
        "num_waves": num_waves.astype(np.int32),
        "step_slots": np.array([slot_of_step[step] for step in range(num_rounds)], np.int32),
    }


def _slots(starts: np.ndarray, steps: np.ndarray, *, num_rounds: int) -> dict[int, int]:
    """Give each step a slot, from the first round that computes for it until the step: as few as possible."""
    first = {}
    for start, step in zip(starts.tolist(), steps.tolist(), strict=True):
        first.setdefault(start, set()).add(step)
    slot_of_step: dict[int, int] = {}
    free, unused = [], itertools.count()
    for round_index in range(num_rounds):
        for step in sorted(first.get(round_index, ())):
            if step not in slot_of_step:
                slot_of_step[step] = heapq.heappop(free) if free else next(unused)
        heapq.heappush(free, slot_of_step[round_index])
    return slot_of_step
