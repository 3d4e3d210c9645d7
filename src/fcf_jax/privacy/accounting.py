r"""What a run costs: epsilon of its rounds, for the data of one user.

A round is one Gaussian mechanism (`fcf_jax.privacy.mechanism`) on whoever takes part. Two runs are told
apart by one user (the adjacency), and how depends on how users are drawn:

    everybody, poisson:  the user is there or not; the clipped sums differ by C at most
    fixed_size:          the user is replaced, as the cohort stays full; they differ by 2 C at most

The noise multiplier sigma is always noise over C, the clip norm. The figures come from dp-accounting,
whose RDP accountant takes noise over *sensitivity* where users are replaced, so sigma / 2 goes there.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

ParticipationSampling = Literal["everybody", "poisson", "fixed_size"]
Adjacency = Literal["add or remove one user", "replace one user"]
Accountant = Literal["pld", "rdp"]
_OVERFLOW = 2e-14  # probability, a round, that a Poisson sample exceeds `core.cohort.poisson_capacity`
_FINEST_INTERVAL = 1e-4  # of discretised privacy losses, as dp-accounting has it
_MOST_LOSSES = 1.5e5  # of one round, a second; where noise is little that is still fine enough
LARGEST_BY_PLD = 1e4  # beyond, and below the least noise, RDP has to do: its bound holds as well
_LEAST_EXACT = 1e-4  # noise of all rounds, below which the closed form cancels; epsilon is in the millions
_NO_NOISE = 1e-9  # less is called none
LEAST_NOISE = 0.01  # where looking for less noise ends: epsilon is in the thousands there
_REMEDY = 'set federation.sampling = "poisson" or "independent", or leave out federation.cohort_size'


class Participation(NamedTuple):
    """Who takes part in a round, and what everybody releases once before the first."""

    sampling: ParticipationSampling
    num_users: int
    cohort_size: int  # expected, of a Poisson sample
    count_noise_multiplier: float | None = None  # of item counts; None: no such release

    @property
    def sampling_probability(self) -> float:
        """Share of the users that take part, 1 for everybody."""
        return 1.0 if self.sampling == "everybody" else self.cohort_size / self.num_users

    @property
    def adjacency(self) -> Adjacency:
        """How the data of two runs differ that epsilon compares."""
        return "replace one user" if self.sampling == "fixed_size" else "add or remove one user"

    @property
    def sensitivity(self) -> float:
        """How far such data move the clipped sums, in clip norms."""
        return 2.0 if self.sampling == "fixed_size" else 1.0


def participation_of(sampling: str, *, num_users: int, cohort_size: int | None) -> Participation:
    """Say who takes part in the rounds of a federation.

    Args:
        sampling: of `fcf_jax.core.sampling`; "independent" is what accounting calls fixed_size.
        num_users: N.
        cohort_size: expected; None or N: everybody, however drawn.

    Raises:
        ValueError: for cohorts whose sampling has no event to account for it, such as "shuffled", or that
            do not fit the users.
    """
    if cohort_size is None or cohort_size == num_users:
        return checked(Participation("everybody", num_users, num_users))
    names: dict[str, ParticipationSampling] = {"poisson": "poisson", "independent": "fixed_size"}
    if sampling not in names:
        raise ValueError(f"expected sampling that can be accounted for, got {sampling!r}; {_REMEDY}")
    return checked(Participation(names[sampling], num_users, cohort_size))


def accountant_used(participation: Participation, accountant: Accountant = "pld") -> Accountant:
    """Say which accountant will compute epsilon: dp-accounting has no PLD of a cohort of fixed size.

    Raises:
        ValueError: for another accountant.
    """
    if accountant not in get_args(Accountant):
        raise ValueError(f"expected accountant to be one of {get_args(Accountant)}, got {accountant!r}")
    return "rdp" if participation.sampling == "fixed_size" else accountant


def epsilon(
    participation: Participation,
    *,
    noise_multiplier: float,
    num_rounds: int,
    delta: float,
    accountant: Accountant = "pld",
) -> float:
    """Compute the epsilon that this many rounds cost together, at delta, an upper bound.

    Args:
        participation: decides about the adjacency.
        noise_multiplier: sigma, in clip norms, at least 0.
        num_rounds: T, every one that was begun.
        delta: in (0, 1), below 1 / N to mean something.
        accountant: "pld", which is tighter, or "rdp"; see `accountant_used`.

    Returns:
        At least 0; inf without noise; without rounds that of the item counts, or 0.

    Raises:
        ValueError: for figures out of range.
        ImportError: without dp-accounting.

    References:
        Balle & Wang, ICML 2018 (everybody, exactly); Doroshenko et al., PoPETs 2022 (pld); Mironov, Talwar &
        Zhang 2019 (rdp of Poisson samples); Wang, Balle & Kasiviswanathan, AISTATS 2019, theorem 27 (rdp of
        cohorts of fixed size).
    """
    after = epsilon_by_round(
        participation, noise_multiplier=noise_multiplier, delta=delta, accountant=accountant
    )
    return after(num_rounds)


def single_noise_multiplier(epsilon: float, *, delta: float) -> float:
    """Compute the noise, over sensitivity, of one Gaussian release that costs epsilon by itself, exactly.

    Args:
        epsilon: above 0.
        delta: in (0, 1).
    """
    check_figures(delta=delta)
    return library().get_sigma_gaussian(epsilon, delta)


def epsilon_by_round(
    participation: Participation,
    *,
    noise_multiplier: float,
    delta: float,
    accountant: Accountant = "pld",
) -> Callable[[int], float]:
    """Return the running epsilon of a run, a function of the rounds that it has begun.

    What one round costs is computed once, so that every call is quick; arguments as of `epsilon`. Rounds that
    a resumed run draws anew count again.

    Example:
        spent = epsilon_by_round(Participation("poisson", 6040, 100), noise_multiplier=1.0, delta=1e-5)
        spent(200), spent(400)

    Raises:
        ValueError: for figures out of range.
        ImportError: without dp-accounting.
    """
    used = accountant_used(checked(participation), accountant)
    check_figures(noise_multiplier=noise_multiplier, delta=delta)
    spent = _running(participation, used, noise_multiplier)

    @functools.cache
    def after(num_rounds: int) -> float:
        if num_rounds < 0:
            raise ValueError(f"expected num_rounds of at least 0, got {num_rounds}")
        left = delta_left(participation, delta, num_rounds)
        if num_rounds == 0:
            return _of_counts(participation, delta)
        return float(spent(num_rounds, left)) if left > 0 else math.inf

    return after


def _running(
    participation: Participation, used: Accountant, noise_multiplier: float
) -> Callable[[int, float], float]:
    """Return epsilon, a function of rounds, at least 1, and delta."""
    if min(noise_multiplier, _noise_of_counts(participation)) < _NO_NOISE:
        return _without_noise
    if used == "pld" and participation.sampling == "everybody":
        return _by_closed_form(participation, noise_multiplier)
    by_rdp = spent_by_rdp(participation, noise_multiplier)
    if used == "rdp":
        return by_rdp
    by_pld = spent_by_pld(participation, noise_multiplier, _MOST_LOSSES)
    # both are upper bounds, and hundreds of thousands of rounds come out too dear on the grid of PLD
    return lambda num_rounds, delta: min(by_pld(num_rounds, delta), by_rdp(num_rounds, delta))


def _without_noise(num_rounds: int, delta: float) -> float:
    del num_rounds, delta
    return math.inf


def _by_closed_form(participation: Participation, noise_multiplier: float) -> Callable[[int, float], float]:
    """Everybody takes part: T rounds are one Gaussian mechanism of sigma / sqrt T, known exactly.

    With item counts its noise is (T / sigma^2 + 1 / sigma_c^2)^(-1/2).
    """
    by_rdp = spent_by_rdp(participation, noise_multiplier)

    def spent(num_rounds: int, delta: float) -> float:
        precision = num_rounds / noise_multiplier**2 + 1 / _noise_of_counts(participation) ** 2
        noise = 1 / math.sqrt(precision)
        if noise < _LEAST_EXACT:
            return by_rdp(num_rounds, delta)
        return library().get_epsilon_gaussian(noise, delta)

    return spent


def spent_by_rdp(participation: Participation, noise_multiplier: float) -> Callable[[int, float], float]:
    """Return epsilon, a function of rounds, at least 1, and delta, by Renyi divergences."""
    dp = library()
    with quiet():
        accountant = fresh_accountant(participation, "rdp").compose(
            round_event(participation, noise_multiplier)
        )

    of_counts = fresh_accountant(participation, "rdp")
    if participation.count_noise_multiplier is not None:
        of_counts.compose(count_event(participation))

    def spent(num_rounds: int, delta: float) -> float:
        rdp = num_rounds * accountant.rdp + of_counts.rdp
        return dp.rdp.compute_epsilon(accountant.orders, rdp, delta)[0]

    return spent


def spent_by_pld(
    participation: Participation, noise_multiplier: float, most_losses: float
) -> Callable[[int, float], float]:
    """Return the same by privacy loss distributions, of so many losses at most for a round."""
    estimate = spent_by_rdp(participation, noise_multiplier)
    gaussian = library().pld.privacy_loss_distribution.from_gaussian_mechanism
    counts = participation.count_noise_multiplier

    @functools.cache
    def one_round(interval: float) -> Any:
        return gaussian(
            noise_multiplier,
            sampling_prob=participation.sampling_probability,
            value_discretization_interval=interval,
        )

    def spent(num_rounds: int, delta: float) -> float:
        bound = estimate(num_rounds, delta)
        least = min(noise_multiplier, _noise_of_counts(participation))
        if bound > LARGEST_BY_PLD or least < LEAST_NOISE:
            return bound
        interval = loss_interval(least, bound, most_losses)
        losses = one_round(interval).self_compose(num_rounds)
        if counts is not None:
            losses = losses.compose(gaussian(counts, value_discretization_interval=interval))
        return losses.get_epsilon_for_delta(delta)

    return spent


def loss_interval(noise_multiplier: float, bound: float, most_losses: float) -> float:
    """Choose how finely losses are discretised: 1e-4, doubled until there are not too many.

    Args:
        noise_multiplier: sigma, which decides how far the losses of one round reach.
        bound: on epsilon, likewise of all rounds.
        most_losses: to hold; from a noise multiplier of 1 on there are fewer.
    """
    widest = (0.5 / noise_multiplier + 14) / noise_multiplier  # with the tails that dp-accounting keeps
    needed = max(bound, widest) / most_losses / _FINEST_INTERVAL
    return _FINEST_INTERVAL * 2 ** max(0, math.ceil(math.log2(needed)))


def fresh_accountant(participation: Participation, used: Accountant, interval: float = 1e-4) -> Any:
    """Begin an accountant of dp-accounting, for the adjacency that goes with the sampling."""
    dp = library()
    relations = dp.NeighboringRelation
    relation = relations.REPLACE_ONE if participation.sensitivity == 2 else relations.ADD_OR_REMOVE_ONE
    if used == "pld":
        return dp.pld.PLDAccountant(relation, value_discretization_interval=interval)
    return dp.rdp.RdpAccountant(neighboring_relation=relation)


def round_event(participation: Participation, noise_multiplier: float) -> Any:
    """Describe one round as an event of dp-accounting."""
    dp = library()
    # RDP of sampling without replacement takes noise over sensitivity, which its event does not say
    gaussian = dp.GaussianDpEvent(noise_multiplier / participation.sensitivity)
    if participation.sampling == "everybody":
        return gaussian
    if participation.sampling == "poisson":
        return dp.PoissonSampledDpEvent(participation.sampling_probability, gaussian)
    return dp.SampledWithoutReplacementDpEvent(participation.num_users, participation.cohort_size, gaussian)


def count_event(participation: Participation) -> Any:
    """Describe the release of item counts, of everybody, as an event of dp-accounting."""
    return library().GaussianDpEvent(_noise_of_counts(participation) / participation.sensitivity)


def _noise_of_counts(participation: Participation) -> float:
    noise = participation.count_noise_multiplier
    return math.inf if noise is None else noise


def _of_counts(participation: Participation, delta: float) -> float:
    """Compute what item counts cost by themselves, exactly."""
    noise = _noise_of_counts(participation) / participation.sensitivity
    if noise == math.inf:
        return 0.0
    return library().get_epsilon_gaussian(noise, delta) if noise >= _LEAST_EXACT else math.inf


def delta_left(participation: Participation, delta: float, num_rounds: int) -> float:
    """Put aside what may happen if a Poisson sample overflows, which nobody's own data decides about."""
    return delta - num_rounds * _OVERFLOW if participation.sampling == "poisson" else delta


