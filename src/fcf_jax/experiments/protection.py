"""What `privacy.mode` puts between the clients and the server, and what the noise is calibrated to."""

import os

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import multihost_utils

from fcf_jax.core.types import Key, Mechanism, SentNorms
from fcf_jax.experiments.config import ConfigError
from fcf_jax.experiments.sections import ExperimentConfig
from fcf_jax.experiments.steps import confidence_factor
from fcf_jax.privacy.accountant import Participation, calibrated_noise_multiplier
from fcf_jax.privacy.mechanism import adaptive_gaussian_mechanism, gaussian_mechanism

NOISE_MODES = ("local_noise", "central_noise", "distributed_noise")
_SAMPLERS = {"poisson": "poisson", "independent": "fixed_size"}
_WITH_GRAM = ("gram", "running_sums")


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
    if config.server.step == "guarded_gram":
        raise ConfigError(
            f"server.step: guarded_gram steers by the clients' loss, which {config.privacy.mode} drowns; "
            'set server.step = "gram" (everybody in a round) or "running_sums" (cohorts)'
        )
    if is_sampled(config, num_users=num_users) and config.federation.sampling not in _SAMPLERS:
        raise ConfigError(
            f'federation.sampling: expected "poisson" or "independent" under {config.privacy.mode}, got '
            f'"{config.federation.sampling}", which no accountant counts; set federation.sampling = "poisson"'
        )
    if config.privacy.clipping == "adaptive" and config.privacy.mode == "local_noise":
        raise ConfigError(
            'privacy.clipping: under local_noise nobody counts the clipped; set privacy.clipping = "static"'
        )


def refuse_measuring(config: ExperimentConfig, command: str) -> None:
    """Refuse to spend a budget on trainings that only measure.

    Raises:
        ConfigError: unless the seed of the noise is fixed.
    """
    if has_noise(config) and config.privacy.seed is None:
        raise ConfigError(
            f"privacy.seed: {command} trains many times and charges no budget; set privacy.seed to measure "
            "what is NOT PRIVATE, and train what is released with `fcf run`"
        )


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
    federation = config.federation
    if config.privacy.mode == "local_noise" or not is_sampled(config, num_users=num_users):
        return Participation("everybody", num_users, num_users)
    assert federation.cohort_size is not None
    return Participation(_SAMPLERS[federation.sampling], num_users, federation.cohort_size)


def noise_multiplier_of(config: ExperimentConfig, *, num_users: int) -> float:
    """Return sigma as configured, or as epsilon, delta and the rounds allow."""
    if config.privacy.noise_multiplier is not None:
        return config.privacy.noise_multiplier
    return calibrated_noise_multiplier(
        participation_of(config, num_users=num_users),
        epsilon=config.privacy.epsilon,
        delta=delta_of(config, num_users=num_users),
        num_rounds=max(config.federation.num_rounds, 1),
        accountant=config.privacy.accountant,
    )


def clip_norms_of(config: ExperimentConfig) -> SentNorms:
    """Return the clip norm of each piece that the server step asks for, None for the others."""
    privacy, sends_gram = config.privacy, config.server.step in _WITH_GRAM
    sends_confidence = sends_gram and confidence_factor(config) > 0
    return SentNorms(
        upload=privacy.clip_norm,
        user_gram=privacy.gram_clip_norm if sends_gram else None,
        confidence_sum=privacy.confidence_clip_norm if sends_confidence else None,
        loss=None,
    )


def configured_mechanism(config: ExperimentConfig, *, num_users: int) -> Mechanism | None:
    """Build what clips the clients and adds the noise; None where the mode has neither.

    Noise that the clients add in shares (`distributed_noise`) has the sum's distribution of
    central noise, and is simulated as such.
    """
    if not has_noise(config):
        return None
    privacy, participation = config.privacy, participation_of(config, num_users=num_users)
    cohort_size = config.federation.cohort_size if is_sampled(config, num_users=num_users) else num_users
    options = {
        "clip_norms": clip_norms_of(config),
        "noise_multiplier": noise_multiplier_of(config, num_users=num_users),
        "expected_cohort_size": cohort_size,
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
