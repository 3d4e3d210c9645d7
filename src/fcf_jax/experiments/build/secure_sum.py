"""Rounds summed in fixed point, as secure sums are: in which formats, and over whom.

Masks are not simulated in training. They cancel exactly, so that the server steps on the same integers with
them and without (`fcf_jax.privacy.secure_sum`).
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.cohort_sum import FLOAT_SUMS
from fcf_jax.core.records import Accumulation, Key, SentNorms
from fcf_jax.core.sampling import draw_cohort, poisson_capacity
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.build.privacy import is_sampled
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.privacy.secure_sum.accumulate import fixed_point_sums
from fcf_jax.privacy.secure_sum.cohorts import check_cohorts
from fcf_jax.privacy.secure_sum.fixed_point import FixedPoint, check_formats, choose_formats

_ROUNDED_UP = 1 + 1e-6  # so that what clients compute in float32 stays within
_LEAST_BOUND = 1e-6


def is_in_fixed_point(config: ExperimentConfig) -> bool:
    """Say whether rounds are summed in integers; under noise they are not, whose clip norms want reals."""
    mode = config.privacy.mode
    return mode == "secure_sum" or (mode == "plain" and config.parallel.deterministic)


def accumulation_of(config: ExperimentConfig, *datasets: Dataset) -> Accumulation:
    """Return how the rounds of these data sets are summed.

    Raises:
        ConfigError: for sums that could overflow.
    """
    if not is_in_fixed_point(config):
        return FLOAT_SUMS
    max_clients = _most_clients(config, num_users=datasets[0].split.train.num_users)
    return fixed_point_sums(formats_of(config, *datasets), max_clients=max_clients)


def formats_of(config: ExperimentConfig, *datasets: Dataset) -> SentNorms:
    """Choose the fixed-point format of each piece, or take the configured one.

    Raises:
        ConfigError: for sums that could overflow.
    """
    bounds = SentNorms(*np.max([_bounds(config, one) for one in datasets], axis=0).tolist())
    max_clients = _most_clients(config, num_users=datasets[0].split.train.num_users)
    bits = config.privacy.fraction_bits
    if bits is None:
        return choose_formats(bounds, max_clients=max_clients)
    formats = SentNorms(*(FixedPoint(bound, bits) for bound in bounds))
    try:
        check_formats(formats, max_clients=max_clients)
    except ValueError as error:
        raise ConfigError(f"privacy.fraction_bits: {error}") from None
    return formats


def refuse_unfit_sums(config: ExperimentConfig, *datasets: Dataset, num_builds: int = 1) -> None:
    """Refuse, before any round, sums that could overflow, and secure sums that would say too much.

    Args:
        config: whose cohorts are drawn here as its rounds will draw them.
        datasets: what it trains on.
        num_builds: seeds that it trains from.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    accumulation_of(config, *datasets)
    if config.privacy.mode != "secure_sum":
        return
    num_users = datasets[0].split.train.num_users
    try:
        for seed in range(config.federation.seed, config.federation.seed + num_builds):
            cohorts = np.asarray(_all_cohorts(config, jax.random.key(seed), num_users=num_users))
            check_cohorts(cohorts, num_users=num_users, min_cohort=config.privacy.min_cohort)
    except ValueError as error:
        raise ConfigError(
            f"privacy.min_cohort: {error}; change federation.cohort_size (unset = everybody), have fewer "
            "rounds, or lower it, which protects less"
        ) from None


def refuse_searching(config: ExperimentConfig) -> None:
    """Refuse to search by secure sums, whose formats alpha and lambda would have to move.

    Raises:
        ConfigError: for secure sums.
    """
    if config.privacy.mode == "secure_sum":
        raise ConfigError(
            "privacy.mode: fcf tune searches with plain sums, which secure sums equal but for rounding; set "
            'privacy.mode = "plain", and run what it finds with "secure_sum"'
        )


def described(config: ExperimentConfig, dataset: Dataset, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell the formats of a run, and how many numbers were cut off; nothing of a run in floating point."""
    if not is_in_fixed_point(config):
        return {}
    formats = formats_of(config, dataset)._asdict()
    clipped = sum(one.get("num_clipped_entries", 0) for one in records if one["kind"] == "round")
    fixed_point = {
        "formats": {name: number._asdict() for name, number in formats.items()},
        "num_clipped_entries": clipped,
    }
    is_secure = config.privacy.mode == "secure_sum"
    secure_sum = {"secure_sum": {"min_cohort": config.privacy.min_cohort}} if is_secure else {}
    return {"fixed_point": fixed_point, **secure_sum}


def _bounds(config: ExperimentConfig, dataset: Dataset) -> SentNorms:
    """Return the configured bounds, and for those that are unset what no client of these data exceeds."""
    privacy, (confidence, loss) = config.privacy, _largest(config, dataset)
    return SentNorms(
        upload=privacy.upload_bound,
        user_gram=privacy.gram_bound,
        confidence_sum=confidence if privacy.confidence_bound is None else privacy.confidence_bound,
        loss=loss if privacy.loss_bound is None else privacy.loss_bound,
    )


def _largest(config: ExperimentConfig, dataset: Dataset) -> tuple[float, float]:
    """Compute the largest |c - w0|, and the largest loss at x = 0, which the solution can only lower."""
    model, train = config.model, dataset.split.train
    confidence, preference = _weighed(config, train, dataset.mean_rating)
    extra = np.abs(confidence - model.unobserved_weight).max()
    loss = np.bincount(train.user_ids, confidence * preference**2).max()
    return tuple(max(float(one) * _ROUNDED_UP, _LEAST_BOUND) for one in (extra, loss))  # type: ignore[return-value]


def _weighed(
    config: ExperimentConfig, train: Interactions, mean_rating: float
) -> tuple[np.ndarray, np.ndarray]:
    strengths = np.asarray(train.strengths, np.float64)
    if config.data.feedback == "explicit":
        return np.ones_like(strengths), strengths - mean_rating
    return 1 + config.model.alpha * strengths, np.ones_like(strengths)


def _most_clients(config: ExperimentConfig, *, num_users: int) -> int:
    cohort_size = config.federation.cohort_size
    if cohort_size is None or not is_sampled(config, num_users=num_users):
        return num_users
    if config.federation.sampling == "poisson":
        return poisson_capacity(num_users=num_users, cohort_size=cohort_size)
    return cohort_size


def _all_cohorts(config: ExperimentConfig, key: Key, *, num_users: int) -> Any:
    """Draw the cohorts of all rounds, [rounds, clients], or everybody once."""
    federation = config.federation
    if not is_sampled(config, num_users=num_users):
        return np.arange(num_users)[None]
    sizes = {"num_users": num_users, "cohort_size": federation.cohort_size}
    draw = partial(draw_cohort, key, sampling=federation.sampling, **sizes)  # type: ignore[arg-type]
    return jax.jit(partial(jax.lax.map, draw))(jnp.arange(max(federation.num_rounds, 1)))
