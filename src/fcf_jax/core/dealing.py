"""Clients dealt to chunks, so that all chunks hold about the same number of rows and clients."""

from bisect import bisect_left

import numpy as np


def deal(row_counts: np.ndarray, chunk_rows: int, chunk_clients: int, num_shares: int) -> np.ndarray:
    """Deal clients to chunks, longest history first, each to the emptiest chunk that has a place left."""
    num_users = row_counts.size
    chunk_rows = max(chunk_rows, int(row_counts.max(initial=1)))
    num_chunks = max(-(-int(row_counts.sum()) // chunk_rows), -(-num_users // chunk_clients), 1)
    num_chunks = -(-num_chunks // num_shares) * num_shares
    filled, held = np.zeros(num_chunks, np.int64), np.zeros(num_chunks, np.int64)
    order = np.argsort(-row_counts, kind="stable")
    chunk_of, place = np.empty(num_users, np.int64), np.empty(num_users, np.int64)
    lengths, starts = np.unique(-row_counts[order], return_index=True)
    for length, same in zip(-lengths, np.split(order, starts)[1:], strict=True):
        taken = _pour(filled, held, length=int(length), places=chunk_clients - held, num_clients=same.size)
        chunk_of[same] = np.repeat(np.arange(num_chunks), taken)
        place[same] = np.arange(same.size) - np.repeat(np.cumsum(taken) - taken, taken) + held[chunk_of[same]]
        filled, held = filled + length * taken, held + taken
    chunks = np.full((num_chunks, max(int(held.max()), 1)), num_users)
    chunks[chunk_of, place] = np.arange(num_users)
    return chunks


def _pour(
    filled: np.ndarray, held: np.ndarray, *, length: int, places: np.ndarray, num_clients: int
) -> np.ndarray:
    """Return how many of these clients of equal length each chunk takes, so that their levels become even."""
    levels = held if length == 0 else filled

    def up_to(level: int) -> np.ndarray:
        return np.clip((level - levels) // max(length, 1), 0, places)

    low, high = int(levels.min()), int(levels.max()) + max(length, 1) * num_clients
    level = bisect_left(range(low, high), num_clients, key=lambda level: int(up_to(level).sum())) + low
    taken = up_to(level - 1)
    rising = np.flatnonzero(up_to(level) > taken)
    taken[rising[: num_clients - int(taken.sum())]] += 1
    return taken
