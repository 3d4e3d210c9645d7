"""Histories and test items of the users that are evaluated, packed in chunks on the device."""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.histories import Histories
from fcf_jax.core.packing import choose_row_width, pack
from fcf_jax.core.records import PackedClients
from fcf_jax.data.interactions import Interactions

_CHUNK_SCORES = 2**20  # scores in memory at a time: 4 MiB, and a few times that for masks
_CHUNK_CLIENTS = 256


class EvaluationData(NamedTuple):
    """Packed histories of the users with test items, for repeated evaluation.

    Attributes:
        train: the histories that users are folded in from, whose items are never recommended.
        test: the test items, in the same chunks.
        user_ids: ids of the users, ascending, in the order of all results.
        num_items: M.
        masked: further items that are never recommended, in the same chunks; None: no item.
        negatives: sampled negatives of each user, padded with M; None without.
    """

    train: PackedClients
    test: PackedClients
    user_ids: Int[Array, "users"]
    num_items: int
    masked: PackedClients | None = None
    negatives: Int[Array, "chunks clients negatives"] | None = None


def evaluation_data(
    train: Histories,
    test: Interactions,
    *,
    masked: Interactions | None = None,
    negatives: Int[np.ndarray, "all_users negatives"] | None = None,
    features: Float[np.ndarray, "all_users features"] | None = None,
    max_users: int | None = None,
    seed: int = 0,
    chunk_scores: int = _CHUNK_SCORES,
) -> EvaluationData:
    """Pack the users with at least one test item.

    Args:
        train: histories from which users are folded in, and which are never recommended: those of training,
            or those of users that were held out whole; with sampled negatives if the objective asks for them.
        test: items to find, disjoint from `train`: an item in both counts as not found.
        masked: further items that are never recommended, such as a validation set; None: no item.
        negatives: sampled negatives of each user, each once, padded with -1: the test items are also ranked
            among them; None: only in the whole catalogue.
        features: f of each user, for models whose users have features; None: no features.
        max_users: size of the random sample of users to evaluate if there are more, at least 1; None: all.
        seed: seed of the sample, at least 0.
        chunk_scores: approximate number of scores computed at a time; a GPU wants more.

    Raises:
        ValueError: if shapes differ, if no user has a test item, or for `max_users` below 1.
    """
    for other in filter(None, (test, masked)):
        _check_pair(train, other)
    if max_users is not None and max_users < 1:
        raise ValueError(f"expected max_users >= 1, got {max_users}; None evaluates all users")
    user_ids = np.flatnonzero(test.history_lengths)
    if user_ids.size == 0:
        raise ValueError("expected a user with a test item, got none; raise the test fraction of the split")
    if max_users is not None and max_users < user_ids.size:
        user_ids = np.sort(np.random.default_rng(seed).choice(user_ids, max_users, replace=False))
    chunks = deal_users(user_ids, chunk_scores // max(train.num_items, 1), padding=train.num_users)

    def packed(part: Histories) -> PackedClients:
        return pack(part, chunks, row_width=choose_row_width(part))

    histories = packed(train)
    if features is not None:
        histories = histories._replace(features=jnp.asarray(features))
    return EvaluationData(
        train=histories,
        test=packed(test),
        user_ids=jax.device_put(user_ids.astype(np.int32)),
        num_items=train.num_items,
        masked=None if masked is None else packed(masked),
        negatives=None if negatives is None else _dealt_negatives(negatives, chunks, train.num_items),
    )


def _dealt_negatives(
    negatives: Int[np.ndarray, "all_users negatives"],
    chunks: Int[np.ndarray, "chunks clients"],
    num_items: int,
) -> Int[Array, "chunks clients negatives"]:
    padded = np.pad(negatives, ((0, 1), (0, 0)), constant_values=-1)  # a row for padding clients
    return jnp.asarray(np.where(padded < 0, num_items, padded)[chunks].astype(np.int32))


def _check_pair(train: Histories, test: Interactions) -> None:
    shapes = [(part.num_users, part.num_items) for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected histories and test items of the same (num_users, num_items), got {shapes[0]} and "
            f"{shapes[1]}; "
            "build both with num_users=... and num_items=..., or split one data set"
        )


def deal_users(
    user_ids: npt.NDArray[np.integer], max_clients: int, *, padding: int
) -> npt.NDArray[np.integer]:
    """Deal users to chunks in turn, [chunks, clients], since neighboring users are often similarly active.

    Read column by column, the users are in their original order, followed by padding clients.
    """
    num_clients = min(max(max_clients, 1), _CHUNK_CLIENTS, user_ids.size)
    num_chunks = -(-user_ids.size // num_clients)
    num_clients = -(-user_ids.size // num_chunks)
    places = np.full(num_chunks * num_clients, padding)
    places[: user_ids.size] = user_ids
    return np.ascontiguousarray(places.reshape(num_clients, num_chunks).T)
