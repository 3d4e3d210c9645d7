"""The yardsticks: centralised ALS run to convergence, and rating offsets for explicit feedback."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

from fcf_jax.als import Als, run_sweeps
from fcf_jax.core.records import Key, PackedClients
from fcf_jax.data import Interactions

MIN_SWEEPS = 40
MAX_SWEEPS = 1000
TOLERANCE = 1e-5  # the relative fall of the loss in one sweep at which ALS has converged
_BLOCK_SWEEPS = 10
_OFFSET_REGULARIZATION = 5.0  # ratings' worth of doubt about an offset


class Baseline(NamedTuple):
    """Centralised ALS at its end."""

    item_factors: Float[Array, "items factors"]
    losses: list[float]  # before each sweep


def converge_als(
    als: Als,
    key: Key,
    clients: PackedClients,
    items: PackedClients,
    *,
    on_block: Callable[[int, float], None] = lambda num_sweeps, loss: None,
) -> Baseline:
    """Sweep until the loss falls by less than 1e-5 of itself in a sweep, at least 40 times."""
    item_factors = jax.device_put(als.init(key), clients.row_counts.sharding)  # where sweeps leave them
    losses: list[float] = []
    while len(losses) < MIN_SWEEPS or not has_converged(*losses[-2:]):
        factors, info = run_sweeps(als, item_factors, clients, items, num_sweeps=_BLOCK_SWEEPS)
        item_factors = factors.item_factors
        losses += np.asarray(info.loss, np.float64).tolist()
        on_block(len(losses), losses[-1])
        if len(losses) >= MAX_SWEEPS or not np.isfinite(losses[-1]):
            break
    return Baseline(item_factors, losses)


def has_converged(before: npt.ArrayLike, after: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Say of losses before and after a sweep whether they fell by less than the tolerance."""
    return np.subtract(before, after) < TOLERANCE * np.abs(before)


def offsets_rmse(train: Interactions, test: Interactions, *, num_sweeps: int = 20) -> float:
    """Predict ratings by mean + user offset + item offset, and compute the RMSE over all test ratings.

    The offsets are regularised means of what the others leave, found by turns.

    References:
        Koren, Bell & Volinsky, Computer 2009, "Adding biases".
    """
    users, items = train.user_ids, train.item_ids
    mean = train.strengths.mean(dtype=np.float64)
    ratings = train.strengths - mean
    user_offsets, item_offsets = np.zeros(train.num_users), np.zeros(train.num_items)
    for _ in range(num_sweeps):
        left = np.bincount(items, ratings - user_offsets[users], train.num_items)
        item_offsets = left / (_OFFSET_REGULARIZATION + train.item_counts)
        left = np.bincount(users, ratings - item_offsets[items], train.num_users)
        user_offsets = left / (_OFFSET_REGULARIZATION + train.history_lengths)
    if test.num_interactions == 0:
        return float("nan")
    errors = test.strengths - mean - user_offsets[test.user_ids] - item_offsets[test.item_ids]
    return float(np.sqrt(np.mean(errors**2)))
