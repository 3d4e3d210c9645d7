r"""Accounting of differential privacy: the epsilon of a run, and the noise that a target epsilon needs.

A round is one Gaussian mechanism (`fcf_jax.channel.clip_and_noise`) on its cohort. Epsilon compares two runs
whose data differ by one user. How they differ (the adjacency) follows from how cohorts are sampled:

    everybody, poisson:  the user is added or removed; the clipped sums differ by at most C
    fixed_size:          the user is replaced, since the cohort stays full; they differ by at most 2 C

The noise multiplier sigma is always noise over the clip norm C. The figures come from dp-accounting,
whose RDP accountant expects noise over *sensitivity* when users are replaced, hence sigma / 2 there.
"""

import functools
import logging
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

ParticipationSampling = Literal["everybody", "poisson", "fixed_size"]
Adjacency = Literal["add or remove one user", "replace one user"]
Accountant = Literal["pld", "rdp"]
_Epsilon = Callable[[int, float], float]  # number of rounds, at least 1, and delta -> epsilon
_OVERFLOW = 2e-14  # probability per round that a Poisson sample exceeds `core.sampling.poisson_capacity`
_FINEST_INTERVAL = 1e-4  # of discretised privacy losses, the default of dp-accounting
_MAX_LOSSES = 1.5e5  # grid points per round: one second, and fine enough even under little noise
_MAX_PLD_EPSILON = 1e4  # above it the RDP bound, which is valid too, replaces the PLD
_MIN_EXACT_NOISE = 1e-4  # below it the closed form cancels; epsilon is in the millions there
_NO_NOISE = 1e-9  # smaller multipliers count as no noise
_MIN_NOISE, _MAX_NOISE = 0.01, 1e9  # limits of the search: epsilon in the thousands; rounds that cost nothing
_STEP, _TOLERANCE = 0.6, 1e-4  # of the search: ratio of multipliers that bracket a solution; relative error
_REMEDY = 'set federation.sampling = "poisson" or "independent", or leave out federation.cohort_size'


class Participation(NamedTuple):
    """Participation of users in rounds, and their single release before the first round.

    Attributes:
        sampling: how cohorts are drawn.
        num_users: N.
        cohort_size: clients in a round; the expected number under Poisson sampling.
        count_noise_multiplier: noise of the released item counts, in clip norms; None if none are released.
        evaluation_noise_multiplier: likewise, of a federated evaluation (`federated_means`).
    """

    sampling: ParticipationSampling
    num_users: int
    cohort_size: int
    count_noise_multiplier: float | None = None
    evaluation_noise_multiplier: float | None = None

    @property
    def release_noise_multiplier(self) -> float | None:
        """Noise of all releases beside the rounds, which are one Gaussian mechanism together; None: none."""
        noises = [
            noise
            for noise in (self.count_noise_multiplier, self.evaluation_noise_multiplier)
            if noise is not None
        ]
        if not noises:
            return None
        return 0.0 if min(noises) <= 0 else sum(noise**-2 for noise in noises) ** -0.5

    @property
    def sampling_probability(self) -> float:
        """Probability that a user takes part in a round."""
        return 1.0 if self.sampling == "everybody" else self.cohort_size / self.num_users

    @property
    def adjacency(self) -> Adjacency:
        """Difference between the two data sets that epsilon compares."""
        return "replace one user" if self.sampling == "fixed_size" else "add or remove one user"

    @property
    def sensitivity(self) -> float:
        """Largest distance between the clipped sums of two adjacent data sets, in clip norms."""
        return 2.0 if self.sampling == "fixed_size" else 1.0


def participation_of(sampling: str, *, num_users: int, cohort_size: int | None) -> Participation:
    """Return the participation that accounts for a federation's sampling.

    `sampling` is of `fcf_jax.core.sampling`, whose "independent" is called fixed_size here. With a
    `cohort_size` of None or N everybody takes part, whatever the sampling.

    Raises:
        ValueError: for cohorts that no accountant covers, such as "shuffled", or that exceed the users.
    """
    if cohort_size is None or cohort_size == num_users:
        return _checked(Participation("everybody", num_users, num_users))
    names: dict[str, ParticipationSampling] = {"poisson": "poisson", "independent": "fixed_size"}
    if sampling not in names:
        raise ValueError(f"expected sampling that can be accounted for, got {sampling!r}; {_REMEDY}")
    return _checked(Participation(names[sampling], num_users, cohort_size))


