"""What `privacy.mode` puts between the clients and the server, and what the noise is calibrated to."""

import functools
import math
import os

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jaxtyping import Float

from fcf_jax.core.records import Key, Mechanism, SentNorms
from fcf_jax.experiments.config.load import ConfigError
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import GRAM_STEPS, confidence_factor
from fcf_jax.privacy import accounting as accountant
from fcf_jax.privacy.accounting import Participation, calibrated_noise_multiplier
from fcf_jax.privacy.mechanism import adaptive_gaussian_mechanism, gaussian_mechanism
from fcf_jax.privacy.secure_sum.pieces import piece_shapes

_calibrated = functools.cache(calibrated_noise_multiplier)  # it takes seconds
_NUMBER_BYTES = 4  # a float32, or a word of a secure sum
NOISE_MODES = ("local_noise", "central_noise", "distributed_noise")


def has_noise(config: ExperimentConfig) -> bool:
    """Say whether the configuration asks for differential privacy."""
    return config.privacy.mode in NOISE_MODES


def refuse_unaccountable(config: ExperimentConfig, *, num_users: int) -> None:
    """Refuse what no accountant counts, or what noise would drown.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    if not has_noise(config):
        return
    if config.data.feedback == "explicit":
        raise ConfigError(
            "data.feedback: explicit ratings are centred on their mean, which has no noise; "
            'set data.feedback = "implicit" under noise'
        )
    if config.data.min_item_interactions > 1:
        raise ConfigError(
            "data.min_item_interactions: which items are rare is told without noise; leave it out, and set "
            "privacy.head_items, whose counts are noised"
        )
    if config.server.step == "guarded_gram":
        raise ConfigError(
            f"server.step: guarded_gram steers by the clients' loss, which {config.privacy.mode} drowns; "
            'set server.step = "gram" (everybody in a round) or "running_sums" (cohorts)'
        )
    if config.privacy.clipping == "adaptive" and config.privacy.mode == "local_noise":
        raise ConfigError(
            'privacy.clipping: under local_noise nobody counts the clipped; set privacy.clipping = "static"'
        )
    if needs_item_counts(config) and config.privacy.mode == "local_noise":
        raise ConfigError(
            "privacy.head_items: under local_noise nobody sums item counts up; leave it and "
            "privacy.item_weight_power out"
        )
    try:
        configured_mechanism(config, num_users=num_users)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"privacy: {error}") from error


def refuse_measuring(config: ExperimentConfig, command: str) -> None:
    """Refuse to spend a budget on trainings that only measure.

    Raises:
        ConfigError: unless the seed of the noise is fixed; and where item counts come first.
    """
    if needs_item_counts(config):
        raise ConfigError(
            f"privacy.head_items: {command} releases no item counts, as `fcf run` does before its rounds; "
            f"set privacy.head_items = 1 and privacy.item_weight_power = 0 for {command}"
        )
    if has_noise(config) and config.privacy.seed is None:
        raise ConfigError(
            f"privacy.seed: {command} trains many times and charges no budget; set privacy.seed to measure "
            "what is NOT PRIVATE, and train what is released with `fcf run`"
        )


def needs_item_counts(config: ExperimentConfig) -> bool:
    """Say whether item counts are released before the first round, to leave items out or weigh them."""
    return has_noise(config) and (config.privacy.head_items < 1 or config.privacy.item_weight_power != 0)


def num_learned_items(config: ExperimentConfig, *, num_items: int) -> int:
    """Count the items that are sent: all, or under noise the configured share."""
    share = config.privacy.head_items if has_noise(config) else 1.0
    return max(1, round(share * num_items))


def is_sampled(config: ExperimentConfig, *, num_users: int) -> bool:
    """Say whether a round takes fewer than everybody."""
    cohort_size = config.federation.cohort_size
    return cohort_size is not None and cohort_size < num_users


def delta_of(config: ExperimentConfig, *, num_users: int) -> float:
    """Return delta as configured, or a tenth of one user's share."""
    return 1 / (10 * num_users) if config.privacy.delta is None else config.privacy.delta


def participation_of(config: ExperimentConfig, *, num_users: int) -> Participation:
    """Describe who takes part in a round, as an accountant wants it.

    Under local noise every client's upload is protected by its own noise, and nothing by sampling.
    """
    cohort_size = config.federation.cohort_size
    if config.privacy.mode == "local_noise":
        cohort_size = None
    sampled = {"num_users": num_users, "cohort_size": cohort_size}
    return with_item_counts(config, accountant.participation_of(config.federation.sampling, **sampled))


def with_item_counts(config: ExperimentConfig, participation: Participation) -> Participation:
    """Add the noise of item counts, if they are released: their share of what the target allows."""
    if not needs_item_counts(config):
        return participation
    privacy, delta = config.privacy, delta_of(config, num_users=participation.num_users)
    alone = participation.sensitivity * accountant.single_noise_multiplier(privacy.epsilon, delta=delta)
    noise = 0.0 if privacy.noise_multiplier == 0 else alone / math.sqrt(privacy.count_share)
    return participation._replace(count_noise_multiplier=noise)


