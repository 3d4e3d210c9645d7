"""Epsilon of several runs on the same users, each of them adaptive to the results of those before it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fcf_jax.privacy.accounting import Participation, accountant_used, load_dp_accounting, rdp_events

_FINEST_INTERVAL = 1e-4  # of discretised privacy losses
_MAX_LOSSES = 1.5e5
_LEAST_NOISE = 0.01  # below it epsilon is in the thousands, and only Renyi divergences bound it


class Release(NamedTuple):
    """What a run releases: rounds with noise, and item counts if the participation has any.

    Attributes:
        participation: who takes part in a round.
        noise_multiplier: sigma, in clip norms.
        num_rounds: rounds that may be released.
    """

    participation: Participation
    noise_multiplier: float
    num_rounds: int


def composed_epsilon(releases: Sequence[Release], *, delta: float) -> float:
    """Compute an upper bound on the epsilon of all releases together, for a user that is in all of them.

    Args:
        releases: of all runs; the number of users may differ.
        delta: in (0, 1), of all together.

    Returns:
        0 without releases; inf where one has no noise.

    Raises:
        ValueError: for releases whose epsilons compare different neighbors.
        ImportError: without dp-accounting.

    References:
        As for `fcf_jax.privacy.accounting.epsilon`; dp-accounting's accountants compose them.
    """
    if not releases:
        return 0.0
    if len({one.participation.adjacency for one in releases}) > 1:
        raise ValueError(
            "expected runs whose epsilon compares the same neighbors, got cohorts of fixed size (replace a "
            'user) beside others (add or remove one); set federation.sampling = "poisson"'
        )
    noises = [noise for one in releases for noise in _noises(one)]
    if min(noises, default=math.inf) <= 0:
        return math.inf
    if all(one.participation.sampling == "everybody" for one in releases):  # one Gaussian mechanism, exactly
        precision = sum(_precision(one) for one in releases)
        return float(load_dp_accounting().get_epsilon_gaussian(precision**-0.5, delta)) if precision else 0.0
    found = _by_accountant(releases, delta, "rdp")
    used = {accountant_used(one.participation) for one in releases}
    if used == {"pld"} and min(noises) >= _LEAST_NOISE and math.isfinite(found):
        found = min(found, _by_accountant(releases, delta, "pld", widest=found))
    return found


def _noises(release: Release) -> list[float]:
    counts = release.participation.release_noise_multiplier
    return [release.noise_multiplier] * (release.num_rounds > 0) + ([] if counts is None else [counts])


def _precision(release: Release) -> float:
    counts = release.participation.release_noise_multiplier
    of_counts = 0.0 if counts is None else counts**-2
    return release.num_rounds * release.noise_multiplier**-2 + of_counts


def _by_accountant(releases: Sequence[Release], delta: float, name: str, *, widest: float = 0.0) -> float:
    dp, events = (
        load_dp_accounting(),
        [rdp_events(one.participation, one.noise_multiplier) for one in releases],
    )
    relation = events[0][0]
    if name == "rdp":
        accountant = dp.rdp.RdpAccountant(None, relation)
    else:
        doublings = math.ceil(math.log2(max(widest / _MAX_LOSSES / _FINEST_INTERVAL, 1.0)))
        accountant = dp.pld.PLDAccountant(relation, _FINEST_INTERVAL * 2**doublings)
    for one, (_, of_round, of_counts) in zip(releases, events, strict=True):
        if one.num_rounds:
            accountant.compose(of_round, one.num_rounds)
        if one.participation.release_noise_multiplier is not None:
            accountant.compose(of_counts)
    return float(accountant.get_epsilon(delta))
