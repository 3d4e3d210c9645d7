"""Rating offsets, the baseline of explicit feedback."""

import numpy as np

from fcf_jax.data import Interactions

_OFFSET_REGULARIZATION = 5.0  # ratings' worth of doubt about an offset


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
