"""Epsilon of several runs together: whoever sees all their models learns more than from one."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fcf_jax.privacy.accounting import Adjacency, Participation, epsilon, rdp_events


class Release(NamedTuple):
    """What a run releases.

    Attributes:
        participation: who takes part in a round.
        noise_multiplier: sigma, in clip norms.
        num_rounds: of the run.
    """

    participation: Participation
    noise_multiplier: float
    num_rounds: int


def composed_epsilon(releases: Sequence[Release], *, delta: float) -> float:
    """Compute an upper bound on the epsilon of all releases about the same users, each with its own noise.

    Exact if everybody takes part in every round; otherwise by Renyi divergences. Releases with different
    adjacencies are bounded one kind at a time and added up, at a delta of which each kind has its share.

    Args:
        releases: the runs.
        delta: of all of them together, in (0, 1).

    Returns:
        At least 0; inf without noise.

    Raises:
        ValueError: for arguments out of range.
        ImportError: without dp-accounting.

    References:
        Balle & Wang, ICML 2018; Mironov, CSF 2017, proposition 1 (RDP adds up).
    """
    kinds: dict[Adjacency, list[Release]] = {}
    for one in releases:
        kinds.setdefault(one.participation.adjacency, []).append(one)
    return sum(_of_one_kind(same, delta=delta / len(kinds)) for same in kinds.values())


def _of_one_kind(releases: Sequence[Release], *, delta: float) -> float:
    who = releases[0].participation
    precision = sum(one.num_rounds / one.noise_multiplier**2 for one in releases if one.num_rounds)
    is_plain = all(
        one.participation.sampling == "everybody" and one.participation.count_noise_multiplier is None
        for one in releases
    )
    if len(releases) == 1 or is_plain:  # rounds with everybody are one mechanism together
        first = releases[0]
        noise, num_rounds = (
            (first.noise_multiplier, first.num_rounds)
            if len(releases) == 1
            else (1 / math.sqrt(precision) if precision else 0.0, int(precision > 0))
        )
        return epsilon(who, noise_multiplier=noise, num_rounds=num_rounds, delta=delta)
    return _by_rdp(releases, delta=delta)


def _by_rdp(releases: Sequence[Release], *, delta: float) -> float:
    import dp_accounting.rdp

    relation, *_ = rdp_events(releases[0].participation, releases[0].noise_multiplier)
    accountant = dp_accounting.rdp.RdpAccountant(None, relation)
    for who, noise_multiplier, num_rounds in releases:
        _, of_round, of_counts = rdp_events(who, noise_multiplier)
        accountant.compose(of_round, num_rounds)
        accountant.compose(of_counts)
    return accountant.get_epsilon(delta)
