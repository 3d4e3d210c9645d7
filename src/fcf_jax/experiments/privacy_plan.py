"""Plan for a target epsilon: the noise that it takes, for several cohorts and numbers of rounds.

Noise is compared with the largest possible sum of the uploads (`privacy.limits.noise_to_signal`). For the
gradient averaged over a run, few rounds with all clients are as good as many, since sigma grows with the
root of their number; smaller cohorts are worse. What the ratio means was measured on MovieLens 1M
(benchmarks/privacy_utility.py; levers tuned on MovieLens 100K; K = 32, and 16 for epsilon 1 and .5):

    epsilon                               20      10      5      2      1      .5     .25
    ratio, of the averaged gradient    .0165    .018   .032   .044   .057    .11     .47
    gain over popularity that is left    85 %    86 %   77 %   62 %   43 %   13 %    none

The gain is that of NDCG@10; 100 % is what plain FCF at its best has over a ranking by popularity.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fcf_jax.experiments.config.protection import delta_of, participation_of, with_item_counts
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.privacy.accounting import (
    Accountant,
    Participation,
    accountant_used,
    calibrated_noise_multiplier,
    epsilon,
)
from fcf_jax.privacy.limits import noise_to_signal

HOPELESS = 0.1  # noise over signal of the averaged gradient, above which a ranking by popularity is as good
USABLE = 0.035  # the same, below which most of the gain of personal rankings over popularity remains
_ROUNDS_WITH_EVERYBODY = (2, 4, 8, 16, 50)
_COHORT_SHARES = (0.01, 0.05, 0.2)
_SMALLEST_COHORT = 20  # clients
_ENOUGH_ROUNDS = 4  # of the Gram-preconditioned step, after which it would be close to its end without noise
_HARMLESS = 0.01  # noise over signal of a round, below which further rounds do no harm
_AS_GOOD = 1.001  # times the least ratio, up to which choices count as equal


class Choice(NamedTuple):
    """Cohorts and rounds, with the noise that the target epsilon takes.

    Attributes:
        participation: who takes part in a round.
        num_rounds: rounds of the run.
        accountant: method that computed epsilon.
        noise_multiplier: standard deviation of the noise, in clip norms.
        epsilon: reached by the run.
        noise_to_signal: ratio in a single round.
        averaged_noise_to_signal: ratio of the gradient averaged over the run.
        is_configured: whether these are the configured cohorts and rounds.
    """

    participation: Participation
    num_rounds: int
    accountant: Accountant
    noise_multiplier: float
    epsilon: float
    noise_to_signal: float
    averaged_noise_to_signal: float
    is_configured: bool


class PrivacyPlan(NamedTuple):
    """Choices for a data set and a target epsilon.

    Attributes:
        num_users: users to train on.
        num_items: items to train on.
        num_factors: K.
        epsilon: target.
        delta: target.
        choices: candidates; the configured one is first unless it is among the standard ones.
        best: the recommended one of `choices`.
        notes: remarks on the configuration.
    """

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
        """Whether noise drowns the averaged gradient even with the best choice."""
        return self.best.averaged_noise_to_signal > HOPELESS


def plan_privacy(config: ExperimentConfig, *, num_users: int, num_items: int) -> PrivacyPlan:
    """Compute the noise that `privacy.epsilon` and `privacy.delta` take, for several cohorts and rounds.

    Args:
        config: checked for "plan"; model.num_factors and the sections federation and privacy are used.
        num_users: users to train on.
        num_items: items to train on.

    Raises:
        ValueError: in one line, for numbers that contradict each other.
        ImportError: without dp-accounting.
    """
    if not config.privacy.has_noise:  # plan as if it had noise
        privacy = config.privacy.model_copy(update={"mode": "central_noise"})
        config = config.model_copy(update={"privacy": privacy})
    task = _Task(config, num_users, num_items)
    configured, fixed_noise = _configured(task), config.privacy.noise_multiplier
    candidates = list(_candidates(task))
    if fixed_noise is None and configured is not None and configured not in candidates:
        candidates.insert(0, configured)
    choices = [
        _choice(task, *one, is_configured=fixed_noise is None and one == configured) for one in candidates
    ]
    best = _best(choices)
    if fixed_noise is not None and configured is not None:  # may miss the target: never the best
        choices.insert(0, _choice(task, *configured, fixed_noise=fixed_noise, is_configured=True))
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
    """Return two sentences: the best choice, and how useful its model can be."""
    ratio = plan.best.averaged_noise_to_signal
    if plan.is_hopeless:
        outlook = (
            f"hopeless: above {HOPELESS}, expect no more than a ranking by popularity; raise "
            "privacy.epsilon, lower model.num_factors or privacy.head_items, or find more users"
        )
    elif ratio > USABLE:
        outlook = f"between {USABLE} and {HOPELESS}: personal rankings survive in part"
    else:
        outlook = f"up to {USABLE}: usable, most of the gain of personal rankings over popularity remains"
    return (
        f"Best: {cohort_text(plan.best.participation)} in {plan.best.num_rounds} rounds. The noise on the "
        f"averaged gradient is {ratio:.3g} times the largest possible sum of the uploads: {outlook}."
    )


def cohort_text(who: Participation) -> str:
    """Describe who takes part in a round."""
    if who.sampling == "everybody":
        return "all clients"
    share = f"{who.cohort_size} of {who.num_users}"
    return f"Poisson, {share}" if who.sampling == "poisson" else f"{share}, fixed"


def to_document(plan: PrivacyPlan) -> dict[str, Any]:
    """Return the plan as plain values, for JSON."""
    return {
        **plan._asdict(),
        "choices": [_document(one, is_best=one is plan.best) for one in plan.choices],
        "best": _document(plan.best, is_best=True),
        "is_hopeless": plan.is_hopeless,
        "hopeless_above": HOPELESS,
        "usable_up_to": USABLE,
        "verdict": verdict(plan),
        "notes": list(plan.notes),
    }


class _Task(NamedTuple):
    """Configuration to plan for, with the size of its training set."""

    config: ExperimentConfig
    num_users: int
    num_items: int

    @property
    def delta(self) -> float:
        return delta_of(self.config.privacy, self.num_users)

    @property
    def has_cohorts(self) -> bool:
        return self.config.federation.cohort_size not in (None, self.num_users)

    @property
    def is_shuffled(self) -> bool:
        """Whether cohorts are shuffled, which no accountant covers."""
        return self.has_cohorts and self.config.federation.sampling == "shuffled"


def _candidates(task: _Task) -> Iterator[tuple[Participation, int]]:
    """Yield the standard choices: who takes part, and the number of rounds."""
    everybody = with_item_counts(
        task.config.privacy, Participation("everybody", task.num_users, task.num_users)
    )
    for num_rounds in _ROUNDS_WITH_EVERYBODY:
        yield everybody, num_rounds
    for share in _COHORT_SHARES:
        cohort_size = round(share * task.num_users)
        if _SMALLEST_COHORT <= cohort_size < task.num_users:
            who = with_item_counts(task.config.privacy, Participation("poisson", task.num_users, cohort_size))
            yield who, task.config.federation.num_rounds


def _configured(task: _Task) -> tuple[Participation, int] | None:
    """Return the configured cohorts and rounds; None if no accountant covers them."""
    if task.is_shuffled:
        return None
    who = participation_of(task.config.privacy, task.config.federation, num_users=task.num_users)
    return who, task.config.federation.num_rounds


def _choice(
    task: _Task,
    who: Participation,
    num_rounds: int,
    *,
    is_configured: bool,
    fixed_noise: float | None = None,
) -> Choice:
    privacy, noise = task.config.privacy, fixed_noise
    if noise is None:
        noise = calibrated_noise_multiplier(
            who,
            epsilon=privacy.epsilon,
            delta=task.delta,
            num_rounds=num_rounds,
            accountant=privacy.accountant,
        )
    reached = epsilon(
        who, noise_multiplier=noise, num_rounds=num_rounds, delta=task.delta, accountant=privacy.accountant
    )
    ratio = noise_to_signal(
        noise_multiplier=noise,
        cohort_size=who.cohort_size,
        num_items=task.config.privacy.num_learned_items(task.num_items),
        num_factors=task.config.model.num_factors,
    )
    return Choice(
        participation=who,
        num_rounds=num_rounds,
        accountant=accountant_used(who, privacy.accountant),
        noise_multiplier=noise,
        epsilon=reached,
        noise_to_signal=ratio,
        averaged_noise_to_signal=ratio / math.sqrt(num_rounds),
        is_configured=is_configured,
    )


def _best(choices: Sequence[Choice]) -> Choice:
    """Return the choice with the least noise on the averaged gradient.

    Of equals, the one with the most rounds whose noise is harmless, otherwise with the fewest that suffice.
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
            f"As configured, cohorts of {federation.cohort_size} are shuffled, which no accountant covers; "
            'set federation.sampling = "poisson".'
        )
    elif task.has_cohorts and federation.sampling == "independent":
        yield (
            "For a cohort of fixed size, epsilon is computed by RDP, and for data with one user replaced; "
            'federation.sampling = "poisson" costs less.'
        )
    if task.delta * task.num_users >= 1:
        yield f"delta = {task.delta:.3g} protects nobody: it should be well below 1 / {task.num_users} users."


def _document(choice: Choice, *, is_best: bool) -> dict[str, Any]:
    who = choice.participation
    numbers = {name: value for name, value in choice._asdict().items() if name != "participation"}
    return {
        "sampling": who.sampling,
        "cohort_size": who.cohort_size,
        "adjacency": who.adjacency,
        **numbers,
        "epsilon": choice.epsilon if math.isfinite(choice.epsilon) else None,
        "is_best": is_best,
    }
