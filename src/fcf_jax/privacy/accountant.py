r"""What a run costs: epsilon of its rounds, for the data of one user, and the noise that a target asks for.

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
_SEARCHED_LOSSES = 4e4  # while calibrating, which asks a dozen times
_LARGEST_BY_PLD = 1e4  # beyond, and below the least noise, RDP has to do: its bound holds as well
_LEAST_EXACT = 1e-4  # noise of all rounds, below which the closed form cancels; epsilon is in the millions
_NO_NOISE = 1e-9  # less is called none
_LEAST_NOISE = 0.01  # where looking for less noise ends: epsilon is in the thousands there
_STEP = 0.6
_TOLERANCE = 4e-4  # of calibration, which may stop two of them above the least sufficient noise
_REMEDY = 'set federation.sampling = "poisson" or "independent", or leave out federation.cohort_size'


class Participation(NamedTuple):
    """Who takes part in a round."""

    sampling: ParticipationSampling
    num_users: int
    cohort_size: int  # expected, of a Poisson sample

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
        sampling: of `fcf_jax.core.cohort`; "independent" is what accounting calls fixed_size.
        num_users: N.
        cohort_size: expected; None or N: everybody, however drawn.

    Raises:
        ValueError: for cohorts whose sampling has no event to account for it, such as "shuffled", or that
            do not fit the users.
    """
    if cohort_size is None or cohort_size == num_users:
        return _checked(Participation("everybody", num_users, num_users))
    names: dict[str, ParticipationSampling] = {"poisson": "poisson", "independent": "fixed_size"}
    if sampling not in names:
        raise ValueError(f"expected sampling that can be accounted for, got {sampling!r}; {_REMEDY}")
    return _checked(Participation(names[sampling], num_users, cohort_size))


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
        At least 0; inf without noise, 0 without rounds.

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
    used = accountant_used(_checked(participation), accountant)
    _check(noise_multiplier=noise_multiplier, delta=delta)
    spent = _running(participation, used, noise_multiplier)

    @functools.cache
    def after(num_rounds: int) -> float:
        if num_rounds < 0:
            raise ValueError(f"expected num_rounds of at least 0, got {num_rounds}")
        left = _delta_left(participation, delta, num_rounds)
        return 0.0 if num_rounds == 0 else float(spent(num_rounds, left)) if left > 0 else math.inf

    return after


def calibrated_noise_multiplier(
    participation: Participation,
    *,
    epsilon: float,
    delta: float,
    num_rounds: int,
    accountant: Accountant = "pld",
) -> float:
    """Compute the least noise multiplier, to 1e-3 of it, whose epsilon does not exceed the target.

    Args:
        participation: decides about the adjacency.
        epsilon: the target, above 0.
        delta: in (0, 1).
        num_rounds: T.
        accountant: as of the function `epsilon`, which holds the result to its word.

    Returns:
        sigma, in clip norms: 0 without rounds, otherwise not looked for below .01.

    Raises:
        ValueError: for figures out of range.
        ImportError: without dp-accounting.
    """
    used = accountant_used(_checked(participation), accountant)
    _check(delta=delta)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"expected epsilon above 0 and finite, got {epsilon}")
    if num_rounds < 0 or _delta_left(participation, delta, num_rounds) <= 0:
        raise ValueError(f"expected num_rounds that delta = {delta} allows for, got {num_rounds}")
    if num_rounds == 0:
        return 0.0

    noise = _searched(participation, used, epsilon, delta, num_rounds)
    run: Any = {"num_rounds": num_rounds, "delta": delta, "accountant": used}
    while _epsilon(participation, noise_multiplier=noise, **run) > epsilon:  # by a rounding error
        noise *= 1 + _TOLERANCE / 4
    return noise


_epsilon = epsilon  # also where an argument has its name


def _running(
    participation: Participation, used: Accountant, noise_multiplier: float
) -> Callable[[int, float], float]:
    """Return epsilon, a function of rounds, at least 1, and delta."""
    if noise_multiplier < _NO_NOISE:
        return _without_noise
    if used == "pld" and participation.sampling == "everybody":
        return _by_closed_form(participation, noise_multiplier)
    by_rdp = _by_rdp(participation, noise_multiplier)
    if used == "rdp":
        return by_rdp
    by_pld = _by_pld(participation, noise_multiplier, _MOST_LOSSES)
    # both are upper bounds, and hundreds of thousands of rounds come out too dear on the grid of PLD
    return lambda num_rounds, delta: min(by_pld(num_rounds, delta), by_rdp(num_rounds, delta))


def _without_noise(num_rounds: int, delta: float) -> float:
    del num_rounds, delta
    return math.inf


def _by_closed_form(participation: Participation, noise_multiplier: float) -> Callable[[int, float], float]:
    """Everybody takes part: T rounds are one Gaussian mechanism of sigma / sqrt T, known exactly."""
    by_rdp = _by_rdp(participation, noise_multiplier)

    def spent(num_rounds: int, delta: float) -> float:
        noise = noise_multiplier / math.sqrt(num_rounds)
        if noise < _LEAST_EXACT:
            return by_rdp(num_rounds, delta)
        return _library().get_epsilon_gaussian(noise, delta)

    return spent


def _by_rdp(participation: Participation, noise_multiplier: float) -> Callable[[int, float], float]:
    dp = _library()
    with _quiet():
        accountant = _fresh_accountant(participation, "rdp").compose(_round(participation, noise_multiplier))

    def spent(num_rounds: int, delta: float) -> float:
        return dp.rdp.compute_epsilon(accountant.orders, num_rounds * accountant.rdp, delta)[0]

    return spent


