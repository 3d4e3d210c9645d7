"""What each client of a round sends, encoded in words: compact for a chunk, dense for one client at a time.

A dense upload is rank one, so a chunk's uploads fit into [clients, items] until each becomes words.
"""

import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from fcf_jax.channel.fixed_point import Formats, Stds, encode, piece_shapes, read_pieces
from fcf_jax.core.cohort_sum import broadcast_of, sent_confidence, sent_factors, solve_chunks
from fcf_jax.core.records import CohortSum, Key, Link, Model, PackedClients, Uploads


class ClientUploads(NamedTuple):
    """What clients send before it is dense; every leaf has a leading axis of clients.

    Attributes:
        client_ids: the user behind each client.
        residuals: e of every item.
        user_factors: x.
        sent_factors: a x.
        confidence: a (c - w0) of every item.
        loss: a times the client's share of J.
        is_clipped: a < 1.
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
    """Solve all packed clients and write out what each sends.

    Args:
        model: weighting, lambda and w0.
        item_factors: Y.
        clients: the cohort.
        channel: whose client ends are applied, in their first state.
        is_sparse: leave residuals at 0 off a history (`uploads_of_chunk`).

    Returns:
        What each sends, in the order of `clients.client_ids`, padding included; and the worst solve error.
    """

    def send(_: None, uploads: Uploads) -> tuple[None, ClientUploads]:
        sent = uploads if channel is None else channel.client(None, channel.init(), uploads)
        return None, uploads_of_chunk(sent, is_sparse=is_sparse)

    _, sent, worst = solve_chunks(broadcast_of(model, item_factors, channel), clients, send, None)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sent), worst


def uploads_of_chunk(uploads: Uploads, *, is_sparse: bool = False) -> ClientUploads:
    """Write residuals and confidences of all items out, [clients, items].

    Args:
        uploads: of one chunk.
        is_sparse: of the residuals, only what observed items have beyond -w0 s; the server computes the rest
            of the sum from that of x x^T.
    """
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
        is_clipped=uploads.is_client & (uploads.weights < 1),
    )


def upload_words(
    upload: ClientUploads, formats: Formats, noise_stds: Stds | None = None, key: Key | None = None
) -> tuple[UInt32[Array, "words"], Int[Array, ""]]:
    """Encode everything that one client sends as one vector of words.

    Its share of the noise is added before rounding. A sum of such rounded Gaussians is not exactly
    a rounded Gaussian; with a standard deviation of many units 2^-f the difference is far below
    what floating point does to a Gaussian anyway, but no proof for discrete noise is claimed.

    Args:
        upload: of one client.
        formats: of each piece; None for a piece that is not sent.
        noise_stds: of this client's share, in each piece; None: no noise.
        key: one for the round; each client derives its own.

    Returns:
        The words, and how many entries were clipped to the bounds of the formats.
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
        noise: Any = 0.0
        if noise_stds is not None and key is not None and getattr(noise_stds, name):
            own = jax.random.fold_in(jax.random.fold_in(key, upload.client_ids), index)
            noise = getattr(noise_stds, name) * jax.random.normal(own, piece.shape, piece.dtype)
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
    """Decode a sum of words as the sums that a server step takes; nan for what was not sent.

    How many clients were clipped is nan too: no client reports it.

    Args:
        words: the sum.
        formats: of each piece; None for a piece that was not sent.
        item_factors: Y, for shapes and dtype.
        num_clients: how many sent.
    """
    parts, start = {}, 0
    for name, shape in piece_shapes(*item_factors.shape).items():
        if getattr(formats, name) is not None:
            size = math.prod(shape)
            parts[name] = words[start : start + size].reshape(shape)
            start += size
    pieces = read_pieces(parts, formats, item_factors=item_factors)
    return CohortSum(**pieces, num_clients=jnp.asarray(num_clients), num_clipped=jnp.asarray(jnp.nan))
