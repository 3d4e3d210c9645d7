r"""The virtual clock: how long the devices of clients take, and how long rounds last.

    seconds_u = (base + per_interaction |I_u|) / speed_u + (bytes_down + bytes_up) / bandwidth_u

Times depend on devices, histories and bytes, never on values. They are computed on the host, for all rounds
before the first, and cohorts are drawn accordingly.

    devices = draw_devices(key, num_users, bandwidth=1e6, spread=1.0)
    seconds = client_seconds(devices, history_lengths, bytes_up=..., bytes_down=...)
    federation = federated_cf(..., cohort_size=100, sampling=first_to_arrive(seconds, over_selection=1.3))
    state, info = run_rounds(...)
    round_seconds(seconds, info.client_ids)
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from fcf_jax.core.records import Cohort, Key, Scalar
from fcf_jax.core.sampling import Drawing, Sampling, draw_cohort


class Devices(NamedTuple):
    """Devices of all users, by user id.

    Attributes:
        speeds: speed of computing, above 0; 1 for a reference device.
        bandwidths: bytes per second, down and up, above 0.
    """

    speeds: Float[np.ndarray, "users"]
    bandwidths: Float[np.ndarray, "users"]


def draw_devices(key: Key, num_users: int, *, bandwidth: float, spread: float) -> Devices:
    """Draw devices from log-normal distributions, whose tails are heavy.

    Speed and bandwidth of a device are independent. They depend on the key and the user's id alone.

    Args:
        key: key of the draw.
        num_users: N.
        bandwidth: median bandwidth, in bytes per second, above 0; the median speed is 1.
        spread: standard deviation of the logarithms, at least 0. With 1, one device in 40 has less than 1/7
            of the median; 0: all are equal.

    Raises:
        ValueError: for a bandwidth that is not above 0, or a spread below 0.
    """
    if not bandwidth > 0:
        raise ValueError(f"expected a bandwidth above 0 bytes per second, got {bandwidth}")
    if not 0 <= spread < math.inf:
        raise ValueError(f"expected a spread of at least 0 and finite, got {spread}")
    draw = jax.vmap(lambda user: jax.random.normal(jax.random.fold_in(key, user), (2,), jnp.float32))
    logs = spread * np.asarray(draw(jnp.arange(num_users)), np.float64)
    return Devices(speeds=np.exp(logs[:, 0]), bandwidths=bandwidth * np.exp(logs[:, 1]))


def devices_of_classes(
    key: Key,
    num_users: int,
    *,
    shares: Sequence[float],
    speeds: Sequence[float],
    bandwidths: Sequence[float],
) -> Devices:
    """Draw the class of each user's device from a table of classes.

    Args:
        key: key of the draw, which depends on it and the user's id alone.
        num_users: N.
        shares: share of the users with each class, in any unit.
        speeds: speed of each class, above 0.
        bandwidths: bandwidth of each class, in bytes per second, above 0.

    Raises:
        ValueError: for tables of different lengths, or numbers that are not positive.
    """
    table = {"shares": shares, "speeds": speeds, "bandwidths": bandwidths}
    numbers = {name: np.asarray(column, np.float64) for name, column in table.items()}
    if len({column.size for column in numbers.values()}) != 1 or not len(shares):
        sizes = {name: column.size for name, column in numbers.items()}
        raise ValueError(f"expected the same number of shares, speeds and bandwidths, got {sizes}")
    for name, column in numbers.items():
        if not np.all(column > 0):
            raise ValueError(f"expected {name} above 0, got {column.tolist()}")
    ends = np.cumsum(numbers["shares"]) / np.sum(numbers["shares"])
    draw = jax.vmap(lambda user: jax.random.uniform(jax.random.fold_in(key, user), dtype=jnp.float32))
    drawn = np.asarray(draw(jnp.arange(num_users)), np.float64)
    of_user = np.minimum(np.searchsorted(ends, drawn, side="right"), ends.size - 1)
    return Devices(numbers["speeds"][of_user], numbers["bandwidths"][of_user])


def client_seconds(
    devices: Devices,
    history_lengths: Int[np.ndarray, "users"],
    *,
    bytes_up: float | Float[np.ndarray, "users"],
    bytes_down: float | Float[np.ndarray, "users"],
    base_seconds: float = 1.0,
    seconds_per_interaction: float = 0.01,
) -> Float[np.ndarray, "users"]:
    """Compute the time from the start of a round until each user's upload has arrived.

    Args:
        devices: of all users.
        history_lengths: number of interactions of each user.
        bytes_up: bytes that a client sends in a round, one number or one for each user.
        bytes_down: bytes that a client receives, likewise.
        base_seconds: time of computing without a history, on a reference device.
        seconds_per_interaction: further time for each interaction.
    """
    work = base_seconds + seconds_per_interaction * np.asarray(history_lengths, np.float64)
    moved = np.asarray(bytes_up, np.float64) + np.asarray(bytes_down, np.float64)
    return work / devices.speeds + moved / devices.bandwidths


def first_to_arrive(
    seconds: Float[np.ndarray | Array, "users"],
    *,
    over_selection: float = 1.0,
    deadline: Scalar | None = None,
    sampling: Sampling = "shuffled",
) -> Drawing:
    """Build a sampling for `federated_cf` that takes the first of the drawn clients to arrive.

    A round draws more clients than a cohort has, and keeps those that arrive first; what arrives after the
    deadline is left out. Times are known beforehand, so that no client is computed to no end. Users with slow
    devices take part less often, or never: the item factors then fit the others.

    Args:
        seconds: time of each user, such as `client_seconds`.
        over_selection: clients drawn for each place of the cohort, at least 1. 1.3 draws 130 for a
            cohort of 100.
        deadline: seconds after which uploads are late; None: none is.
        sampling: how clients are drawn, "shuffled" or "independent".

    Raises:
        ValueError: for an over-selection below 1, or another sampling.

    References:
        Bonawitz et al., MLSys 2019, "Towards Federated Learning at Scale": over-selection by 30 %.
    """
    if not 1 <= over_selection < math.inf:
        raise ValueError(f"expected an over_selection of at least 1 and finite, got {over_selection}")
    if sampling not in ("shuffled", "independent"):
        raise ValueError(
            f'expected sampling "shuffled" or "independent" for the first to arrive, got {sampling!r}'
        )
    times = jnp.asarray(seconds, jnp.float32)
    limit = jnp.asarray(math.inf if deadline is None else deadline, jnp.float32)
    return Drawing(Partial(_selection(float(over_selection), sampling), times, limit))


@functools.cache
def _selection(over_selection: float, sampling: Sampling) -> Callable:
    """Return the same function for the same selection: a sampling that is built again does not recompile."""

    def draw(
        seconds: Array, deadline: Array, key: Key, round_index: Array, *, num_users: int, cohort_size: int
    ) -> Cohort:
        num_drawn = math.ceil(round(over_selection * cohort_size, 6))
        if num_drawn > num_users:
            raise ValueError(
                f"expected at most {num_users} users to draw, got {num_drawn} for a cohort of {cohort_size}; "
                f"lower over_selection (now {over_selection:g}) or cohort_size"
            )
        cohort = draw_cohort(key, round_index, num_users=num_users, cohort_size=num_drawn, sampling=sampling)
        arrivals = seconds[cohort.client_ids]
        first = jnp.argsort(arrivals)[:cohort_size] if num_drawn > cohort_size else jnp.arange(cohort_size)
        is_late = arrivals[first] > deadline
        return Cohort(jnp.where(is_late, num_users, cohort.client_ids[first]))

    return draw


def round_seconds(
    seconds: Float[np.ndarray, "users"],
    client_ids: Int[np.ndarray | Array, "rounds clients"],
    *,
    deadline: float | None = None,
) -> Float[np.ndarray, "rounds"]:
    """Compute how long rounds last: until the last upload, or until the deadline if clients are late.

    Args:
        seconds: time of each user.
        client_ids: clients of each round, such as `RoundInfo.client_ids`; an empty place stands for a
            client that was late.
        deadline: seconds after which uploads are late; None: a round waits for all of its clients.
    """
    ids = np.asarray(client_ids)
    arrivals = np.append(np.asarray(seconds, np.float64), -math.inf)[np.minimum(ids, len(seconds))]
    last = np.maximum(arrivals.max(axis=-1, initial=0.0), 0.0)
    if deadline is None:
        return last
    is_any_late = (ids >= len(seconds)).any(axis=-1)
    return np.where(is_any_late, deadline, np.minimum(last, deadline))