def accountant_used(participation: Participation, accountant: Accountant = "pld") -> Accountant:
    """Return the accountant that computes epsilon: always "rdp" for fixed_size, which has no PLD."""
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
    """Compute an upper bound on the epsilon of a run at `delta`.

    Args:
        participation: fixes the sampling and the adjacency.
        noise_multiplier: sigma, in clip norms, at least 0.
        num_rounds: T, all rounds that were begun.
        delta: in (0, 1), meaningful only below 1 / N.
        accountant: "pld", which is tighter, or "rdp"; see `accountant_used`.

    Returns:
        At least 0; inf without noise. For 0 rounds the epsilon of the item counts, or 0 without them.

    Raises:
        ValueError: for arguments out of range.
        ImportError: without dp-accounting.

    References:
        Balle & Wang, ICML 2018 (everybody, exact); Doroshenko et al., PoPETs 2022 (PLD); Mironov, Talwar &
        Zhang 2019 (RDP, Poisson samples); Wang, Balle & Kasiviswanathan, AISTATS 2019, theorem 27 (RDP,
        cohorts of fixed size).
    """
    spent = epsilon_by_round(
        participation, noise_multiplier=noise_multiplier, delta=delta, accountant=accountant
    )
    return spent(num_rounds)


def epsilon_by_round(
    participation: Participation,
    *,
    noise_multiplier: float,
    delta: float,
    accountant: Accountant = "pld",
) -> Callable[[int], float]:
    """Return a function from the number of rounds begun to the epsilon spent; arguments as for `epsilon`.

    The cost of a single round is computed only once, so each call is fast. Rounds that a resumed run
    repeats count again.

    Example:
        spent = epsilon_by_round(Participation("poisson", 6040, 100), noise_multiplier=1.0, delta=1e-5)
        spent(200), spent(400)
    """
    used = accountant_used(_checked(participation), accountant)
    _check_delta(delta)
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"expected noise_multiplier of at least 0 and finite, got {noise_multiplier}")
    epsilon_at = _epsilon_function(participation, used, noise_multiplier)

    @functools.cache
    def epsilon_after(num_rounds: int) -> float:
        if num_rounds < 0:
            raise ValueError(f"expected num_rounds of at least 0, got {num_rounds}")
        if num_rounds == 0:
            return _count_epsilon(participation, delta)
        remaining = _remaining_delta(participation, delta, num_rounds)
        return float(epsilon_at(num_rounds, remaining)) if remaining > 0 else math.inf

    return epsilon_after


def single_noise_multiplier(epsilon: float, *, delta: float) -> float:
    """Compute the noise, over sensitivity, at which one Gaussian release costs exactly `epsilon` > 0."""
    _check_delta(delta)
    return _gaussian_sigma(epsilon, delta)


def calibrated_noise_multiplier(
    participation: Participation,
    *,
    epsilon: float,
    delta: float,
    num_rounds: int,
    accountant: Accountant = "pld",
) -> float:
    """Compute the least noise multiplier, to a relative 1e-3, whose epsilon does not exceed the target.

    Args:
        participation: fixes the sampling and the adjacency.
        epsilon: the target, above 0 and finite.
        delta: in (0, 1).
        num_rounds: T.
        accountant: "pld" or "rdp".

    Returns:
        sigma, in clip norms; 0 for 0 rounds. The search ends near 0.01, where epsilon is in the thousands.
    """
    used = accountant_used(_checked(participation), accountant)
    _check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"expected epsilon above 0 and finite, got {epsilon}")
    if num_rounds < 0 or _remaining_delta(participation, delta, num_rounds) <= 0:
        raise ValueError(f"expected num_rounds that delta = {delta} allows for, got {num_rounds}")
    if num_rounds == 0:
        return 0.0

    @functools.cache
    def excess(noise: float) -> float:
        spent = epsilon_by_round(participation, noise_multiplier=noise, delta=delta, accountant=used)
        return spent(num_rounds) - epsilon

    noise = _exact_noise(participation, epsilon, delta, num_rounds)
    if used == "rdp":
        noise = _search(excess, noise)
    elif participation.sampling != "everybody":
        target = functools.partial(calibrated_noise_multiplier, participation, epsilon=epsilon, delta=delta)
        noise = _search(excess, target(num_rounds=num_rounds, accountant="rdp"))  # RDP is faster, and close
    while excess(noise) > 0:  # by a rounding error, or the tolerance of the search
        noise *= 1 + _TOLERANCE
    return noise


