"""What each client of a round sends, written in words: first small, then dense, one client at a time.

A dense upload is rank one, so a cohort's fit into [clients, items] until each becomes words.
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from fcf_jax.core.client import describe, sent_norms
from fcf_jax.core.objective import gram, sparse_residuals
from fcf_jax.core.solve import owned_by, solve_rows, unseen_part
from fcf_jax.core.types import ClientData, Clip, CohortSum, Key, PackedClients, Scalar, SentNorms, Weighting
from fcf_jax.privacy.secure_sum.fixed_point import decode, encode


class ClientUploads(NamedTuple):
    """What clients send, before it is dense: each with a leading axis of clients."""

    client_ids: Int[Array, "*clients"]
    residuals: Float[Array, "*clients items"]  # e
    user_factors: Float[Array, "*clients factors"]  # x
    confidence: Float[Array, "*clients items"]  # c - w0
    loss: Float[Array, "*clients"]
    clip_factors: Float[Array, "*clients"]  # a, on all of it


def client_uploads(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
) -> tuple[ClientUploads, Float[Array, ""]]:
    """Let all packed clients solve; arguments as for `cohort_sum`.

    Returns:
        What each sends, in the order of `clients.client_ids`, nobody included; and the worst solve error.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    item_gram = gram(item_factors)
    unseen = unseen_part(item_gram, **weights)

    def of_chunk(chunk: tuple[ClientData, Array, Array]) -> tuple[ClientUploads, Array]:
        rows, owners, client_ids = chunk
        num_clients = client_ids.shape[0]
        observations, row_sums = weighting(rows), owned_by(owners, num_clients=num_clients)
        solution = solve_rows(
            item_factors, unseen, observations, row_sums, unobserved_weight=unobserved_weight
        )
        info = describe(solution, item_gram, observations, row_sums, **weights)
        beyond = sparse_residuals(solution.scores, observations, unobserved_weight=unobserved_weight)
        extra = jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0)
        factors = solution.user_factors
        unseen_residuals = -unobserved_weight * jnp.matmul(factors, item_factors.T, precision="highest")
        places = (owners[:, None], observations.item_ids)
        clip_factors = jnp.ones(num_clients, item_factors.dtype)
        if clip is not None:
            of_upload = {"unobserved_weight": unobserved_weight}
            clip_factors = clip(
                sent_norms(solution, item_gram, observations, row_sums, info.loss, **of_upload)
            )
        uploads = ClientUploads(
            client_ids=client_ids,
            residuals=unseen_residuals.at[places].add(beyond, mode="drop"),
            user_factors=factors,
            confidence=jnp.zeros_like(unseen_residuals).at[places].add(extra, mode="drop"),
            loss=info.loss,
            clip_factors=clip_factors,
        )
        return uploads, jnp.max(info.solve_error)

    uploads, errors = jax.lax.map(of_chunk, (clients.rows, clients.owners, clients.client_ids))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), uploads), jnp.max(errors)


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
    factor, x = upload.clip_factors, upload.user_factors
    pieces = {
        "upload": factor * upload.residuals[:, None] * x[None, :],
        "user_gram": factor * x[:, None] * x[None, :],
        "confidence_sum": factor * upload.confidence,
        "loss": factor * upload.loss,
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
    num_items, num_factors = item_factors.shape
    shapes = {
        "upload": (num_items, num_factors),
        "user_gram": (num_factors, num_factors),
        "confidence_sum": (num_items,),
        "loss": (),
    }
    pieces, start = {}, 0
    for name, shape in shapes.items():
        number, size = getattr(formats, name), _size(shape)
        if number is None:
            pieces[name] = jnp.full(shape, jnp.nan, item_factors.dtype)
            continue
        pieces[name] = decode(words[start : start + size], number, item_factors.dtype).reshape(shape)
        start += size
    pieces["user_gram"] = 0.5 * (pieces["user_gram"] + pieces["user_gram"].T)  # as is what noise was added to
    return CohortSum(**pieces, num_clients=jnp.asarray(num_clients), num_clipped=jnp.asarray(jnp.nan))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
