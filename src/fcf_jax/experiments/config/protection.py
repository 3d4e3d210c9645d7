"""Differential privacy of a run, resolved: who takes part, the noise and the clip norms."""

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np
from jax import numpy as jnp
from jaxtyping import Float

from fcf_jax.channel import Link, Pieces, adaptive_clip_and_noise, clip_and_noise
from fcf_jax.experiments.config.schema import ExperimentConfig, FederationConfig, PrivacyConfig
from fcf_jax.privacy import accounting
from fcf_jax.privacy.accounting import Participation, calibrated_noise_multiplier

_calibrated = functools.cache(calibrated_noise_multiplier)  # takes seconds


class Protection(NamedTuple):
    """Differential privacy of a run.

    Attributes:
        privacy: section of the configuration.
        participation: who takes part in a round, for the accountant.
        expected_cohort: clients in a round, which the server divides by.
        delta: of the guarantee.
        num_rounds: rounds of the run.
        noise_multiplier: sigma, in clip norms.
        clip_norms: of each piece that clients send, None for the others.
    """

    privacy: PrivacyConfig
    participation: Participation
    expected_cohort: int
    delta: float
    num_rounds: int
    noise_multiplier: float
    clip_norms: Pieces[float | None]

    @property
    def epsilon(self) -> float | None:
        """Epsilon of all rounds; None where it is infinite."""
        spent = accounting.epsilon(
            self.participation,
            noise_multiplier=self.noise_multiplier,
            num_rounds=self.num_rounds,
            delta=self.delta,
            accountant=self.privacy.accountant,
        )
        return spent if math.isfinite(spent) else None

    def release_noise(self, share: float) -> float:
        """Return the noise multiplier of a release before the first round, by its share of the budget.

        Raises:
            ValueError: where the budget pays for none.
        """
        if (noise := self.participation.count_noise_multiplier) is None:
            raise ValueError(
                "expected item counts that the budget pays for, got no share; set privacy.head_items"
            )
        return noise / math.sqrt(share) if self.privacy.starts_from_moments else noise

    def link(self, item_weights: Float[np.ndarray, "items"] | None = None) -> Link:
        """Build the link that clips the clients and adds the noise.

        Noise that the clients add in shares (`distributed_noise`) has the same distribution as central noise
        on the sum, and is simulated as such.

        Args:
            item_weights: made of released counts; None: 1 each.
        """
        make = (
            partial(adaptive_clip_and_noise, quantile=self.privacy.clip_quantile)
            if self.privacy.clipping == "adaptive"
            else partial(clip_and_noise, is_local=self.privacy.spec.noise_on == "upload")
        )
        return make(
            clip_norms=self.clip_norms,
            noise_multiplier=self.noise_multiplier,
            expected_cohort_size=self.expected_cohort,
            item_weights=None if item_weights is None else jnp.asarray(item_weights),
        )


def protection_of(config: ExperimentConfig, *, num_users: int) -> Protection | None:
    """Resolve the differential privacy of a run; None without noise.

    Raises:
        ValueError: for sampling that cannot be accounted for, or numbers that no noise can keep.
        ImportError: without dp-accounting.
    """
    privacy, federation = config.privacy, config.federation
    if not privacy.has_noise:
        return None
    return Protection(
        privacy=privacy,
        participation=participation_of(privacy, federation, num_users=num_users),
        expected_cohort=federation.cohort_among(num_users) or num_users,
        delta=delta_of(privacy, num_users),
        num_rounds=federation.num_rounds,
        noise_multiplier=noise_multiplier_of(privacy, federation, num_users=num_users),
        clip_norms=_clip_norms(privacy, config.sent_pieces),
    )


def participation_of(
    privacy: PrivacyConfig, federation: FederationConfig, *, num_users: int
) -> Participation:
    """Describe to the accountant who takes part in a round.

    With noise on each upload, a client is protected by its own noise and gains nothing from sampling.

    Raises:
        ValueError: for sampling that cannot be accounted for.
    """
    cohort_size = None if privacy.spec.noise_on == "upload" else federation.cohort_size
    who = accounting.participation_of(federation.sampling, num_users=num_users, cohort_size=cohort_size)
    return with_item_counts(privacy, who)


def noise_multiplier_of(privacy: PrivacyConfig, federation: FederationConfig, *, num_users: int) -> float:
    """Return the configured sigma, otherwise the least that keeps epsilon and delta over all rounds.

    Second moments are released in place of rounds: sigma is then that of all releases as one mechanism.

    Calibrated once for each set of numbers in a process.

    Raises:
        ValueError: for sampling that cannot be accounted for, or numbers that no noise can keep.
        ImportError: without dp-accounting.
    """
    participation = participation_of(privacy, federation, num_users=num_users)
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    if privacy.starts_from_moments:
        return _alone(privacy, participation)
    return _calibrated(
        participation,
        epsilon=privacy.epsilon,
        delta=delta_of(privacy, num_users),
        num_rounds=max(federation.num_rounds, 1),
        accountant=privacy.accountant,
    )


def with_item_counts(privacy: PrivacyConfig, participation: Participation) -> Participation:
    """Add the noise of what is released besides the rounds, where anything is: its share of the budget.

    Item counts have `privacy.count_share`, a federated evaluation `privacy.evaluation_share`. Second moments,
    with their counts, have all the rest: they are Gaussian mechanisms on everybody, whose 1 / sigma^2 add up.
    """
    if not privacy.needs_item_counts and privacy.evaluation_share == 0:
        return participation
    alone = _alone(privacy, participation)
    if privacy.starts_from_moments and privacy.noise_multiplier is not None:
        alone = privacy.noise_multiplier

    def noise_of(share: float) -> float:
        return alone / math.sqrt(share)

    of_counts = 1 - privacy.evaluation_share if privacy.starts_from_moments else privacy.count_share
    return participation._replace(
        count_noise_multiplier=noise_of(of_counts) if privacy.needs_item_counts else None,
        evaluation_noise_multiplier=noise_of(privacy.evaluation_share) if privacy.evaluation_share else None,
    )


def _alone(privacy: PrivacyConfig, participation: Participation) -> float:
    """Compute sigma of a single release that spends the target's budget."""
    delta = delta_of(privacy, participation.num_users)
    return participation.sensitivity * accounting.single_noise_multiplier(privacy.epsilon, delta=delta)


def delta_of(privacy: PrivacyConfig, num_users: int) -> float:
    """Return the configured delta, otherwise 1 / (10 users)."""
    return 1 / (10 * num_users) if privacy.delta is None else privacy.delta


def _clip_norms(privacy: PrivacyConfig, sent_pieces: tuple[str, ...]) -> Pieces[float | None]:
    return Pieces(
        upload=privacy.clip_norm,
        user_gram=privacy.gram_clip_norm if "user_gram" in sent_pieces else None,
        confidence_sum=privacy.confidence_clip_norm if "confidence_sum" in sent_pieces else None,
        loss=None,
    )
