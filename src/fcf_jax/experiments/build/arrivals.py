"""Arrivals of an experiment: dropouts, virtual time, and the rounds that follow from both."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fcf_jax.channel import (
    Devices,
    client_seconds,
    draw_devices,
    dropouts_by_activity,
    first_to_arrive,
    round_seconds,
)
from fcf_jax.core.sampling import Drawing, Sampling
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.device_traces import read_devices, read_dropouts
from fcf_jax.experiments.build.devices import Durations
from fcf_jax.experiments.build.side_features import user_labels_of
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.parallel import Timetable, simulate

if TYPE_CHECKING:
    from fcf_jax.experiments.build.problem import Problem

_DEVICES = 0x646576  # folded into the key of the start: devices draw numbers of their own


class ClientDevices(NamedTuple):
    """Devices of the clients, resolved from a configuration.

    Attributes:
        dropout: chance that a client drops out: one number, one for each user, or [rounds, users].
        devices: speeds and bandwidths; None without a clock.
    """

    dropout: float | Float[np.ndarray, "..."]
    devices: Devices | None


def client_devices_of(config: ExperimentConfig, train: Interactions) -> ClientDevices:
    """Read the traces of devices, or draw devices.

    Raises:
        ConfigError: for a bad trace.
    """
    section, dropout, devices = config.devices, config.devices.dropout, None
    if section.dropout_trace is not None:
        dropout = read_dropouts(section.dropout_trace, user_labels_of(train))
    elif section.dropout_pattern == "activity":
        dropout = dropouts_by_activity(train.history_lengths, mean=dropout)
    if section.trace is not None:
        devices = read_devices(section.trace, user_labels_of(train))
    elif section.bandwidth is not None:
        key = jax.random.fold_in(jax.random.key(config.federation.seed), _DEVICES)
        devices = draw_devices(key, train.num_users, bandwidth=section.bandwidth, spread=section.spread)
    return ClientDevices(dropout, devices)


def seconds_of_users(problem: "Problem") -> Float[np.ndarray, "users"]:
    """Compute the virtual time from the start of a round until each user's upload has arrived."""
    section, devices = problem.config.devices, problem.client_devices.devices
    assert devices is not None
    bytes_up, bytes_down = problem.client_bytes
    return client_seconds(
        devices,
        problem.history_lengths,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        base_seconds=section.base_seconds,
        seconds_per_interaction=section.seconds_per_interaction,
    )


def cohorts_of(problem: "Problem") -> tuple[int | None, Sampling | Drawing]:
    """Return the clients of a round, None for everybody, and how they are drawn.

    With a deadline, a round of everybody is a cohort, too, from which those that are late are missing.
    """
    config, num_users = problem.config, problem.train.num_users
    cohort_size, sampling = config.federation.cohort_among(num_users), config.federation.sampling
    if not config.devices.waits_for_some:
        return cohort_size, sampling
    return cohort_size or num_users, first_to_arrive(
        seconds_of_users(problem),
        over_selection=config.devices.over_selection,
        deadline=config.devices.deadline_seconds,
        sampling=sampling,
    )


def timetable_of(problem: "Problem") -> Timetable | None:
    """Simulate asynchronous rounds; None for synchronous ones."""
    config = problem.config
    if config.devices.concurrency is None:
        return None
    return simulate(
        problem.key,
        seconds_of_users(problem),
        num_rounds=config.federation.num_rounds,
        buffer_size=problem.cohort_size,
        concurrency=config.devices.concurrency,
        staleness_power=config.devices.staleness_power,
        sampling=config.federation.sampling,
        dropout=problem.client_devices.dropout,
    )


def durations_of(problem: "Problem", timetable: Timetable | None) -> Durations | None:
    """Return (first round, infos of rounds) -> virtual time that each of them lasts; None without a clock."""
    devices = problem.config.devices
    if not devices.has_clock:
        return None
    if timetable is not None:
        lasting = np.diff(np.asarray(timetable.seconds), prepend=0.0)
        return lambda first, info: lasting[first : first + len(info.loss)]
    seconds = seconds_of_users(problem)
    return lambda first, info: round_seconds(seconds, info.client_ids, deadline=devices.deadline_seconds)