def checked(participation: Participation) -> Participation:
    """Refuse users and cohorts that do not fit each other."""
    sampling, num_users, cohort_size = participation[:3]
    if sampling not in get_args(ParticipationSampling):
        known = get_args(ParticipationSampling)
        raise ValueError(f"expected sampling to be one of {known}, got {sampling!r}; {_REMEDY}")
    if not 1 <= cohort_size <= num_users:
        raise ValueError(f"expected cohort_size in [1, {num_users}], the users, got {cohort_size}")
    if sampling == "everybody" and cohort_size != num_users:
        raise ValueError(
            f'expected a cohort of all {num_users} users, got {cohort_size}; use "poisson" or "fixed_size"'
        )
    return participation


def check_figures(*, delta: float, noise_multiplier: float = 1.0) -> None:
    """Refuse figures out of range."""
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}; well below 1 / users means something")
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"expected noise_multiplier of at least 0 and finite, got {noise_multiplier}")


@functools.cache
def library() -> ModuleType:
    """Import dp-accounting, or tell where it is to be had."""
    try:
        import dp_accounting
    except ImportError:
        raise ImportError(
            "privacy accounting needs dp-accounting, which is not installed; pip install 'fcf_jax[dp]'"
        ) from None
    return dp_accounting


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep dp-accounting from logging that a series of RDP orders near 1 did not converge.

    It leaves those orders out, which can only raise epsilon; they matter where it is in the hundreds.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
