"""The noise that a target asks for: the least noise multiplier whose epsilon does not exceed it."""

import math
from collections.abc import Callable
from typing import Any

from fcf_jax.privacy.accounting import (
    LARGEST_BY_PLD,
    LEAST_NOISE,
    Accountant,
    Participation,
    accountant_used,
    check_figures,
    checked,
    count_event,
    delta_left,
    fresh_accountant,
    library,
    loss_interval,
    quiet,
    round_event,
    spent_by_pld,
    spent_by_rdp,
)
from fcf_jax.privacy.accounting import epsilon as epsilon_of

_SEARCHED_LOSSES = 4e4  # while calibrating, which asks a dozen times
_STEP = 0.6
_MOST_NOISE = 1e9  # beyond, rounds cost nothing
_TOLERANCE = 4e-4  # of calibration, which may stop two of them above the least sufficient noise


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
    used = accountant_used(checked(participation), accountant)
    check_figures(delta=delta)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"expected epsilon above 0 and finite, got {epsilon}")
    if num_rounds < 0 or delta_left(participation, delta, num_rounds) <= 0:
        raise ValueError(f"expected num_rounds that delta = {delta} allows for, got {num_rounds}")
    if num_rounds == 0:
        return 0.0

    noise = _searched(participation, used, epsilon, delta, num_rounds)
    run: Any = {"num_rounds": num_rounds, "delta": delta, "accountant": used}
    while epsilon_of(participation, noise_multiplier=noise, **run) > epsilon:  # by a rounding error
        noise *= 1 + _TOLERANCE / 4
    return noise


def _searched(
    participation: Participation, used: Accountant, target: float, delta: float, num_rounds: int
) -> float:
    """Find the least noise that keeps a target, up to a rounding error and the discretisation."""
    start = _by_closed_form(participation, target, delta, num_rounds)  # exact for everybody
    if used == "pld" and participation.sampling == "everybody":
        return start
    if used == "pld":
        start = _searched(participation, "rdp", target, delta, num_rounds)
        if target > LARGEST_BY_PLD:
            return start
    left = delta_left(participation, delta, num_rounds)

    def exceeds(noise: float) -> bool:
        if used == "rdp":
            return bool(spent_by_rdp(participation, noise)(num_rounds, left) > target)
        return bool(spent_by_pld(participation, noise, _SEARCHED_LOSSES)(num_rounds, left) > target)

    lower, upper = _bracket(exceeds, start=start)
    if lower >= LEAST_NOISE:
        bracket = 0.99 * lower, 1.01 * upper  # for the discretisation there is another
        upper = _calibrated(participation, used, (target, left), num_rounds, bracket)
    return min(start, upper) if used == "pld" else upper


def _by_closed_form(participation: Participation, target: float, delta: float, num_rounds: int) -> float:
    """Divide what the target allows among item counts, if there are any, and rounds of everybody."""
    counts = participation.count_noise_multiplier
    allowed = library().get_sigma_gaussian(target, delta) ** -2
    left = allowed - (0.0 if counts is None else (counts / participation.sensitivity) ** -2)
    if left <= 0:
        raise ValueError(
            f"expected item counts that cost less than epsilon = {target}, got a count_noise_multiplier of "
            f"{counts}; raise it"
        )
    return math.sqrt(num_rounds / left)


def _bracket(exceeds: Callable[[float], bool], *, start: float) -> tuple[float, float]:
    """Find noise that is too little, or less than anybody looks for, and a little more, which suffices."""
    upper = start
    while exceeds(upper):
        upper /= _STEP
        if upper > _MOST_NOISE:
            raise ValueError("expected item counts that cost less than the target; raise their noise")
    while _STEP * upper >= LEAST_NOISE and not exceeds(_STEP * upper):
        upper *= _STEP
    return _STEP * upper, upper


def _calibrated(
    participation: Participation,
    used: Accountant,
    target: tuple[float, float],
    num_rounds: int,
    bracket: tuple[float, float],
) -> float:
    dp = library()
    target_epsilon, target_delta = target
    interval = loss_interval(bracket[0], target_epsilon, _SEARCHED_LOSSES)

    def event(noise: float) -> Any:
        rounds = dp.SelfComposedDpEvent(round_event(participation, noise), num_rounds)
        if participation.count_noise_multiplier is None:
            return rounds
        return dp.ComposedDpEvent([count_event(participation), rounds])

    with quiet():
        return dp.calibrate_dp_mechanism(
            lambda: fresh_accountant(participation, used, interval),
            event,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            bracket_interval=dp.ExplicitBracketInterval(*bracket),
            tol=_TOLERANCE * bracket[0],
        )
