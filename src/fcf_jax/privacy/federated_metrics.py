r"""Federated evaluation: metrics that clients compute on their own data, and send as one clipped vector.

A client with test items sends v = (1, m_1, ..., m_d), its metrics m in [0, 1]; one without sends 0. So |v| is
at most \sqrt(d + 1), which is the clip norm, and the means are the sums of the metrics over the count:

    mean of m_j = (\sum_u v_uj + Z_j) / (\sum_u v_u0 + Z_0),   Z: noise of sigma \sqrt(d + 1) on each number

All d + 1 sums together are one release of the Gaussian mechanism with noise multiplier sigma. What is made of
them is free.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Bool, Float

from fcf_jax.channel.fixed_point import FixedPoint, choose_formats, decode, encode
from fcf_jax.core.records import Key, Pieces
from fcf_jax.privacy.releases import released


class FederatedMeans(NamedTuple):
    """What the server learns of the metrics.

    Attributes:
        means: over the clients that took part, by name; not limited to [0, 1] under noise.
        num_clients: count of these clients, noised as the sums are.
        noise_std: standard deviation of the noise on each sum; 0 without noise.
    """

    means: dict[str, float]
    num_clients: float
    noise_std: float


def federated_means(
    metrics: Mapping[str, Float[np.ndarray, "users"]],
    *,
    takes_part: Bool[np.ndarray, "users"] | None = None,
    key: Key | None = None,
    noise_multiplier: float | None = None,
    is_in_fixed_point: bool = False,
    min_clients: int = 1,
) -> FederatedMeans:
    """Sum what the clients send, and divide.

    Args:
        metrics: of each client, by name; clipped to [0, 1], and 0 for nan.
        takes_part: clients that send; the others drop out. None: all send.
        key: key of the noise.
        noise_multiplier: sigma, above 0; None: no noise.
        is_in_fixed_point: whether each number is rounded to the fixed point of secure sums first.
        min_clients: fewest clients in a sum; with fewer, every mean is nan.

    Raises:
        ValueError: for noise without a key, or a noise multiplier that is not above 0.
    """
    sent = clipped_vectors(metrics, takes_part)
    if noise_multiplier is not None and key is None:
        raise ValueError("expected a key for the noise, got None; draw one that nobody else uses")
    if len(sent) < min_clients:
        return FederatedMeans(dict.fromkeys(metrics, math.nan), 0.0, 0.0)
    sums, noise_std = _summed(sent, is_in_fixed_point), 0.0
    if noise_multiplier is not None:
        clip_norm = math.sqrt(sums.size)
        assert key is not None
        sums = released(key, sums, clip_norm=clip_norm, noise_multiplier=noise_multiplier)
        noise_std = noise_multiplier * clip_norm
    count = float(sums[0])
    means = dict(zip(metrics, (sums[1:] / max(count, 1.0)).tolist(), strict=True))
    return FederatedMeans(means, count, noise_std)


def clipped_vectors(
    metrics: Mapping[str, Float[np.ndarray, "users"]], takes_part: Bool[np.ndarray, "users"] | None = None
) -> Float[np.ndarray, "clients numbers"]:
    """Return what each client sends: 1 and its metrics, all in [0, 1]."""
    values = np.stack([np.asarray(column, np.float64) for column in metrics.values()], axis=1)
    sent = np.pad(np.clip(np.nan_to_num(values), 0.0, 1.0), ((0, 0), (1, 0)), constant_values=1.0)
    return sent if takes_part is None else sent[takes_part]


def _summed(
    sent: Float[np.ndarray, "clients numbers"], is_in_fixed_point: bool
) -> Float[np.ndarray, "numbers"]:
    if not is_in_fixed_point:
        return sent.sum(axis=0)
    number = _format_of(len(sent))
    words, _ = encode(jnp.asarray(sent, jnp.float32), number)
    total = jnp.sum(words, axis=0, dtype=jnp.uint32)
    return np.asarray(decode(total, number, jnp.float32), np.float64)


def _format_of(num_clients: int) -> FixedPoint:
    """Return the finest format in which so many numbers in [0, 1] can be summed."""
    formats = choose_formats(Pieces(1.0, None, None, None), max_clients=max(num_clients, 1))
    assert formats.upload is not None
    return formats.upload


def present_clients(
    key: Key, dropout: float | Float[np.ndarray, "*users"], *, num_users: int
) -> Bool[np.ndarray, "users"]:
    """Draw the clients that come back, each by its own key.

    Args:
        key: key of the evaluation.
        dropout: chance that a client drops out: one number, or one for each user.
        num_users: N.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_users))
    return np.asarray(jax.vmap(jax.random.uniform)(keys)) >= np.asarray(dropout)
