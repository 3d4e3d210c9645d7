"""What `privacy.mode` puts between the clients and the server: clipping, noise, and what is sent at all."""

import math
import os
from functools import partial

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jaxtyping import Float

from fcf_jax.channel import Link, Pieces, adaptive_clip_and_noise, clip_and_noise
from fcf_jax.channel.fixed_point import piece_shapes
from fcf_jax.core.records import Key
from fcf_jax.experiments.config.privacy_modes import has_noise, mode_of
from fcf_jax.experiments.config.privacy_numbers import noise_multiplier_of, num_learned_items
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import confidence_factor, step_of

_NUMBER_BYTES = 4  # a float32, or a word of a secure sum


def clip_norms_of(config: ExperimentConfig) -> Pieces:
    """Return the clip norm of each piece that the server step asks for, None for the others."""
    privacy, pieces = config.privacy, sent_pieces(config)
    return Pieces(
        upload=privacy.clip_norm,
        user_gram=privacy.gram_clip_norm if "user_gram" in pieces else None,
        confidence_sum=privacy.confidence_clip_norm if "confidence_sum" in pieces else None,
        loss=None,
    )


def sent_pieces(config: ExperimentConfig) -> tuple[str, ...]:
    """Name the pieces that a client sends: what the step uses, and under noise never its loss."""
    left_out = set() if confidence_factor(config) > 0 else {"confidence_sum"}
    left_out |= {"loss"} if has_noise(config) else set()
    return tuple(piece for piece in step_of(config).pieces if piece not in left_out)


def payload_bytes(config: ExperimentConfig, *, num_items: int) -> tuple[int, int]:
    """Count the bytes (up, down) of one client in one round, in dense float32 form.

    Down goes Y [items, factors]. Up goes the gradient of the same shape; for steps that use the
    curvature also x x^T [factors, factors], the confidences [items] where they are weighed, and
    the loss where there is no noise. Only learned items count; their noisy counts, sent once, do not.
    """
    shapes = piece_shapes(num_learned_items(config, num_items=num_items), config.model.num_factors)
    up = sum(math.prod(shapes[name]) for name in sent_pieces(config))
    return _NUMBER_BYTES * up, _NUMBER_BYTES * math.prod(shapes["upload"])


def configured_channel(
    config: ExperimentConfig, *, num_users: int, item_weights: Float[np.ndarray, "items"] | None = None
) -> Link | None:
    """Build the link that clips the clients and adds the noise; None for a mode without noise.

    Noise that the clients add in shares (`distributed_noise`) has the same distribution as central
    noise on the sum, and is simulated as such.

    Args:
        config: as resolved.
        num_users: N.
        item_weights: made of released counts; None: 1 each.
    """
    if not has_noise(config):
        return None
    privacy = config.privacy
    make = (
        partial(adaptive_clip_and_noise, quantile=privacy.clip_quantile)
        if privacy.clipping == "adaptive"
        else partial(clip_and_noise, is_local=mode_of(config).noise_on == "upload")
    )
    return make(
        clip_norms=clip_norms_of(config),
        noise_multiplier=noise_multiplier_of(config, num_users=num_users),
        expected_cohort_size=min(config.federation.cohort_size or num_users, num_users),
        item_weights=None if item_weights is None else jnp.asarray(item_weights),
    )


def rounds_key(config: ExperimentConfig, key: Key) -> Key:
    """Return the key of cohorts and noise: under noise from the system's entropy, never stored.

    With `privacy.seed` the key is fixed, and the run is not private.
    """
    if not has_noise(config):
        return key
    if config.privacy.seed is not None:
        return jax.random.key(config.privacy.seed)
    bits = np.frombuffer(os.urandom(8), np.uint32)
    if jax.process_count() > 1:
        bits = multihost_utils.broadcast_one_to_all(bits)
    return jax.random.wrap_key_data(jnp.asarray(bits))
