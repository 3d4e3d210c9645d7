"""Problems of a configuration that take a computation to find: each function describes one, or returns ""."""

import difflib
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.channel.fixed_point import FixedPoint, Formats, check_formats, choose_formats
from fcf_jax.core.records import Pieces
from fcf_jax.core.sampling import draw_cohort
from fcf_jax.data.known_sets import known_set
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.config.protection import protection_of
from fcf_jax.experiments.config.schema import ExperimentConfig, FederationConfig
from fcf_jax.privacy.secure_sum.cohorts import check_cohorts


class Facts(NamedTuple):
    """What checks need to know about the training data.

    Attributes:
        num_users: users of the training set.
        num_items: items of the training set.
        num_interactions: interactions of the training set.
        bounds: the largest number of each piece that clients send; None where rounds are summed in floats.
        num_replicates: seeds, from `federation.seed` on, whose cohorts are drawn.
    """

    num_users: int
    num_items: int
    num_interactions: int
    bounds: Pieces[float] | None = None
    num_replicates: int = 1

    @property
    def largest_rank(self) -> int:
        """Largest rank that the matrix of users and items can have."""
        return min(self.num_users, self.num_items)


def unknown_set(config: ExperimentConfig) -> str:
    """Describe a data set that is not known by its name."""
    try:
        if config.data.name is not None:
            known_set(config.data.name)
    except ValueError as error:
        return str(error)
    return ""


def unknown_metric(config: ExperimentConfig) -> str:
    """Describe a metric that evaluation does not compute, with the nearest that it does."""
    metric, names = config.tuning.metric, metric_names(config.evaluation.k)
    if metric is None or metric in names:
        return ""
    nearest = difflib.get_close_matches(metric, names, n=1, cutoff=0.0)[0]
    return f"unknown metric {metric}; did you mean {nearest}?"


def unaccountable_noise(config: ExperimentConfig, facts: Facts) -> str:
    """Describe why noise cannot be accounted for, or not be calibrated."""
    try:
        protection_of(config, num_users=facts.num_users)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def clients_to_adapt_clipping(config: ExperimentConfig, facts: Facts) -> float:
    """Return ten times the noise multiplier; a cohort with no more clients counts the clipped too noisily."""
    protection = protection_of(config, num_users=facts.num_users)
    return 0.0 if protection is None else 10 * protection.noise_multiplier


def overflowing_sum(config: ExperimentConfig, facts: Facts) -> str:
    """Describe a sum in fixed point that could overflow."""
    if facts.bounds is None:
        return ""
    max_clients, bits = config.federation.largest_cohort(facts.num_users), config.privacy.fraction_bits
    try:
        check_formats(formats_of(facts.bounds, bits, max_clients=max_clients), max_clients=max_clients)
    except ValueError as error:
        return str(error)
    return ""


def revealing_cohorts(config: ExperimentConfig, facts: Facts) -> str:
    """Describe cohorts whose secure sums would reveal too much: too small, or nearly the same."""
    if not config.privacy.row.sums_securely:
        return ""
    first, num_users = config.federation.seed, facts.num_users
    try:
        for seed in range(first, first + facts.num_replicates):
            cohorts = _cohorts_drawn(config.federation, seed=seed, num_users=num_users)
            check_cohorts(cohorts, num_users=num_users, min_cohort=config.privacy.min_cohort)
    except ValueError as error:
        return str(error)
    return ""


def formats_of(bounds: Pieces[float], fraction_bits: int | None, *, max_clients: int) -> Formats:
    """Return the fixed-point format of each piece: with the configured bits, or as many as sums allow."""
    if fraction_bits is None:
        return choose_formats(bounds, max_clients=max_clients)
    return Pieces(*(FixedPoint(bound, fraction_bits) for bound in bounds))


def _cohorts_drawn(federation: FederationConfig, *, seed: int, num_users: int) -> np.ndarray:
    """Draw the cohorts of all rounds from a seed, [rounds, clients]; unsampled, everybody once.

    Padding in a cohort is `num_users`.
    """
    cohort_size = federation.cohort_among(num_users)
    if cohort_size is None:
        return np.arange(num_users)[None]
    draw = partial(
        draw_cohort,
        jax.random.key(seed),
        num_users=num_users,
        cohort_size=cohort_size,
        sampling=federation.sampling,
    )
    rounds = jnp.arange(max(federation.num_rounds, 1))
    return np.asarray(jax.jit(partial(jax.lax.map, draw))(rounds))
