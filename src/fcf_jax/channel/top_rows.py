"""Top rows: each client sends only those of its rows that are longest."""

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import ROW_SUMS, Sent, SentRows, sent_rows
from fcf_jax.core.equations import history_lengths, owned_by
from fcf_jax.core.records import Key, Link, Payload, Scalar


def top_rows(share: Scalar) -> Link:
    """Build a link that keeps the largest rows of each client by norm, and drops the others.

    Of n own items, ceil(share n) rows are sent. The sums are biased: for the server, an item whose row is
    dropped counts as unobserved by this client. x x^T and all confidences are sent as before.

    Args:
        share: share of the own rows that are sent, in (0, 1]; may be traced.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    check_share(share)
    return link(client=Partial(_keep_top, share), payload=Partial(_payload, share), accumulation=ROW_SUMS)


def check_share(share: Scalar) -> None:
    """Check that a share is in (0, 1], unless it is traced.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(share, int | float) and not 0 < share <= 1:
        raise ValueError(f"expected a share above 0 and at most 1, got {share}")


def _keep_top(share: Scalar, key: Key | None, state: tuple, sent: Sent) -> SentRows:
    sent = sent_rows(sent)
    uploads = sent.uploads
    row_sums = owned_by(uploads.owners, num_clients=uploads.client_ids.shape[0])
    num_kept = jnp.ceil(share * history_lengths(uploads.observations, row_sums))
    rank = ranks_within(uploads.owners, jnp.sum(sent.upload_rows**2, axis=-1), uploads.observations.mask)
    is_kept = rank < row_sums.spread(num_kept)[:, None]
    return sent._replace(upload_rows=jnp.where(is_kept[:, :, None], sent.upload_rows, 0.0))


def ranks_within(
    owners: Int[Array, "rows"], values: Float[Array, "rows slots"], mask: Bool[Array, "rows slots"]
) -> Int[Array, "rows slots"]:
    """Return the place of each value among those of its client, 0 for the largest; empty slots come last."""
    owner = jnp.broadcast_to(owners[:, None], values.shape).ravel()
    falling = jnp.where(mask, -values, jnp.inf).ravel()
    order = jnp.lexsort((falling, owner))
    sorted_owner = owner[order]
    begin = jnp.searchsorted(sorted_owner, sorted_owner, side="left").astype(jnp.int32)
    place = jnp.arange(owner.shape[0], dtype=jnp.int32) - begin
    return jnp.zeros(owner.shape, jnp.int32).at[order].set(place).reshape(values.shape)


def _payload(share: Scalar, payload: Payload) -> Payload:
    upload = payload.up.upload
    kept = upload._replace(num_rows=jax.tree.map(lambda rows: jnp.ceil(share * rows), upload.num_rows))
    return payload._replace(up=payload.up._replace(upload=kept))
