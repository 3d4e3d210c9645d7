r"""Quantization of rows: each number of a row becomes a whole number of steps, with one scale for each row.

    q_k = round(v_k / s),   s = max_k |v_k| / L,   L = 2^(bits - 1) - 1

The server reads q s. Rounding to the nearest step is off by at most s / 2 in every number. Stochastic
rounding, floor(v_k / s + U) with U uniform in [0, 1), is off by less than s, and unbiased.

References:
    Alistarh et al., NeurIPS 2017, "QSGD": stochastic rounding of gradients.
"""

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import ROW_SUMS, Sent, SentRows, sent_rows, user_keys
from fcf_jax.core.records import Key, Link, Part, Payload, Scalar

_SCALE_BITS = 32  # a float32 for each row


def quantize_uploads(bits: Scalar, *, is_stochastic: bool = False) -> Link:
    """Build a link that quantizes what clients send: the rows of own items, and those of x x^T.

    Confidences and loss, a number for each item and one for each client, stay as they are. A client's numbers
    are rounded as they are sent, before any clipping that follows in the chain.

    Args:
        bits: of each number, at least 2; may be traced.
        is_stochastic: round at random, without bias, independently for every number; else to the nearest.

    Raises:
        ValueError: for fewer than 2 bits.
    """
    levels = levels_of(bits)
    return link(
        client=Partial(_quantize_stochastically if is_stochastic else _quantize, levels),
        payload=Partial(payload_of_quantized_uploads, bits),
        accumulation=ROW_SUMS,
    )


def quantize_items(bits: Scalar, *, is_stochastic: bool = False) -> Link:
    """Build a link that quantizes Y on its way to the clients, row by row.

    All clients receive the same rounded rows, solve with them, and send gradients at them; the server applies
    these to its own Y.

    Args:
        bits: of each number, at least 2; may be traced.
        is_stochastic: round at random, without bias; else to the nearest.

    Raises:
        ValueError: for fewer than 2 bits.
    """
    levels = levels_of(bits)
    return link(
        broadcast=Partial(_round_items_at_random if is_stochastic else _round_items, levels),
        payload=Partial(_payload_of_items, bits),
    )


def levels_of(bits: Scalar) -> Scalar:
    """Return L, the largest whole number of steps.

    Raises:
        ValueError: for fewer than 2 bits.
    """
    if isinstance(bits, int | float) and bits < 2:
        raise ValueError(f"expected bits of at least 2, a sign and a step, got {bits}")
    return 2.0 ** (jnp.asarray(bits, float) - 1.0) - 1.0


def quantize_rows(
    rows: Float[Array, "*rows width"],
    levels: Scalar,
    uniform: Float[Array, "*rows width"] | None = None,
) -> Float[Array, "*rows width"]:
    """Round rows as the server reads them, q s.

    Args:
        rows: v; a row of zeros stays one.
        levels: L, from `levels_of`.
        uniform: U of each number; None: rounded to the nearest step.
    """
    levels = jnp.asarray(levels, rows.dtype)
    scale = jnp.max(jnp.abs(rows), axis=-1, keepdims=True) / levels
    steps = rows / jnp.where(scale > 0, scale, 1.0)
    steps = jnp.round(steps) if uniform is None else jnp.floor(steps + uniform)
    return jnp.clip(steps, -levels, levels) * scale


def _quantize(levels: Array, key: Key | None, state: tuple, sent: Sent) -> SentRows:
    sent = sent_rows(sent)
    return sent._replace(
        upload_rows=quantize_rows(sent.upload_rows, levels), user_gram=quantize_rows(sent.user_gram, levels)
    )


def _quantize_stochastically(levels: Array, key: Key | None, state: tuple, sent: Sent) -> SentRows:
    sent = sent_rows(sent)
    uploads, precision = sent.uploads, sent.upload_rows.dtype
    of_items, of_grams = jnp.moveaxis(jax.vmap(jax.random.split)(user_keys(key, uploads)), 1, 0)
    of_rows = of_items.at[uploads.owners].get(mode="clip")
    width, num_factors = sent.upload_rows.shape[-1], sent.user_gram.shape[-1]

    def of_item(key: Key, item_id: Int[Array, ""]) -> Float[Array, "width"]:
        return uniform_of(jax.random.fold_in(key, item_id), (width,), precision)

    of_history = jax.vmap(jax.vmap(of_item, in_axes=(None, 0)))(of_rows, uploads.observations.item_ids)
    shape = (num_factors, num_factors)
    of_matrix = jax.vmap(lambda key: uniform_of(key, shape, precision))(of_grams)
    return sent._replace(
        upload_rows=quantize_rows(sent.upload_rows, levels, of_history),
        user_gram=quantize_rows(sent.user_gram, levels, of_matrix),
    )


def uniform_of(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """Draw from [0, 1) in steps of 2^-16, in half the time of float32; the bias is below 2^-17."""
    bits = jax.random.bits(key, shape, jnp.uint16)
    return (bits.astype(dtype) + 0.5) / 2**16


def _round_items(
    levels: Array, key: Key | None, state: tuple, item_factors: Float[Array, "items factors"]
) -> Float[Array, "items factors"]:
    return quantize_rows(item_factors, levels)


def _round_items_at_random(
    levels: Array, key: Key | None, state: tuple, item_factors: Float[Array, "items factors"]
) -> Float[Array, "items factors"]:
    if key is None:
        raise ValueError("expected the key of the round to round item factors at random, got None; pass key")
    return quantize_rows(item_factors, levels, uniform_of(key, item_factors.shape, item_factors.dtype))


def quantized_part(part: Part, bits: Scalar) -> Part:
    """Return the part with numbers of so many bits, and a scale for each row."""
    return part._replace(number_bits=bits, row_bits=part.row_bits + _SCALE_BITS)


def payload_of_quantized_uploads(bits: Scalar, payload: Payload) -> Payload:
    """Return the payload after `quantize_uploads`."""
    up = payload.up
    return payload._replace(
        up=up._replace(upload=quantized_part(up.upload, bits), user_gram=quantized_part(up.user_gram, bits))
    )


def _payload_of_items(bits: Scalar, payload: Payload) -> Payload:
    return payload._replace(down=quantized_part(payload.down, bits))
