"""What clients send, dense in float64 NumPy: every link of compression once more, one client at a time."""

from typing import Any, NamedTuple

import jax
import numpy as np
from references import REGULARIZATION, solve_user

from fcf_jax.channel.projection import draw_projection
from fcf_jax.channel.quantization import uniform_of


class Client(NamedTuple):
    """One client: its id, its own items, rows as sent [items, directions], S, P, and its weight."""

    user: int
    own: np.ndarray
    rows: np.ndarray
    gram: np.ndarray
    basis: np.ndarray | None = None
    weight: float = 1.0

    def upload(self, item_factors: Any) -> np.ndarray:
        """Return F_u, without the weight."""
        rows = self.rows if self.basis is None else self.rows @ self.basis.T
        return rows - item_factors @ (0.5 * (self.gram + self.gram.T))


def clients_of(small: Any, item_factors: np.ndarray) -> list[Client]:
    """Solve every client of the small set, and write its upload row by row."""
    result = []
    for user, (c, p) in enumerate(zip(small.c, small.p, strict=True)):
        x, own = solve_user(item_factors, c, p, regularization=REGULARIZATION), p > 0
        scores = item_factors @ x
        seen = np.where(own, c * (p - scores) + scores, 0.0)
        result.append(Client(user, own, np.outer(seen, x), np.outer(x, x)))
    return result


def rounded(rows: np.ndarray, bits: int, uniform: Any = None) -> np.ndarray:
    """Round each row to whole steps of its own."""
    levels = 2 ** (bits - 1) - 1
    scale = np.abs(rows).max(axis=-1, keepdims=True) / levels
    steps = rows / np.where(scale > 0, scale, 1.0)
    steps = np.round(steps) if uniform is None else np.floor(steps + np.asarray(uniform, np.float64))
    return np.clip(steps, -levels, levels) * scale


def quantized(client: Client, key: Any, bits: int) -> Client:
    return client._replace(rows=rounded(client.rows, bits), gram=rounded(client.gram, bits))


def quantized_at_random(client: Client, key: Any, bits: int) -> Client:
    """Draw by the user's id and the item's, one after the other."""
    of_rows, of_gram = jax.random.split(jax.random.fold_in(key, client.user))
    uniform = [
        uniform_of(jax.random.fold_in(of_rows, item), client.rows.shape[1:], np.float32)
        for item in range(len(client.rows))
    ]
    gram = rounded(client.gram, bits, uniform_of(of_gram, client.gram.shape, np.float32))
    return client._replace(rows=rounded(client.rows, bits, np.stack(uniform)), gram=gram)


def with_top_rows(client: Client, key: Any, share: float) -> Client:
    lengths = np.where(client.own, np.linalg.norm(client.rows, axis=1), -1.0)
    kept = np.argsort(-lengths, kind="stable")[: int(np.ceil(share * client.own.sum()))]
    is_kept = np.isin(np.arange(len(client.own)), kept)
    return client._replace(rows=np.where(is_kept[:, None], client.rows, 0.0))


def projected(client: Client, key: Any, num_directions: int) -> Client:
    directions = np.asarray(draw_projection(key, client.rows.shape[1], num_directions), np.float64)
    basis = directions if client.basis is None else client.basis @ directions
    return client._replace(rows=client.rows @ directions, basis=basis)


def clipped(client: Client, key: Any, clip_norms: Any, item_factors: np.ndarray) -> Client:
    """Clip to the joint norm of upload and user_gram."""
    gram = 0.5 * (client.gram + client.gram.T)
    norms = [np.linalg.norm(client.upload(item_factors)), np.linalg.norm(gram)]
    norm = np.hypot(*(client.weight * one / unit for one, unit in zip(norms, clip_norms[:2], strict=True)))
    return client._replace(weight=client.weight / max(norm, 1.0))


def total(clients: list[Client], item_factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the uploads and the matrices S."""
    upload = sum(one.weight * one.upload(item_factors) for one in clients)
    gram = sum(one.weight * 0.5 * (one.gram + one.gram.T) for one in clients)
    return np.asarray(upload), np.asarray(gram)
