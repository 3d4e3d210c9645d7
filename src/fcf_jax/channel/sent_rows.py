r"""Uploads row by row, for links that change what each client sends beyond the factored form.

    F_u = scatter_{i in I_u}( a_u r_ui ) - w0 Y a_u S_u

with a row r_ui of each own item and a matrix S_u of each client. At first r_ui = seen_ui x_u and S_u =
x_u x_u^T, the own-rows form of an upload. The server adds -w0 Y (sum of a_u S_u), whatever became of S_u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.accumulation import (
    accumulation_of,
    add_unobserved,
    num_clipped,
    sent_confidence,
    sent_factors,
)
from fcf_jax.core.equations import RowSums, owned_by
from fcf_jax.core.linalg import einsum, safe_sqrt
from fcf_jax.core.objective import extra_confidence
from fcf_jax.core.records import Accumulation, CohortSum, Model, Pieces, Uploads

# Norms are rounded up as in `core.client`: relative errors allowed for in any norm, in the difference of
# nearly equal squares, and in a row minus its unobserved part.
_ROUNDED_UP, _CANCELLATION, _ROUNDING = 1 + 1e-5, 4e-6, 1e-6


class SentRows(NamedTuple):
    """Uploads of one chunk of clients, row by row.

    Attributes:
        uploads: the uploads in factored form; their weights a_u apply to all rows and matrices.
        upload_rows: r_ui of the own items, without a_u, as they are sent; 0 in empty slots.
        user_gram: S_u of each client, without a_u; not symmetric where a link rounds it.
        basis: P, if rows are sent in fewer directions: the server reads P r. None: in all.
        memory_change: change of what each client remembers for the next round; None: it remembers nothing.
    """

    uploads: Uploads
    upload_rows: Float[Array, "rows slots directions"]
    user_gram: Float[Array, "clients factors factors"]
    basis: Float[Array, "factors directions"] | None = None
    memory_change: Float[Array, "clients factors"] | None = None


Sent = Uploads | SentRows  # what client ends take and return


def sent_rows(sent: Sent) -> SentRows:
    """Write uploads row by row; those that are so already stay as they are.

    Raises:
        ValueError: for pairs, whose items have two rows each.
    """
    if isinstance(sent, SentRows):
        return sent
    _refuse_pairs(sent)
    factors = sent.user_factors
    of_rows = factors.at[sent.owners].get(mode="clip")
    return SentRows(
        uploads=sent,
        upload_rows=sent.seen[:, :, None] * of_rows[:, None, :],
        user_gram=factors[:, :, None] * factors[:, None, :],
    )


def _refuse_pairs(uploads: Uploads) -> None:
    if uploads.observations.negative_ids is not None:
        raise ValueError(
            "expected interactions that stand alone, got pairs; sum them in floating point, uncompressed"
        )


def uploads_of(sent: Sent) -> Uploads:
    """Return the uploads in factored form: weights, histories, and who is a client."""
    return sent.uploads if isinstance(sent, SentRows) else sent


def with_uploads(sent: Sent, uploads: Uploads) -> Sent:
    """Replace the uploads, such as by some with other weights."""
    return sent._replace(uploads=uploads) if isinstance(sent, SentRows) else uploads


def read_rows(sent: SentRows) -> Float[Array, "rows slots factors"]:
    """Return the rows as the server reads them, without a_u."""
    return sent.upload_rows if sent.basis is None else einsum("rsd,kd->rsk", sent.upload_rows, sent.basis)


def pieces_of(sent: Sent) -> Pieces[Array]:
    """Return every number that each client sends, times its a_u.

    The upload is its sparse part alone, [rows, slots, factors]; the user_gram is that of each client, the
    confidence_sum [rows, slots], the loss [clients].

    Raises:
        ValueError: for pairs.
    """
    uploads = uploads_of(sent)
    _refuse_pairs(uploads)
    if isinstance(sent, SentRows):
        of_rows = uploads.weights.at[uploads.owners].get(mode="clip")
        upload = of_rows[:, None, None] * read_rows(sent)
        user_gram = uploads.weights[:, None, None] * sent.user_gram
    else:
        factors = sent_factors(uploads)
        of_rows = factors.at[uploads.owners].get(mode="clip")
        upload = uploads.seen[:, :, None] * of_rows[:, None, :]
        user_gram = factors[:, :, None] * uploads.user_factors[:, None, :]
    return Pieces(
        upload=upload,
        user_gram=user_gram,
        confidence_sum=sent_confidence(uploads),
        loss=uploads.weights * uploads.loss,
    )


def norms_of_rows(sent: SentRows) -> Pieces[Float[Array, "clients"]]:
    r"""Compute the Frobenius norm of each piece that each client sends, without a_u and without building F_u.

        |W F_u|^2 = w0^2 tr(S G S) + \sum_{i in I_u} w_i^2 (|r_i - w0 S y_i|^2 - w0^2 |S y_i|^2)

    with G = Y^T W^2 Y and the symmetric part S of S_u. A bound on the rounding error of float32 is added.
    """
    uploads, user_gram = sent.uploads, 0.5 * (sent.user_gram + jnp.swapaxes(sent.user_gram, 1, 2))
    broadcast, observations = uploads.broadcast, uploads.observations
    row_sums, w0 = owned_by(uploads.owners, num_clients=user_gram.shape[0]), broadcast.model.unobserved_weight
    rows, unobserved = read_rows(sent), _unobserved_rows(uploads, user_gram, row_sums)

    def of_history(values: Array) -> Array:
        item_weights = broadcast.item_weights
        importance = 1.0 if item_weights is None else item_weights[observations.item_ids] ** 2
        return row_sums.total(jnp.sum(jnp.where(observations.mask, importance * values, 0.0), axis=-1))

    def squared(rows: Array) -> Array:
        return of_history(jnp.sum(rows**2, axis=-1))

    catalogue = einsum("ckl,lm,ckm->c", user_gram, broadcast.norm_gram, user_gram)
    # what they would be if all signs agreed: rounding is relative to that
    lengths, absolute = jnp.sqrt(jnp.diagonal(broadcast.norm_gram)), jnp.abs(user_gram)
    catalogue_size = jnp.sum(einsum("ckl,l->ck", absolute, lengths) ** 2, axis=-1)
    sizes = _unobserved_rows(uploads, absolute, row_sums, of=jnp.abs)
    rest = jnp.maximum(catalogue - squared(unobserved), 0.0) + _CANCELLATION * catalogue_size
    rounding = _ROUNDING * safe_sqrt(squared(jnp.abs(rows) + w0 * sizes))
    upload = safe_sqrt(w0**2 * rest + squared(rows - w0 * unobserved)) + rounding
    confidence = of_history(extra_confidence(broadcast.model, observations) ** 2)
    return Pieces(
        upload=_ROUNDED_UP * upload,
        user_gram=_ROUNDED_UP * safe_sqrt(jnp.sum(user_gram**2, axis=(1, 2))),
        confidence_sum=_ROUNDED_UP * safe_sqrt(confidence),
        loss=_ROUNDED_UP * jnp.abs(uploads.loss),
    )


def _unobserved_rows(
    uploads: Uploads,
    user_gram: Float[Array, "clients factors factors"],
    row_sums: RowSums,
    *,
    of: Callable[[Array], Array] = lambda factors: factors,
) -> Float[Array, "rows slots factors"]:
    """Compute S y_i of the own items, with `of(y_i)` in place of y_i."""
    factors = of(uploads.broadcast.item_factors[uploads.observations.item_ids])
    return einsum("rsl,rkl->rsk", factors, row_sums.spread(user_gram))


def add_rows(total: CohortSum, sent: Sent) -> CohortSum:
    """Add the rows of a chunk in floating point; `-w0 Y S` is left to `_read`."""
    if isinstance(sent, Uploads):
        return accumulation_of(None).add(total, sent)
    pieces, item_ids = pieces_of(sent), sent.uploads.observations.item_ids
    return total._replace(
        upload=total.upload.at[item_ids].add(pieces.upload),
        user_gram=total.user_gram + jnp.sum(pieces.user_gram, axis=0),
        confidence_sum=total.confidence_sum.at[item_ids].add(pieces.confidence_sum),
        loss=total.loss + jnp.sum(pieces.loss),
        num_clients=total.num_clients + jnp.sum(sent.uploads.is_client, dtype=jnp.int32),
        num_clipped=total.num_clipped + num_clipped(sent.uploads),
    )


def read_sum_of_rows(
    model: Model, item_factors: Float[Array, "items factors"], total: CohortSum
) -> CohortSum:
    """Take the symmetric part of S, and add -w0 Y S."""
    user_gram = 0.5 * (total.user_gram + total.user_gram.T)
    return add_unobserved(model, item_factors, total._replace(user_gram=user_gram))


# the accumulation of every link that sends rows; links that share it may be chained
ROW_SUMS = Accumulation(start=accumulation_of(None).start, add=add_rows, read=read_sum_of_rows)


def is_row_sums(accumulation: Accumulation) -> bool:
    """Return True for `ROW_SUMS`, also as a pytree; any accumulation that adds rows may replace it."""
    return getattr(accumulation.add, "func", accumulation.add) is add_rows


def user_keys(key: Any, uploads: Uploads) -> Array:
    """Return a key of each client, by its user id: results do not depend on chunks or devices.

    Raises:
        ValueError: without a key.
    """
    if key is None:
        raise ValueError("expected the key of the round for a link that draws, got None; pass key")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, uploads.client_ids)
