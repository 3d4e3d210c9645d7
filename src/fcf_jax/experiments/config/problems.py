"""Problems of a configuration that take a computation to find: each function describes one, or returns ""."""

import difflib
from typing import NamedTuple

from fcf_jax.channel.fixed_point import check_formats
from fcf_jax.core.records import Pieces
from fcf_jax.data.known_sets import known_set
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.config.privacy_modes import has_noise, mode_of
from fcf_jax.experiments.config.privacy_numbers import (
    cohorts_drawn,
    fixed_point_formats,
    largest_cohort,
    noise_multiplier_of,
    participation_of,
)
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.secure_sum.cohorts import check_cohorts


class Facts(NamedTuple):
    """What checks need to know about the training data.

    Attributes:
        num_users: users of the training set.
        num_items: items of the training set.
        num_interactions: interactions of the training set.
        bounds: the largest number of each piece that clients send; None where rounds are summed in floats.
        num_builds: seeds, from `federation.seed` on, whose cohorts are drawn.
    """

    num_users: int
    num_items: int
    num_interactions: int
    bounds: Pieces[float] | None = None
    num_builds: int = 1

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
        if has_noise(config):
            participation_of(config, num_users=facts.num_users)
            noise_multiplier_of(config, num_users=facts.num_users)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def clients_to_adapt_clipping(config: ExperimentConfig, facts: Facts) -> float:
    """Return ten times the noise multiplier; a cohort with no more clients counts the clipped too noisily."""
    return 10 * noise_multiplier_of(config, num_users=facts.num_users)


def overflowing_sum(config: ExperimentConfig, facts: Facts) -> str:
    """Describe a sum in fixed point that could overflow."""
    if facts.bounds is None:
        return ""
    formats = fixed_point_formats(config, facts.bounds, num_users=facts.num_users)
    try:
        check_formats(formats, max_clients=largest_cohort(config, num_users=facts.num_users))
    except ValueError as error:
        return str(error)
    return ""


def revealing_cohorts(config: ExperimentConfig, facts: Facts) -> str:
    """Describe cohorts whose secure sums would reveal too much: too small, or nearly the same."""
    if not mode_of(config).sums_securely:
        return ""
    first, num_users = config.federation.seed, facts.num_users
    try:
        for seed in range(first, first + facts.num_builds):
            cohorts = cohorts_drawn(config, seed=seed, num_users=num_users)
            check_cohorts(cohorts, num_users=num_users, min_cohort=config.privacy.min_cohort)
    except ValueError as error:
        return str(error)
    return ""