def _gaussian_sigma(epsilon: float, delta: float) -> float:
    with np.errstate(divide="ignore"):  # the log of a delta that vanishes
        return load_dp_accounting().get_sigma_gaussian(epsilon, delta)


def _exact_noise(participation: Participation, target: float, delta: float, num_rounds: int) -> float:
    """Return the noise at which everybody spends the target, less the cost of the item counts if any."""
    allowed = _gaussian_sigma(target, delta) ** -2
    remaining = allowed - (_count_noise(participation) / participation.sensitivity) ** -2
    if remaining <= 0:
        raise ValueError(
            f"expected single releases that cost less than epsilon = {target}, got item counts or an "
            f"evaluation with a noise multiplier of {_count_noise(participation):.4g} together; raise it"
        )
    return math.sqrt(num_rounds / remaining)


def _search(excess: Callable[[float], float], upper: float) -> float:
    """Find the zero of `excess`, which falls with the noise, or sufficient noise near `_MIN_NOISE`."""
    from scipy.optimize import root_scalar  # scipy is a dependency of dp-accounting

    while excess(upper) > 0:
        upper /= _STEP
        if upper > _MAX_NOISE:
            raise ValueError("expected item counts that cost less than the target; raise their noise")
    while excess(_STEP * upper) <= 0:
        upper *= _STEP
        if _STEP * upper < _MIN_NOISE:
            return upper
    bracket = _STEP * upper, upper
    return root_scalar(excess, method="brentq", bracket=bracket, xtol=_TOLERANCE * upper).root


def _epsilon_function(participation: Participation, used: Accountant, noise_multiplier: float) -> _Epsilon:
    count_noise = _count_noise(participation)
    if min(noise_multiplier, count_noise) < _NO_NOISE:
        return lambda num_rounds, delta: math.inf
    by_rdp = _rdp_epsilon(participation, noise_multiplier)
    if used == "rdp":
        return by_rdp
    if participation.sampling != "everybody":
        return _pld_epsilon(participation, noise_multiplier, by_rdp)

    def exact(num_rounds: int, delta: float) -> float:  # T rounds are one mechanism of sigma / sqrt(T)
        noise = 1 / math.sqrt(num_rounds / noise_multiplier**2 + 1 / count_noise**2)
        is_exact = noise >= _MIN_EXACT_NOISE
        return (
            load_dp_accounting().get_epsilon_gaussian(noise, delta) if is_exact else by_rdp(num_rounds, delta)
        )

    return exact


def rdp_events(participation: Participation, noise_multiplier: float) -> tuple[Any, Any, Any]:
    """Return the neighboring relation, a round and the release of item counts, as dp-accounting has them."""
    dp, relations = load_dp_accounting(), load_dp_accounting().NeighboringRelation
    relation = relations.REPLACE_ONE if participation.sensitivity == 2 else relations.ADD_OR_REMOVE_ONE
    gaussian = dp.GaussianDpEvent(noise_multiplier / participation.sensitivity)
    of_round = {
        "everybody": gaussian,
        "poisson": dp.PoissonSampledDpEvent(participation.sampling_probability, gaussian),
        "fixed_size": dp.SampledWithoutReplacementDpEvent(
            participation.num_users, participation.cohort_size, gaussian
        ),
    }[participation.sampling]
    return relation, of_round, dp.GaussianDpEvent(_count_noise(participation) / participation.sensitivity)


