"""Uploads of a secure sum, in factored form for a chunk of clients and as words for one client at a time.

A dense upload has rank one, so the uploads of a chunk fit into [clients, items] until each becomes words.
"""

import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from fcf_jax.channel.discrete_gaussian import discrete_gaussian
from fcf_jax.channel.fixed_point import Formats, Stds, encode, piece_shapes, read_pieces
from fcf_jax.core.accumulation import sent_confidence, sent_factors
from fcf_jax.core.cohort_sum import broadcast_of, solve_chunks
from fcf_jax.core.records import CohortSum, Key, Link, Model, PackedClients, Uploads


class ClientUploads(NamedTuple):
    """Uploads of clients in factored form, residuals times `sent_factors`.

    Attributes:
        client_ids: user id of each client.
        residuals: e of every item.
        user_factors: x.
        sent_factors: a x.
        confidence: a (c - w0) of every item.
        loss: a times the client's share of J.
        is_clipped: whether a link has clipped the client.
    """

    client_ids: Int[Array, "*clients"]
    residuals: Float[Array, "*clients items"]
    user_factors: Float[Array, "*clients factors"]
    sent_factors: Float[Array, "*clients factors"]
    confidence: Float[Array, "*clients items"]
    loss: Float[Array, "*clients"]
    is_clipped: Bool[Array, "*clients"]


def client_uploads(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    channel: Link | None = None,
    is_sparse: bool = False,
) -> tuple[ClientUploads, Float[Array, ""]]:
    """Solve all packed clients, and build their uploads.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y.
        clients: the cohort.
        channel: its client ends are applied, in their first state; None: no channel.
        is_sparse: leave -w0 s out of the residuals, which are then 0 outside a history.

    Returns:
        The uploads in the order of `clients.client_ids`, padding included, and the largest solve error.
    """

    def send(_: None, uploads: Uploads) -> tuple[None, ClientUploads]:
        sent = uploads if channel is None else channel.client(None, channel.init(), uploads)
        return None, _uploads_of_chunk(sent, is_sparse=is_sparse)

    _, sent, worst = solve_chunks(broadcast_of(model, item_factors, channel), clients, send, None)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sent), worst


def _uploads_of_chunk(uploads: Uploads, *, is_sparse: bool) -> ClientUploads:
    """Expand residuals and confidences to all items, [clients, items]."""
    item_factors, factors = uploads.broadcast.item_factors, uploads.user_factors
    places = uploads.owners[:, None], uploads.observations.item_ids
    zeros = jnp.zeros((factors.shape[0], item_factors.shape[0]), item_factors.dtype)
    w0 = uploads.broadcast.model.unobserved_weight
    unobserved = -w0 * jnp.matmul(factors, item_factors.T, precision="highest")
    return ClientUploads(
        client_ids=uploads.client_ids,
        residuals=(zeros if is_sparse else unobserved).at[places].add(uploads.seen, mode="drop"),
        user_factors=factors,
        sent_factors=sent_factors(uploads),
        confidence=zeros.at[places].add(sent_confidence(uploads), mode="drop"),
        loss=uploads.weights * uploads.loss,
        is_clipped=uploads.is_client & uploads.is_clipped,
    )


def upload_words(
    upload: ClientUploads, formats: Formats, noise_stds: Stds | None = None, key: Key | None = None
) -> tuple[UInt32[Array, "words"], Int[Array, ""]]:
    """Encode everything that one client sends as one vector of words.

    The client's share of the noise is discrete, and added after rounding. The sum of shares is a discrete
    Gaussian up to a factor within 1 +- 1e-16 of each probability for each share, since a share has a standard
    deviation of at least 2 units 2^-f (Kairouz, Liu & Steinke, ICML 2021). Rounding lengthens the vector of
    the d numbers that a client sends by at most 2^-f sqrt(d) / 2, which clip norms must leave room for.

    Args:
        upload: upload of one client.
        formats: format of each piece; None for a piece that is not sent.
        noise_stds: standard deviation of this client's noise, for each piece; None: no noise.
        key: key of the round's noise, from which each client derives its own; None: no noise.

    Returns:
        The words, and the number of entries clipped to the bounds of the formats.
    """
    factors = upload.sent_factors
    pieces = {
        "upload": upload.residuals[:, None] * factors[None, :],
        "user_gram": factors[:, None] * upload.user_factors[None, :],
        "confidence_sum": upload.confidence,
        "loss": upload.loss,
    }
    words, num_clipped = [], jnp.zeros((), jnp.int32)
    for index, (name, piece) in enumerate(pieces.items()):
        number = getattr(formats, name)
        if number is None:
            continue
        noise: Any = 0
        if noise_stds is not None and key is not None and getattr(noise_stds, name):
            piece_key = jax.random.fold_in(jax.random.fold_in(key, upload.client_ids), index)
            std = getattr(noise_stds, name) * 2.0**number.fraction_bits
            noise = discrete_gaussian(piece_key, piece.shape, std=std)
        of_piece, clipped = encode(piece, number, noise)
        words.append(of_piece.reshape(-1))
        num_clipped += clipped
    return jnp.concatenate(words), num_clipped


def count_words(formats: Formats, *, num_items: int, num_factors: int) -> int:
    """Count the words of all pieces that are sent."""
    shapes = piece_shapes(num_items, num_factors)
    return sum(math.prod(shape) for name, shape in shapes.items() if getattr(formats, name) is not None)


def read_sum(
    words: UInt32[Array, "words"],
    formats: Formats,
    *,
    item_factors: Float[Array, "items factors"],
    num_clients: int,
) -> CohortSum:
    """Decode a sum of words to the input of a server step.

    Pieces that were not sent are nan, and so is `num_clipped`, which no client reports.

    Args:
        words: sum of the clients' words.
        formats: format of each piece; None for a piece that was not sent.
        item_factors: Y, for shapes and dtype.
        num_clients: number of clients in the sum.
    """
    parts, start = {}, 0
    for name, shape in piece_shapes(*item_factors.shape).items():
        if getattr(formats, name) is not None:
            size = math.prod(shape)
            parts[name] = words[start : start + size].reshape(shape)
            start += size
    pieces: Any = read_pieces(parts, formats, item_factors=item_factors)
    return CohortSum(**pieces, num_clients=jnp.asarray(num_clients), num_clipped=jnp.asarray(jnp.nan))
