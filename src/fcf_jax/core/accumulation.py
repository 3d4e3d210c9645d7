"""The sums of a round in floating point: what each client sends, and how a chunk of uploads is added."""

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.biases import without_constant
from fcf_jax.core.feature_records import FeatureSums
from fcf_jax.core.features import feature_sums
from fcf_jax.core.objective import add_to_items, extra_confidence
from fcf_jax.core.records import Accumulation, CohortSum, Key, Link, Model, Uploads


def sent_factors(uploads: Uploads) -> Float[Array, "clients factors"]:
    """Compute a_u x_u."""
    return uploads.weights[:, None] * uploads.user_factors


def sent_confidence(uploads: Uploads) -> Float[Array, "rows slots"]:
    """Compute a_u (c_ui - w0), 0 in empty slots."""
    extra = extra_confidence(uploads.broadcast.model, uploads.observations)
    return extra * uploads.weights.at[uploads.owners].get(mode="clip")[:, None]


def add_confidence(total: Float[Array, "items"], uploads: Uploads) -> Float[Array, "items"]:
    """Add a_u (c_ui - w0) to the sum of each observed item, and of each negative of a pair."""
    sent, observations = sent_confidence(uploads), uploads.observations
    total = total.at[observations.item_ids].add(sent)
    return total if observations.negative_ids is None else total.at[observations.negative_ids].add(sent)


def num_clipped(uploads: Uploads) -> Array:
    """Count the clients that a link has clipped."""
    return jnp.sum(uploads.is_client & uploads.is_clipped, dtype=jnp.int32)


def _empty_sums(item_factors: Float[Array, "items factors"]) -> CohortSum:
    (num_items, num_factors), dtype = item_factors.shape, item_factors.dtype
    return CohortSum(
        upload=jnp.zeros((num_items, num_factors), dtype),
        user_gram=jnp.zeros((num_factors, num_factors), dtype),
        confidence_sum=jnp.zeros(num_items, dtype),
        loss=jnp.zeros((), dtype),
        num_clients=jnp.zeros((), jnp.int32),
        num_clipped=jnp.zeros((), jnp.int32),
        num_clipped_entries=jnp.zeros((), jnp.int32),
    )


def _add(sums: CohortSum, uploads: Uploads) -> CohortSum:
    """Add the uploads of a chunk; of the item gradients only `seen` x^T, `add_unobserved` adds the rest."""
    factors, observations = sent_factors(uploads), uploads.observations
    of_rows = factors.at[uploads.owners].get(mode="clip")
    gram_of_chunk = jnp.matmul(factors.T, uploads.user_factors, precision="highest")
    return sums._replace(
        upload=add_to_items(sums.upload, observations, uploads.seen[:, :, None] * of_rows[:, None, :]),
        user_gram=sums.user_gram + gram_of_chunk,
        confidence_sum=add_confidence(sums.confidence_sum, uploads),
        loss=sums.loss + jnp.sum(uploads.weights * uploads.loss),
        num_clients=sums.num_clients + jnp.sum(uploads.is_client, dtype=jnp.int32),
        num_clipped=sums.num_clipped + num_clipped(uploads),
        features=_add_features(sums.features, uploads),
    )


def _add_features(sums: FeatureSums | None, uploads: Uploads) -> FeatureSums | None:
    if sums is None or uploads.features is None:
        return None
    learned = without_constant(uploads.user_factors, uploads.broadcast.model.biases)
    of_chunk = feature_sums(uploads.features, learned, uploads.weights)
    return jax.tree.map(jnp.add, sums, of_chunk)


def add_unobserved(model: Model, item_factors: Float[Array, "items factors"], sums: CohortSum) -> CohortSum:
    """Add -w0 Y (sum of a x x^T), the part of the item gradients that sparse sums leave out."""
    unobserved = model.unobserved_weight * jnp.matmul(item_factors, sums.user_gram, precision="highest")
    return sums._replace(upload=sums.upload - unobserved)


_FLOAT_SUMS = Accumulation(start=_empty_sums, add=_add, read=add_unobserved)


def accumulation_of(channel: Link | None) -> Accumulation:
    """Return the channel's rule for adding up uploads, by default in floating point."""
    return _FLOAT_SUMS if channel is None or channel.accumulation is None else channel.accumulation


def received(
    channel: Link | None, key: Key | None, channel_state: Any, item_factors: Float[Array, "items factors"]
) -> Float[Array, "items factors"]:
    """Return the item factors that clients receive, and that their sum is read with.

    Args:
        channel: its broadcast end is applied; None: no channel.
        key: key of the channel's client ends.
        channel_state: state of the channel before the round.
        item_factors: Y, as the server has it.
    """
    if channel is None or channel.broadcast is None:
        return item_factors
    return channel.broadcast(key, channel_state, item_factors).astype(item_factors.dtype)