def _by_pld(
    participation: Participation, noise_multiplier: float, most_losses: float
) -> Callable[[int, float], float]:
    estimate = _by_rdp(participation, noise_multiplier)

    @functools.cache
    def one_round(interval: float) -> Any:
        return _library().pld.privacy_loss_distribution.from_gaussian_mechanism(
            noise_multiplier,
            sampling_prob=participation.sampling_probability,
            value_discretization_interval=interval,
        )

    def spent(num_rounds: int, delta: float) -> float:
        bound = estimate(num_rounds, delta)
        if bound > _LARGEST_BY_PLD or noise_multiplier < _LEAST_NOISE:
            return bound
        losses = one_round(_interval(noise_multiplier, bound, most_losses)).self_compose(num_rounds)
        return losses.get_epsilon_for_delta(delta)

    return spent


def _interval(noise_multiplier: float, bound: float, most_losses: float) -> float:
    """Choose how finely losses are discretised: 1e-4, doubled until there are not too many.

    Args:
        noise_multiplier: sigma, which decides how far the losses of one round reach.
        bound: on epsilon, likewise of all rounds.
        most_losses: to hold; from a noise multiplier of 1 on there are fewer.
    """
    widest = (0.5 / noise_multiplier + 14) / noise_multiplier  # with the tails that dp-accounting keeps
    needed = max(bound, widest) / most_losses / _FINEST_INTERVAL
    return _FINEST_INTERVAL * 2 ** max(0, math.ceil(math.log2(needed)))


def _searched(
    participation: Participation, used: Accountant, target: float, delta: float, num_rounds: int
) -> float:
    """Find the least noise that keeps a target, up to a rounding error and the discretisation."""
    start = _library().get_sigma_gaussian(target, delta) * math.sqrt(num_rounds)  # exact for everybody
    if used == "pld" and participation.sampling == "everybody":
        return start
    if used == "pld":
        start = _searched(participation, "rdp", target, delta, num_rounds)
        if target > _LARGEST_BY_PLD:
            return start
    left = _delta_left(participation, delta, num_rounds)

    def exceeds(noise: float) -> bool:
        if used == "rdp":
            return bool(_by_rdp(participation, noise)(num_rounds, left) > target)
        return bool(_by_pld(participation, noise, _SEARCHED_LOSSES)(num_rounds, left) > target)

    lower, upper = _bracket(exceeds, start=start)
    if lower >= _LEAST_NOISE:
        bracket = 0.99 * lower, 1.01 * upper  # for the discretisation there is another
        upper = _calibrated(participation, used, (target, left), num_rounds, bracket)
    return min(start, upper) if used == "pld" else upper


def _bracket(exceeds: Callable[[float], bool], *, start: float) -> tuple[float, float]:
    """Find noise that is too little, or less than anybody looks for, and a little more, which suffices."""
    upper = start
    while exceeds(upper):
        upper /= _STEP
    while _STEP * upper >= _LEAST_NOISE and not exceeds(_STEP * upper):
        upper *= _STEP
    return _STEP * upper, upper


def _calibrated(
    participation: Participation,
    used: Accountant,
    target: tuple[float, float],
    num_rounds: int,
    bracket: tuple[float, float],
) -> float:
    dp = _library()
    target_epsilon, target_delta = target
    interval = _interval(bracket[0], target_epsilon, _SEARCHED_LOSSES)
    with _quiet():
        return dp.calibrate_dp_mechanism(
            lambda: _fresh_accountant(participation, used, interval),
            lambda noise: dp.SelfComposedDpEvent(_round(participation, noise), num_rounds),
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            bracket_interval=dp.ExplicitBracketInterval(*bracket),
            tol=_TOLERANCE * bracket[0],
        )


def _fresh_accountant(participation: Participation, used: Accountant, interval: float = 1e-4) -> Any:
    dp = _library()
    relations = dp.NeighboringRelation
    relation = relations.REPLACE_ONE if participation.sensitivity == 2 else relations.ADD_OR_REMOVE_ONE
    if used == "pld":
        return dp.pld.PLDAccountant(relation, value_discretization_interval=interval)
    return dp.rdp.RdpAccountant(neighboring_relation=relation)


def _round(participation: Participation, noise_multiplier: float) -> Any:
    """Describe one round as an event of dp-accounting."""
    dp = _library()
    # RDP of sampling without replacement takes noise over sensitivity, which its event does not say
    gaussian = dp.GaussianDpEvent(noise_multiplier / participation.sensitivity)
    if participation.sampling == "everybody":
        return gaussian
    if participation.sampling == "poisson":
        return dp.PoissonSampledDpEvent(participation.sampling_probability, gaussian)
    return dp.SampledWithoutReplacementDpEvent(participation.num_users, participation.cohort_size, gaussian)


def _delta_left(participation: Participation, delta: float, num_rounds: int) -> float:
    """Put aside what may happen if a Poisson sample overflows, which nobody's own data decides about."""
    return delta - num_rounds * _OVERFLOW if participation.sampling == "poisson" else delta


def _checked(participation: Participation) -> Participation:
    sampling, num_users, cohort_size = participation
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


def _check(*, delta: float, noise_multiplier: float = 1.0) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}; well below 1 / users means something")
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"expected noise_multiplier of at least 0 and finite, got {noise_multiplier}")


@functools.cache
def _library() -> ModuleType:
    try:
        import dp_accounting
    except ImportError:
        raise ImportError(
            "privacy accounting needs dp-accounting, which is not installed; pip install 'fcf_jax[dp]'"
        ) from None
    return dp_accounting


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
