"""Numbers of privacy that follow from a configuration and the number of users.

Under noise: who takes part, delta, the noise multiplier and epsilon. In fixed point: the formats of sums.
"""

import functools
import math
from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.channel.fixed_point import FixedPoint, Formats, choose_formats
from fcf_jax.core.records import Pieces
from fcf_jax.core.sampling import draw_cohort, poisson_capacity
from fcf_jax.experiments.config.privacy_modes import has_noise, mode_of, needs_item_counts
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy import accounting
from fcf_jax.privacy.accounting import Participation
from fcf_jax.privacy.calibration import calibrated_noise_multiplier

_calibrated = functools.cache(calibrated_noise_multiplier)  # takes seconds


def is_sampled(config: ExperimentConfig, *, num_users: int) -> bool:
    """Return True if a round takes fewer than all users."""
    cohort_size = config.federation.cohort_size
    return cohort_size is not None and cohort_size < num_users


def largest_cohort(config: ExperimentConfig, *, num_users: int) -> int:
    """Return the most clients that a round can have."""
    cohort_size = config.federation.cohort_size
    if cohort_size is None or cohort_size >= num_users:
        return num_users
    if config.federation.sampling == "poisson":
        return poisson_capacity(num_users=num_users, cohort_size=cohort_size)
    return cohort_size


def num_learned_items(config: ExperimentConfig, *, num_items: int) -> int:
    """Count the items that are learned: all, or under noise the configured share."""
    share = config.privacy.head_items if has_noise(config) else 1.0
    return max(1, round(share * num_items))


def delta_of(config: ExperimentConfig, *, num_users: int) -> float:
    """Return the configured delta, otherwise 1 / (10 users)."""
    return 1 / (10 * num_users) if config.privacy.delta is None else config.privacy.delta


def participation_of(config: ExperimentConfig, *, num_users: int) -> Participation:
    """Describe to the accountant who takes part in a round.

    With noise on each upload, a client is protected by its own noise and gains nothing from sampling.

    Raises:
        ValueError: for sampling that cannot be accounted for.
    """
    is_local = mode_of(config).noise_on == "upload"
    cohort_size = None if is_local else config.federation.cohort_size
    sampling = config.federation.sampling
    who = accounting.participation_of(sampling, num_users=num_users, cohort_size=cohort_size)
    return with_item_counts(config, who)


def with_item_counts(config: ExperimentConfig, participation: Participation) -> Participation:
    """Add the noise of item counts, where they are released: their share of the target's budget."""
    if not needs_item_counts(config):
        return participation
    privacy, delta = config.privacy, delta_of(config, num_users=participation.num_users)
    alone = participation.sensitivity * accounting.single_noise_multiplier(privacy.epsilon, delta=delta)
    noise = 0.0 if privacy.noise_multiplier == 0 else alone / math.sqrt(privacy.count_share)
    return participation._replace(count_noise_multiplier=noise)


def noise_multiplier_of(config: ExperimentConfig, *, num_users: int) -> float:
    """Return the configured sigma, otherwise the least that keeps epsilon and delta over all rounds.

    Calibrated once for each set of numbers in a process.

    Raises:
        ValueError: for numbers that no noise can keep.
        ImportError: without dp-accounting.
    """
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
    """Compute the epsilon of all configured rounds; None without noise, or where it is infinite."""
    if not has_noise(config):
        return None
    spent = accounting.epsilon(
        participation_of(config, num_users=num_users),
        noise_multiplier=noise_multiplier_of(config, num_users=num_users),
        num_rounds=config.federation.num_rounds,
        delta=delta_of(config, num_users=num_users),
        accountant=config.privacy.accountant,
    )
    return spent if math.isfinite(spent) else None


def fixed_point_formats(config: ExperimentConfig, bounds: Pieces[float], *, num_users: int) -> Formats:
    """Return the fixed-point format of each piece: with the configured bits, or as many as sums allow."""
    bits = config.privacy.fraction_bits
    if bits is None:
        return choose_formats(bounds, max_clients=largest_cohort(config, num_users=num_users))
    return Pieces(*(FixedPoint(bound, bits) for bound in bounds))


def cohorts_drawn(config: ExperimentConfig, *, seed: int, num_users: int) -> np.ndarray:
    """Draw the cohorts of all rounds from a seed, [rounds, clients]; unsampled, everybody once.

    Padding in a cohort is `num_users`.
    """
    federation = config.federation
    if federation.cohort_size is None or federation.cohort_size >= num_users:
        return np.arange(num_users)[None]
    draw = partial(
        draw_cohort,
        jax.random.key(seed),
        num_users=num_users,
        cohort_size=federation.cohort_size,
        sampling=federation.sampling,
    )
    rounds = jnp.arange(max(federation.num_rounds, 1))
    return np.asarray(jax.jit(partial(jax.lax.map, draw))(rounds))
