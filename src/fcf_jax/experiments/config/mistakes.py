"""Mistakes in a configuration that take a computation to find.

Each function returns a description of the mistake, or "" if there is none.
"""

import difflib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.channel.fixed_point import FixedPoint, Formats, check_formats, choose_formats
from fcf_jax.channel.noise import largest_noise_multiplier
from fcf_jax.core.records import Pieces
from fcf_jax.core.sampling import draw_cohort
from fcf_jax.data.known_sets import known_set
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.config.protection import noise_multiplier_of
from fcf_jax.experiments.config.schema import ExperimentConfig, FederationConfig, PrivacyConfig
from fcf_jax.privacy.secure_sum.cohorts import check_cohorts, check_survivors
from fcf_jax.privacy.secure_sum.combinations import check_combinations


class Facts(NamedTuple):
    """Facts about the training data that checks need.

    Attributes:
        num_users: users of the training set.
        num_items: items of the training set.
        num_interactions: interactions of the training set.
        bounds: of the numbers of each piece that clients send; None if rounds are summed in floating point.
        num_replicates: replicates that are trained, with seeds from `federation.seed` on.
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


def unknown_set(name: str | None) -> str:
    """Describe a data set whose name is unknown."""
    try:
        if name is not None:
            known_set(name)
    except ValueError as error:
        return str(error)
    return ""


def unknown_metric(metric: str | None, *, k: Sequence[int], has_negatives: bool) -> str:
    """Describe a metric that is not computed, and name the most similar one that is."""
    names = metric_names(k, has_negatives=has_negatives)
    if metric is None or metric in names:
        return ""
    nearest = difflib.get_close_matches(metric, names, n=1, cutoff=0.0)[0]
    return f"unknown metric {metric}; did you mean {nearest}?"


def unaccountable_noise(privacy: PrivacyConfig, federation: FederationConfig, *, num_users: int) -> str:
    """Describe why noise cannot be accounted for or calibrated."""
    try:
        if privacy.has_noise:
            noise_multiplier_of(privacy, federation, num_users=num_users)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def undrawable_noise(
    privacy: PrivacyConfig, federation: FederationConfig, *, num_users: int, num_numbers: int
) -> str:
    """Describe noise that is too large for the grid of the sums (`fcf_jax.channel.noise`)."""
    if not privacy.has_noise:
        return ""
    noise = noise_multiplier_of(privacy, federation, num_users=num_users)
    largest = largest_noise_multiplier(num_numbers)
    if noise <= largest:
        return ""
    return f"expected at most {largest:.4g} for {num_numbers} numbers in a sum, got {noise:.4g}"


def small_adaptive_cohort(privacy: PrivacyConfig, federation: FederationConfig, *, num_users: int) -> str:
    """Describe a cohort with too few clients to adapt clipping: their noised count would be too noisy."""
    if not privacy.has_noise or privacy.clipping == "static":
        return ""
    cohort_size = federation.cohort_size or num_users
    least = 10 * noise_multiplier_of(privacy, federation, num_users=num_users)
    if cohort_size > least:
        return ""
    return f"adaptive needs a cohort of more than {least:.0f} clients, got {cohort_size}"


def overflowing_sum(fraction_bits: int | None, bounds: Pieces[float] | None, *, max_clients: int) -> str:
    """Describe a sum in fixed point that could overflow."""
    if bounds is None:
        return ""
    try:
        check_formats(formats_of(bounds, fraction_bits, max_clients=max_clients), max_clients=max_clients)
    except ValueError as error:
        return str(error)
    return ""


def revealing_cohorts(privacy: PrivacyConfig, federation: FederationConfig, facts: Facts) -> str:
    """Describe cohorts whose secure sums would reveal too much: too small, or nearly the same."""
    if not privacy.spec.sums_securely:
        return ""
    try:
        for seed in range(federation.seed, federation.seed + facts.num_replicates):
            cohorts = cohorts_drawn(federation, seed=seed, num_users=facts.num_users)
            check_cohorts(cohorts, num_users=facts.num_users, min_cohort=privacy.min_cohort)
    except ValueError as error:
        return str(error)
    return ""


def similar_survivors(config: ExperimentConfig, facts: Facts) -> str:
    """Describe dropouts after which secure sums would differ by too few clients, or not be opened."""
    federation, privacy, dropout = config.federation, config.privacy, config.devices.dropout
    if not (privacy.spec.sums_securely and dropout and federation.num_rounds > 1):
        return ""
    try:
        for seed in range(federation.seed, federation.seed + facts.num_replicates):
            check_survivors(
                cohorts_drawn(federation, seed=seed, num_users=facts.num_users),
                num_users=facts.num_users,
                min_cohort=privacy.min_cohort,
                dropout=dropout,
            )
    except ValueError as error:
        return str(error)
    return ""


def solvable_confidences(config: ExperimentConfig, facts: Facts) -> str:
    """Describe secure sums of confidences that can together be solved for too few clients."""
    if config.sent_confidences != "each_round":
        return ""
    return _solvable(config, facts, min_clients=config.privacy.min_cohort)


def solvable_uploads(config: ExperimentConfig, facts: Facts) -> str:
    """Describe secure sums of uploads that could together be solved for too few clients, if Y stood still."""
    return _solvable(config, facts, min_clients=config.privacy.min_combination)


def _solvable(config: ExperimentConfig, facts: Facts, *, min_clients: float) -> str:
    federation, dropout = config.federation, config.devices.dropout
    is_whole = federation.cohort_among(facts.num_users) is None and not dropout
    if not config.privacy.spec.sums_securely or is_whole:
        return ""
    try:
        for seed in range(federation.seed, federation.seed + facts.num_replicates):
            cohorts = cohorts_drawn(federation, seed=seed, num_users=facts.num_users)
            if dropout:
                cohorts = _survivors(cohorts, federation.num_rounds, dropout, num_users=facts.num_users)
            check_combinations(cohorts, num_users=facts.num_users, min_clients=min_clients)
    except ValueError as error:
        return str(error)
    return ""


def _survivors(cohorts: np.ndarray, num_rounds: int, dropout: float, *, num_users: int) -> np.ndarray:
    """Draw who comes back of each round's cohort; `num_users` stands for the others."""
    cohorts = np.broadcast_to(cohorts, (max(num_rounds, len(cohorts)), cohorts.shape[1]))
    return np.where(np.random.default_rng(0).random(cohorts.shape) < dropout, num_users, cohorts)


def formats_of(bounds: Pieces[float], fraction_bits: int | None, *, max_clients: int) -> Formats:
    """Return the fixed-point format of each piece: with the configured bits, or as many as sums allow."""
    if fraction_bits is None:
        return choose_formats(bounds, max_clients=max_clients)
    return Pieces(*(FixedPoint(bound, fraction_bits) for bound in bounds))


def cohorts_drawn(federation: FederationConfig, *, seed: int, num_users: int) -> np.ndarray:
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
    return np.asarray(jax.jit(partial(jax.lax.map, draw))(rounds).client_ids)