def noise_multiplier_of(config: ExperimentConfig, *, num_users: int) -> float:
    """Return sigma as configured, or as epsilon, delta and the rounds allow."""
    if config.privacy.noise_multiplier is not None:
        return config.privacy.noise_multiplier
    return _calibrated(
        participation_of(config, num_users=num_users),
        epsilon=config.privacy.epsilon,
        delta=delta_of(config, num_users=num_users),
        num_rounds=max(config.federation.num_rounds, 1),
        accountant=config.privacy.accountant,
    )


def epsilon_of(config: ExperimentConfig, *, num_users: int) -> float | None:
    """Compute what all rounds as configured cost; None where nothing is spent, or without end."""
    if not has_noise(config):
        return None
    spent = accountant.epsilon(
        participation_of(config, num_users=num_users),
        noise_multiplier=noise_multiplier_of(config, num_users=num_users),
        num_rounds=config.federation.num_rounds,
        delta=delta_of(config, num_users=num_users),
        accountant=config.privacy.accountant,
    )
    return spent if math.isfinite(spent) else None


def clip_norms_of(config: ExperimentConfig) -> SentNorms:
    """Return the clip norm of each piece that the server step asks for, None for the others."""
    privacy, pieces = config.privacy, sent_pieces(config)
    return SentNorms(
        upload=privacy.clip_norm,
        user_gram=privacy.gram_clip_norm if "user_gram" in pieces else None,
        confidence_sum=privacy.confidence_clip_norm if "confidence_sum" in pieces else None,
        loss=None,
    )


def sent_pieces(config: ExperimentConfig) -> tuple[str, ...]:
    """Name the pieces that a client sends: those that the step asks for, and under noise never its loss."""
    if config.server.step not in GRAM_STEPS:
        return ("upload",)
    confidence = ("confidence_sum",) if confidence_factor(config) > 0 else ()
    return ("upload", "user_gram", *confidence, *(() if has_noise(config) else ("loss",)))


def payload_bytes(config: ExperimentConfig, *, num_items: int) -> tuple[int, int]:
    """Count the bytes (up, down) of one client in one round, in dense float32 form.

    Down goes Y [items, factors]. Up goes the gradient of the same shape; for steps that use the
    curvature also x x^T [factors, factors], where they weigh it the confidences [items], and
    without noise the loss. Of the items those that are learned; their counts, once, are left out.
    """
    shapes = piece_shapes(num_learned_items(config, num_items=num_items), config.model.num_factors)
    up = sum(math.prod(shapes[name]) for name in sent_pieces(config))
    return _NUMBER_BYTES * up, _NUMBER_BYTES * math.prod(shapes["upload"])


def configured_mechanism(
    config: ExperimentConfig, *, num_users: int, item_weights: Float[np.ndarray, "items"] | None = None
) -> Mechanism | None:
    """Build what clips the clients and adds the noise; None where the mode has neither.

    Noise that the clients add in shares (`distributed_noise`) has the sum's distribution of
    central noise, and is simulated as such.

    Args:
        config: as resolved.
        num_users: N.
        item_weights: made of released counts; None: 1 each.
    """
    if not has_noise(config):
        return None
    privacy, participation = config.privacy, participation_of(config, num_users=num_users)
    cohort_size = config.federation.cohort_size if is_sampled(config, num_users=num_users) else num_users
    options = {
        "clip_norms": clip_norms_of(config),
        "noise_multiplier": noise_multiplier_of(config, num_users=num_users),
        "expected_cohort_size": cohort_size,
        "item_weights": None if item_weights is None else jnp.asarray(item_weights),
    }
    if privacy.clipping == "static":
        return gaussian_mechanism(is_local=privacy.mode == "local_noise", **options)
    if options["noise_multiplier"] >= 0.1 * participation.cohort_size:
        raise ConfigError(
            f"privacy.clipping: adaptive needs a cohort of more than {10 * options['noise_multiplier']:.0f} "
            f'clients, got {participation.cohort_size}; set privacy.clipping = "static"'
        )
    return adaptive_gaussian_mechanism(quantile=privacy.clip_quantile, **options)


def rounds_key(config: ExperimentConfig, key: Key) -> Key:
    """Return the key of cohorts and noise: under noise from the system's entropy, never stored.

    With `privacy.seed` it is fixed, and the run is not private.
    """
    if not has_noise(config):
        return key
    if config.privacy.seed is not None:
        return jax.random.key(config.privacy.seed)
    bits = np.frombuffer(os.urandom(8), np.uint32)
    if jax.process_count() > 1:
        bits = multihost_utils.broadcast_one_to_all(bits)
    return jax.random.wrap_key_data(jnp.asarray(bits))
