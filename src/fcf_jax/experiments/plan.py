"""What differential privacy asks of a configuration's data: noise, cohort and rounds for a target epsilon.

Noise is compared with the most that the uploads can add up to (`privacy.limits.noise_to_signal`). On
the gradient averaged over a run everybody comes to the same in few rounds as in many, as sigma grows with
the root of their number; smaller cohorts come off worse. What the ratio means was measured on MovieLens 1M
(benchmarks/privacy_utility.py; levers tuned on MovieLens 100K; K = 32, and 16 for 1 and .5):

    epsilon                               20      10      5      2      1      .5     .25
    ratio, of the averaged gradient    .0165    .018   .032   .044   .057    .11     .47
    gain over popularity that is left    85 %    86 %   77 %   62 %   43 %   13 %    none

in NDCG@10, where all of it is what plain FCF at its best has more than a ranking by popularity.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fcf_jax.experiments.build.privacy import delta_of, has_noise, num_learned_items, with_item_counts
from fcf_jax.experiments.config.load import ConfigError
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.accounting import (
    Accountant,
    Participation,
    accountant_used,
    calibrated_noise_multiplier,
    epsilon,
    participation_of,
)
from fcf_jax.privacy.limits import noise_to_signal

HOPELESS = 0.1  # noise over signal of the averaged gradient: from there on about a ranking by popularity
USABLE = 0.035  # up to there most of what personal rankings gain over popularity remains
_EVERYBODYS_ROUNDS = (2, 4, 8, 16, 50)
_COHORT_SHARES = (0.01, 0.05, 0.2)
_SMALLEST_COHORT = 20  # clients
_ENOUGH_ROUNDS = 4  # of the Gram-preconditioned step: they get most of the way without noise
_HARMLESS = 0.01  # noise over signal of one round, that more rounds may have
_NOISE = {"mode": "central_noise"}
_AS_GOOD = 1.001  # times the least ratio: a difference that is none


class Choice(NamedTuple):
    """Who takes part how often, and what the target epsilon makes of it."""

    participation: Participation
    num_rounds: int
    accountant: Accountant
    noise_multiplier: float  # in clip norms
    epsilon: float  # reached
    noise_to_signal: float  # of one round
    averaged_noise_to_signal: float  # of the gradient averaged over the run
    is_configured: bool


class PrivacyPlan(NamedTuple):
    """Choices for one data set and target; the best stands in `best`."""

    num_users: int
    num_items: int
    num_factors: int
    epsilon: float
    delta: float
    choices: tuple[Choice, ...]
    best: Choice
    notes: tuple[str, ...]

    @property
    def is_hopeless(self) -> bool:
        """Whether even the best choice drowns the averaged gradient in noise."""
        return self.best.averaged_noise_to_signal > HOPELESS


def plan_privacy(config: ExperimentConfig, *, num_users: int, num_items: int) -> PrivacyPlan:
    """Work out what `privacy.epsilon` and `privacy.delta` ask for, for cohorts and rounds to choose from.

    Args:
        config: its model.num_factors, federation and privacy sections count.
        num_users: trained on.
        num_items: trained on.

    Raises:
        ValueError: in one line, for figures that do not go together.
        ImportError: without dp-accounting.
    """
    refuse_unfit(config)
    if not has_noise(config):  # the plan of a configuration that is not private yet
        config = config.model_copy(update={"privacy": config.privacy.model_copy(update=_NOISE)})
    task = _Task(config, num_users, num_items, delta_of(config, num_users=num_users))
    own_noise, configured = config.privacy.noise_multiplier, _configured(task)
    candidates = list(_candidates(task))
    if configured is not None and configured not in candidates and own_noise is None:
        candidates.insert(0, configured)
    choices = [
        _choice(task, one, is_configured=own_noise is None and one == configured) for one in candidates
    ]
    best = _best(choices)
    if configured is not None and own_noise is not None:  # may miss the target, so it is not among the rivals
        choices.insert(0, _choice(task, configured, own_noise=own_noise, is_configured=True))
    return PrivacyPlan(
        num_users=num_users,
        num_items=num_items,
        num_factors=config.model.num_factors,
        epsilon=config.privacy.epsilon,
        delta=task.delta,
        choices=tuple(choices),
        best=best,
        notes=tuple(_notes(task)),
    )


def verdict(plan: PrivacyPlan) -> str:
    """Say what the best choice is, and what may be hoped for from it."""
    ratio = plan.best.averaged_noise_to_signal
    if plan.is_hopeless:
        outlook = (
            f"hopeless: above {HOPELESS} expect no more than a ranking by popularity; raise privacy.epsilon, "
            "lower model.num_factors or privacy.head_items, or find more users"
        )
    elif ratio > USABLE:
        outlook = f"between {USABLE} and {HOPELESS}: personal rankings survive in part"
    else:
        outlook = f"up to {USABLE}: usable, most of what personal rankings gain over popularity remains"
    return (
        f"Best: {describe(plan.best.participation)} in {plan.best.num_rounds} rounds. The noise on the "
        f"averaged gradient is {ratio:.3g} of the most that the uploads add up to: {outlook}."
    )


def describe(participation: Participation) -> str:
    """Name who takes part, for people."""
    who, num_users, cohort_size = participation[:3]
    names = {"everybody": "everybody", "poisson": f"Poisson, {cohort_size} of {num_users}"}
    return names.get(who, f"{cohort_size} of {num_users}, fixed")


def to_document(plan: PrivacyPlan) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    sizes = {name: getattr(plan, name) for name in ("num_users", "num_items", "num_factors")}
    return {
        **sizes,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "choices": [_document(one, is_best=one is plan.best) for one in plan.choices],
        "best": _document(plan.best, is_best=True),
        "is_hopeless": plan.is_hopeless,
        "hopeless_above": HOPELESS,
        "usable_up_to": USABLE,
        "verdict": verdict(plan),
        "notes": list(plan.notes),
    }


def refuse_unfit(config: ExperimentConfig) -> None:
    """Refuse, before data is read, what there is nothing to plan for.

    Raises:
        ConfigError: when no rounds are configured, or clients add all the noise by themselves.
    """
    if config.federation.num_rounds == 0:
        raise ConfigError("federation.num_rounds: expected at least 1 round to plan, got 0; raise it")
    if config.privacy.mode == "local_noise":
        raise ConfigError(
            "privacy.mode: expected noise on the sum to plan for, got local_noise, where every upload is "
            'released by itself; set privacy.mode = "central_noise" or "distributed_noise"'
        )


class _Task(NamedTuple):
    config: ExperimentConfig
    num_users: int
    num_items: int
    delta: float

    @property
    def is_shuffled(self) -> bool:
        """Whether the configured cohorts are drawn in a way that has no accountant."""
        federation = self.config.federation
        return federation.sampling == "shuffled" and federation.cohort_size not in (None, self.num_users)


def _candidates(task: _Task) -> Iterator[tuple[Participation, int]]:
    for num_rounds in _EVERYBODYS_ROUNDS:
        yield Participation("everybody", task.num_users, task.num_users), num_rounds
    for share in _COHORT_SHARES:
        cohort_size = round(share * task.num_users)
        if _SMALLEST_COHORT <= cohort_size < task.num_users:
            who = Participation("poisson", task.num_users, cohort_size)
            yield who, task.config.federation.num_rounds


def _configured(task: _Task) -> tuple[Participation, int] | None:
    """Return who takes part how often as configured, None where it cannot be accounted for."""
    federation = task.config.federation
    if task.is_shuffled:
        return None
    size = federation.cohort_size
    who = participation_of(federation.sampling, num_users=task.num_users, cohort_size=size)
    return who, federation.num_rounds


def _choice(
    task: _Task,
    candidate: tuple[Participation, int],
    *,
    is_configured: bool,
    own_noise: float | None = None,
) -> Choice:
    who, num_rounds, privacy = with_item_counts(task.config, candidate[0]), candidate[1], task.config.privacy
    run: Any = {"num_rounds": num_rounds, "delta": task.delta, "accountant": privacy.accountant}
    noise = own_noise
    if noise is None:
        noise = calibrated_noise_multiplier(who, epsilon=privacy.epsilon, **run)
    learned = num_learned_items(task.config, num_items=task.num_items)
    sizes: Any = {"num_items": learned, "num_factors": task.config.model.num_factors}
    ratio = noise_to_signal(noise_multiplier=noise, cohort_size=who.cohort_size, **sizes)
    return Choice(
        participation=who,
        num_rounds=num_rounds,
        accountant=accountant_used(who, privacy.accountant),
        noise_multiplier=noise,
        epsilon=epsilon(who, noise_multiplier=noise, **run),
        noise_to_signal=ratio,
        averaged_noise_to_signal=ratio / math.sqrt(num_rounds),
        is_configured=is_configured,
    )


def _best(choices: Sequence[Choice]) -> Choice:
    """Choose the least noise on the averaged gradient, and of those the rounds that make the most of it.

    As many as leave the noise of each harmless, otherwise the fewest that are enough.
    """
    least = min(one.averaged_noise_to_signal for one in choices)
    as_good = [one for one in choices if one.averaged_noise_to_signal <= _AS_GOOD * least]
    enough = [one for one in as_good if one.num_rounds >= _ENOUGH_ROUNDS] or as_good
    harmless = [one for one in enough if one.noise_to_signal <= _HARMLESS]
    if harmless:
        return max(harmless, key=lambda one: one.num_rounds)
    return min(enough, key=lambda one: one.num_rounds)


def _notes(task: _Task) -> Iterator[str]:
    federation = task.config.federation
    if task.is_shuffled:
        yield (
            f"As configured, cohorts of {federation.cohort_size} are shuffled, which cannot be accounted "
            'for; set federation.sampling = "poisson".'
        )
    elif federation.sampling == "independent" and federation.cohort_size not in (None, task.num_users):
        yield (
            "A cohort of fixed size has its epsilon between data with one user replaced, and by RDP; "
            'federation.sampling = "poisson" is cheaper.'
        )
    if task.delta * task.num_users >= 1:
        yield f"delta = {task.delta:.3g} protects nobody: it should be well below 1 / {task.num_users} users."


def _document(choice: Choice, *, is_best: bool) -> dict[str, Any]:
    who = choice.participation
    figures = {name: value for name, value in choice._asdict().items() if name != "participation"}
    reached = choice.epsilon if math.isfinite(choice.epsilon) else None
    return {
        "sampling": who.sampling,
        "cohort_size": who.cohort_size,
        "adjacency": who.adjacency,
        **figures,
        "epsilon": reached,
        "is_best": is_best,
    }