def _rdp_epsilon(participation: Participation, noise_multiplier: float) -> _Epsilon:
    """Return epsilon by Renyi divergences."""
    rdp_of = load_dp_accounting().rdp
    relation, *events = rdp_events(participation, noise_multiplier)
    of_round, of_counts = (rdp_of.RdpAccountant(None, relation).compose(one) for one in events)

    def epsilon_at(num_rounds: int, delta: float) -> float:
        rdp = num_rounds * of_round.rdp + of_counts.rdp
        return rdp_of.compute_epsilon(of_round.orders, rdp, delta)[0]

    return epsilon_at


def _pld_epsilon(participation: Participation, noise_multiplier: float, by_rdp: _Epsilon) -> _Epsilon:
    """Return epsilon by privacy loss distributions, or by RDP where that is less or the grid too large."""
    gaussian = load_dp_accounting().pld.privacy_loss_distribution.from_gaussian_mechanism
    least_noise = min(noise_multiplier, _count_noise(participation))

    @functools.cache
    def one_round(interval: float) -> Any:
        share = participation.sampling_probability
        return gaussian(noise_multiplier, sampling_prob=share, value_discretization_interval=interval)

    def epsilon_at(num_rounds: int, delta: float) -> float:
        bound = by_rdp(num_rounds, delta)
        if bound > _MAX_PLD_EPSILON or least_noise < _MIN_NOISE:
            return bound
        # the losses of one round, with the tails that dp-accounting keeps, or those of all rounds
        widest = max(bound, (0.5 / least_noise + 14) / least_noise)
        doublings = math.ceil(math.log2(widest / _MAX_LOSSES / _FINEST_INTERVAL))
        interval = _FINEST_INTERVAL * 2 ** max(0, doublings)
        losses = one_round(interval).self_compose(num_rounds)
        if (noise := _count_noise(participation)) < math.inf:
            counts = gaussian(noise, value_discretization_interval=interval)
            losses = losses.compose(counts)
        # both are upper bounds; over hundreds of thousands of rounds the grid of the PLD overestimates
        return min(losses.get_epsilon_for_delta(delta), bound)

    return epsilon_at


def _count_noise(participation: Participation) -> float:
    noise = participation.release_noise_multiplier
    return math.inf if noise is None else noise


def _count_epsilon(participation: Participation, delta: float) -> float:
    """Compute the exact epsilon of the item counts alone, 0 without them."""
    noise = _count_noise(participation) / participation.sensitivity
    is_exact = noise >= _MIN_EXACT_NOISE
    return float(load_dp_accounting().get_epsilon_gaussian(noise, delta)) if is_exact else math.inf


def _remaining_delta(participation: Participation, delta: float, num_rounds: int) -> float:
    """Return delta less the probability that a Poisson sample overflows, which depends on no user's data."""
    return delta - num_rounds * _OVERFLOW if participation.sampling == "poisson" else delta


def _checked(who: Participation) -> Participation:
    """Return the participation, or raise ValueError if its users and cohort do not fit each other."""
    if who.sampling not in (known := get_args(ParticipationSampling)):
        raise ValueError(f"expected sampling to be one of {known}, got {who.sampling!r}; {_REMEDY}")
    if not 1 <= who.cohort_size <= who.num_users:
        raise ValueError(f"expected cohort_size in [1, {who.num_users}], the users, got {who.cohort_size}")
    if who.sampling == "everybody" and who.cohort_size != who.num_users:
        raise ValueError(
            f"expected a cohort of all {who.num_users} users, got {who.cohort_size}; "
            'use "poisson" or "fixed_size"'
        )
    return who


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}; only values well below 1 / users protect")


def load_dp_accounting() -> ModuleType:
    """Import dp-accounting, which is optional.

    Raises:
        ImportError: naming the remedy, without it.
    """
    try:
        import dp_accounting
    except ImportError:
        raise ImportError(
            "privacy accounting needs dp-accounting, which is not installed; pip install 'fcf_jax[dp]'"
        ) from None
    logging.getLogger("absl").addFilter(_is_not_about_orders)
    return dp_accounting


def _is_not_about_orders(record: logging.LogRecord) -> bool:
    """Hide that RDP orders near 1 did not converge: leaving them out can only raise epsilon."""
    return "_compute_log_a_frac failed to converge" not in record.getMessage()
