"""The privacy budget of a run: charged, and on disk, before a noised result is released; never given back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fcf_jax.experiments.config.privacy_modes import has_noise
from fcf_jax.experiments.config.privacy_numbers import delta_of, noise_multiplier_of, participation_of
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.store.run_directory import write_json
from fcf_jax.privacy.accounting import Accountant, Participation, accountant_used, epsilon_by_round

BUDGET = "privacy_budget.json"
FIXED_SEED = "NOT PRIVATE: privacy.seed is fixed, and so are noise and sampling"
CAVEATS = [
    "noise is drawn in floating point, whose low bits can tell more than real numbers would",
    "users are those of the training set: how it was split off the whole, its number of users and its "
    "catalogue of items are taken as known to everybody",
    "clients are solved many at a time in float32, so that one may change the last bits of another's numbers",
    "noise and sampling come from JAX's Threefry generator, begun with 64 bits of the system's entropy",
    "metrics.jsonl, summary.json and the report hold measures without noise, for the experimenter alone",
]


class Budget(NamedTuple):
    """What may be spent, and the file that tells what has been."""

    path: Path
    participation: Participation
    noise_multiplier: float
    delta: float
    accountant: Accountant
    spent_after: Callable[[int], float]  # rounds -> epsilon
    num_rounds: int  # that may be released, those released twice counted twice
    is_private: bool  # not with a fixed seed

    def stated(self) -> dict[str, Any]:
        """Read the statement of what was spent so far, by whatever process."""
        if not self.path.exists():
            return {**self.statement(0), "rounds_charged": 0}
        return json.loads(self.path.read_text())

    def rounds_spent(self) -> int:
        """Count the rounds that were charged."""
        return self.stated()["rounds_charged"]

    def charge(self, num_rounds: int) -> bool:
        """Charge rounds that are about to be run; say whether the budget allows them.

        Raises:
            OSError: when it cannot be written; then nothing may be released.
        """
        charged = self.rounds_spent() + num_rounds
        if charged > self.num_rounds:
            return False
        write_json(self.path, {**self.statement(charged), "rounds_charged": charged})
        return True

    def epsilon(self, num_rounds: int | None = None) -> float:
        """Compute what so many rounds cost; None: those charged so far."""
        num_rounds = self.rounds_spent() if num_rounds is None else num_rounds
        return self.spent_after(num_rounds)

    def statement(self, num_rounds: int) -> dict[str, Any]:
        """State the guarantee after so many rounds in the terms that make it one."""
        return {
            "is_private": self.is_private,
            "epsilon": self.epsilon(num_rounds),
            "delta": self.delta,
            "unit": "all interactions of one user",
            "adjacency": self.participation.adjacency,
            "sampling": self.participation.sampling,
            "num_users": self.participation.num_users,
            "expected_cohort_size": self.participation.cohort_size,
            "noise_multiplier": self.noise_multiplier,
            "num_rounds": num_rounds,
            "num_rounds_allowed": self.num_rounds,
            "accountant": f"dp-accounting, {self.accountant}",
            "item_counts_noise_multiplier": self.participation.count_noise_multiplier,
            "released": "the item factors after each round, and item counts if they have a noise multiplier; "
            "user factors stay on their devices (joint DP)",
            "caveats": CAVEATS if self.is_private else [*CAVEATS, FIXED_SEED],
        }


def budget_of(config: ExperimentConfig, folder: Path, *, num_users: int) -> Budget | None:
    """Open the budget of a run; None where nothing is spent."""
    if not has_noise(config):
        return None
    participation = participation_of(config, num_users=num_users)
    options: Any = {
        "noise_multiplier": noise_multiplier_of(config, num_users=num_users),
        "delta": delta_of(config, num_users=num_users),
        "accountant": accountant_used(participation, config.privacy.accountant),
    }
    return Budget(
        path=folder / BUDGET,
        participation=participation,
        spent_after=epsilon_by_round(participation, **options),
        **options,
        num_rounds=config.federation.num_rounds,
        is_private=config.privacy.seed is None,
    )
