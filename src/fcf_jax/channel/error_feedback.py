r"""Quantization with error feedback: what rounding left out of a client's uploads is sent in a later round.

A client's rows are all multiples of its factor, so that rounding them with a scale for each row rounds the
factor once. The memory of a client is therefore one vector e_u, kept from round to round:

    v = x_u + e_u,   sent: seen_ui Q(v) and x_u Q(v)^T,   kept: e_u = v - Q(v)

Clients keep their memory themselves; a simulation holds it in the link's state, [users, factors], which no
server would have. A client that does not take part keeps what it has.

References:
    Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019: error feedback.
"""

import functools
from typing import Any, NamedTuple

from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.channel.link import link
from fcf_jax.channel.quantization import levels_of, payload_of_quantized_uploads, quantize_rows
from fcf_jax.channel.sent_rows import ROW_SUMS, Sent, SentRows, sent_rows
from fcf_jax.core.records import Accumulation, CohortSum, Key, Link, Model, Scalar, Uploads


class RememberedSum(NamedTuple):
    """Sums over a cohort, with what its clients remember.

    Attributes:
        sums: all that a server would receive.
        memory_change: change of each user's memory; 0 for users outside the cohort.
    """

    sums: CohortSum
    memory_change: Float[Array, "users factors"]


def quantize_with_feedback(bits: Scalar, *, num_users: int, num_factors: int) -> Link:
    """Build a link that quantizes uploads to the nearest step, with error feedback.

    It must be the first link that changes rows, no link behind it may have a server end, and none an
    accumulation of its own, such as that of `fixed_point`.

    Args:
        bits: of each number, at least 2; may be traced.
        num_users: N, of the packed clients.
        num_factors: columns of the item factors.

    Raises:
        ValueError: for fewer than 2 bits.
    """
    return link(
        init=_first_memory(num_users, num_factors),
        client=Partial(_quantize, levels_of(bits)),
        server=_keep,
        payload=Partial(payload_of_quantized_uploads, bits),
        accumulation=_accumulation(num_users),
    )


@functools.cache
def _first_memory(num_users: int, num_factors: int) -> functools.partial:
    return functools.partial(jnp.zeros, (num_users, num_factors))


def _quantize(levels: Array, key: Key | None, memory: Float[Array, "users factors"], sent: Sent) -> SentRows:
    if not isinstance(sent, Uploads):
        raise ValueError(
            "expected uploads that no link has compressed yet, got rows; "
            "put quantization with error feedback first in the chain"
        )
    own = memory.at[sent.client_ids].get(mode="fill", fill_value=0.0)
    wanted = sent.user_factors + own
    rounded = quantize_rows(wanted, levels)
    of_rows = rounded.at[sent.owners].get(mode="clip")
    return sent_rows(sent)._replace(
        upload_rows=sent.seen[:, :, None] * of_rows[:, None, :],
        user_gram=sent.user_factors[:, :, None] * rounded[:, None, :],
        memory_change=wanted - rounded - own,
    )


@functools.cache
def _accumulation(num_users: int) -> Accumulation:
    """Return the same functions for the same number: a link that is built again does not recompile."""

    def start(item_factors: Float[Array, "items factors"]) -> RememberedSum:
        memory_change = jnp.zeros((num_users, item_factors.shape[1]), item_factors.dtype)
        return RememberedSum(ROW_SUMS.start(item_factors), memory_change)

    def add(total: RememberedSum, sent: Any) -> RememberedSum:
        uploads = sent.uploads  # a client that has dropped out meanwhile keeps what it has
        change = jnp.where(uploads.is_client[:, None], sent.memory_change, 0.0)
        change = total.memory_change.at[uploads.client_ids].add(change, mode="drop")
        return RememberedSum(ROW_SUMS.add(total.sums, sent), change)

    def read(model: Model, item_factors: Float[Array, "items factors"], total: RememberedSum) -> Any:
        return total._replace(sums=ROW_SUMS.read(model, item_factors, total.sums))

    return Accumulation(start=start, add=add, read=read)


def _keep(
    key: Key, memory: Float[Array, "users factors"], total: RememberedSum
) -> tuple[CohortSum, Float[Array, "users factors"]]:
    return total.sums, memory + total.memory_change
