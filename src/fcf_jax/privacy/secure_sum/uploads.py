"""What each client of a round sends, written in words: first small, then dense, one client at a time.

A dense upload is rank one, so a cohort's fit into [clients, items] until each becomes words.
"""

import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from fcf_jax.core.cohort_sum import solve_chunks
from fcf_jax.core.records import Clip, CohortSum, Key, PackedClients, Scalar, SentNorms, Solved, Weighting
from fcf_jax.privacy.secure_sum.fixed_point import encode
from fcf_jax.privacy.secure_sum.pieces import piece_shapes, read_pieces


class ClientUploads(NamedTuple):
    """What clients send, before it is dense: each with a leading axis of clients."""

    client_ids: Int[Array, "*clients"]
    residuals: Float[Array, "*clients items"]  # e
    user_factors: Float[Array, "*clients factors"]  # x
    clipped_factors: Float[Array, "*clients factors"]  # a x
    confidence: Float[Array, "*clients items"]  # a (c - w0)
    loss: Float[Array, "*clients"]  # a times their share of J
    is_clipped: Bool[Array, "*clients"]  # a < 1


def client_uploads(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    is_sparse: bool = False,
) -> tuple[ClientUploads, Float[Array, ""]]:
    """Let all packed clients solve; arguments as for `cohort_sum`.

    Args:
        is_sparse: whether residuals are left at 0 off a history (`uploads_of_chunk`).

    Returns:
        What each sends, in the order of `clients.client_ids`, nobody included; and the worst solve error.
    """
    weights: dict[str, Any] = {"regularization": regularization, "unobserved_weight": unobserved_weight}

    def send(_: None, solved: Solved) -> tuple[None, ClientUploads]:
        return None, uploads_of_chunk(
            item_factors, solved, unobserved_weight=unobserved_weight, is_sparse=is_sparse
        )

    _, uploads, worst = solve_chunks(item_factors, clients, weighting, send, None, clip=clip, **weights)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), uploads), worst


def uploads_of_chunk(
    item_factors: Float[Array, "items factors"],
    solved: Solved,
    *,
    unobserved_weight: Scalar = 1.0,
    is_sparse: bool = False,
) -> ClientUploads:
    """Write residuals and confidences of all items out, [clients, items].

    Args:
        is_sparse: of the residuals only what the own items have beyond -w0 s; the server knows the rest
            of the sum from that of x x^T.
    """
    factors, places = solved.user_factors, (solved.owners[:, None], solved.item_ids)
    nothing = jnp.zeros((factors.shape[0], item_factors.shape[0]), item_factors.dtype)
    unseen = -unobserved_weight * jnp.matmul(factors, item_factors.T, precision="highest")
    return ClientUploads(
        client_ids=solved.client_ids,
        residuals=(nothing if is_sparse else unseen).at[places].add(solved.seen, mode="drop"),
        user_factors=factors,
        clipped_factors=solved.clipped_factors,
        confidence=nothing.at[places].add(solved.extra, mode="drop"),
        loss=solved.loss,
        is_clipped=solved.is_clipped,
    )


def upload_words(
    upload: ClientUploads, formats: SentNorms, noise_stds: SentNorms | None = None, key: Key | None = None
) -> tuple[UInt32[Array, "words"], Int[Array, ""]]:
    """Write everything that one client sends as one vector of words.

    Its share of the noise is added before rounding. A sum of such rounded Gaussians is not exactly
    a rounded Gaussian; with a standard deviation of many units 2^-f the difference is far below
    what floating point does to a Gaussian anyway, but no proof for discrete noise is claimed.

    Args:
        noise_stds: of this client's share, in each piece; None: no noise.
        key: one for the round; each client derives its own.

    Returns:
        The words, and how many entries were clipped to the bounds of the formats.
    """
    factors = upload.clipped_factors
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


def read_sum(
    words: UInt32[Array, "words"],
    formats: SentNorms,
    *,
    item_factors: Float[Array, "items factors"],
    num_clients: int,
) -> CohortSum:
    """Read a sum of words as the sums that a server step takes; nan for what was not sent.

    How many clients were clipped is nan too: no client tells.
    """
    parts, start = {}, 0
    for name, shape in piece_shapes(*item_factors.shape).items():
        if getattr(formats, name) is not None:
            size = math.prod(shape)
            parts[name] = words[start : start + size].reshape(shape)
            start += size
    pieces = read_pieces(parts, formats, item_factors=item_factors)
    return CohortSum(**pieces, num_clients=jnp.asarray(num_clients), num_clipped=jnp.asarray(jnp.nan))
