r"""Shared random projection: rows of K numbers are sent in r directions that all derive from the round's key.

    sent: P^T r_ui,   read: P P^T r_ui,   P = \sqrt{K / r} Q

with Q [K, r] uniform among the matrices of orthonormal columns, so that E[P P^T] = I. The projection is
linear: the server may add up projected rows, in floating point or in words under masks, and multiply once.
A row becomes up to K / r times as long, so that clipping must come after it in the chain. x x^T, which is
small, is sent whole: the gradients of unobserved items are exact.
"""

import functools
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import ROW_SUMS, Sent, SentRows, sent_rows
from fcf_jax.core.linalg import einsum, inverse_cholesky, matmul
from fcf_jax.core.records import Key, Link, Payload


def random_projection(num_directions: int) -> Link:
    """Build a link that sends the rows of own items in fewer directions, drawn anew in each round.

    Args:
        num_directions: r, from 1 to the width of the rows; at that width, rows are read as they were.

    Raises:
        ValueError: for fewer directions than 1, or when traced, for more than a row has numbers.
    """
    if num_directions < 1:
        raise ValueError(f"expected num_directions of at least 1, got {num_directions}")
    client, payload = _ends(num_directions)
    return link(client=client, payload=payload, accumulation=ROW_SUMS)


@functools.cache
def _ends(num_directions: int) -> tuple:
    """Return the same functions for the same number, which is a size and cannot be traced."""
    return functools.partial(_project, num_directions), functools.partial(_payload, num_directions)


def draw_projection(key: Key, width: int, num_directions: int) -> Float[Array, "width directions"]:
    """Draw P.

    Args:
        key: of the round.
        width: K.
        num_directions: r.
    """

    def orthonormalized(_: Any, columns: Array) -> Array:
        return matmul(columns, inverse_cholesky(matmul(columns.T, columns))[0].T)

    drawn = jax.random.normal(key, (width, num_directions))
    # the second pass removes the rounding error of the first
    drawn = jax.lax.fori_loop(0, 2, orthonormalized, drawn)
    return jnp.sqrt(width / num_directions) * drawn


def _project(num_directions: int, key: Key | None, state: tuple, sent: Sent) -> SentRows:
    sent = sent_rows(sent)
    width = sent.upload_rows.shape[-1]
    if key is None:
        raise ValueError("expected the key of the round, from which all derive the projection, got None")
    if num_directions > width:
        raise ValueError(f"expected at most {width} directions, as rows have numbers, got {num_directions}")
    directions = draw_projection(key, width, num_directions).astype(sent.upload_rows.dtype)
    basis = directions if sent.basis is None else matmul(sent.basis, directions)
    return sent._replace(upload_rows=einsum("rsk,kd->rsd", sent.upload_rows, directions), basis=basis)


def _payload(num_directions: int, payload: Payload) -> Payload:
    upload = payload.up.upload._replace(row_width=num_directions)
    return payload._replace(up=payload.up._replace(upload=upload))
