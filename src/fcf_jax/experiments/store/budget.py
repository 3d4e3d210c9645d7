"""Privacy budget of a run: charged, and on disk, before a noised result is released; never refunded."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fcf_jax.experiments.build.devices import share_files
from fcf_jax.experiments.build.histories import (
    release_item_counts,
    release_second_moments,
    weights_of_counts,
)
from fcf_jax.experiments.build.problem import Problem, rounds_key
from fcf_jax.experiments.errors import CheckpointError, DamagedFileError
from fcf_jax.experiments.store.privacy_ledger import charge_ledger, entry_of
from fcf_jax.experiments.store.run_directory import BUDGET, ITEM_COUNTS, ITEM_FACTORS, SECOND_MOMENTS
from fcf_jax.experiments.store.schemas import EPSILON_IN_NAME_ONLY, LedgerShare, PrivacyStatement
from fcf_jax.messages import count_of
from fcf_jax.privacy.accounting import Accountant, Participation, accountant_used, epsilon_by_round
from fcf_jax.privacy.composition import Release

_ALONE = (
    "only this run is counted: other runs on the same users, to tune or to repeat it, add their own epsilon; "
    "privacy.ledger adds them up"
)
_IN_LEDGER = (
    "epsilon is that of this run; the ledger counts the runs that name it, and neither knows other releases "
    "nor whether their users are the same"
)
_IN_NAME_ONLY = "NOT PRIVATE: so little noise that epsilon protects nobody"
_FIXED_SEED = "NOT PRIVATE: privacy.seed is fixed, and so are noise and sampling"
_WARM_START = (
    "training starts from item factors that are taken as known to everybody: if they were learned from the "
    "same users, the epsilon of that training, infinite without noise, adds to this one"
)
_CAVEATS = [
    "noise is discrete and drawn exactly, and sums are rounded to a grid before it is added; the sums are "
    "those of floating point: how a client changes the rounding of the others' contributions is not counted",
    "users are those of the training set: how it was split off the whole, its number of users and its "
    "catalogue of items are taken as known to everybody",
    "clients are solved many at a time in float32, so that one may change the last bits of another's numbers",
    "noise and sampling come from JAX's Threefry generator, begun with 64 bits of the system's entropy",
    "metrics.jsonl, summary.json and the report hold measures without noise, and checkpoint_salt.json opens "
    "the digest of the data in checkpoints: all of these are for the experimenter alone",
]


class Budget(NamedTuple):
    """Rounds that a run may release, with the file that counts those charged.

    Attributes:
        folder: run directory of that file.
        participation: who takes part in a round.
        noise_multiplier: standard deviation of the noise, in clip norms.
        delta: of the guarantee.
        accountant: method that computes epsilon.
        spent_after: epsilon of a number of rounds.
        num_rounds: most rounds that may be charged; rounds repeated after a kill are charged again.
        is_private: False when the noise has a fixed seed.
        is_warm: whether training starts from earlier item factors.
        ledger: file that runs on the same users share; None: there is none.
        ledger_epsilon: largest epsilon of all runs of the ledger; None: no limit.
    """

    folder: Path
    participation: Participation
    noise_multiplier: float
    delta: float
    accountant: Accountant
    spent_after: Callable[[int], float]
    num_rounds: int
    is_private: bool
    is_warm: bool = False
    ledger: Path | None = None
    ledger_epsilon: float | None = None

    def stated(self) -> PrivacyStatement:
        """Read the statement of what any process has spent so far.

        Raises:
            DamagedFileError: when the file is not one of this run.
        """
        found, path = BUDGET.read_or(self.folder, None), self.folder / BUDGET.name
        if found is None:
            return self._statement(0)
        if found["rounds_charged"] > self.num_rounds:
            raise DamagedFileError(
                f"{path}: expected at most {count_of(self.num_rounds, 'round')} charged, as "
                f"federation.num_rounds, got {found['rounds_charged']}; {BUDGET.remedy}"
            )
        ours = self._statement(0)
        for key in ("noise_multiplier", "delta", "num_users", "sampling", "expected_cohort_size"):
            if found[key] != ours[key]:
                raise DamagedFileError(
                    f"{path}: expected {key} {ours[key]}, as this run has, got {found[key]}; {BUDGET.remedy}"
                )
        return found

    def rounds_spent(self) -> int:
        """Return the number of rounds charged so far."""
        return self.stated()["rounds_charged"]

    def charge(self, num_rounds: int) -> bool:
        """Charge rounds before they run; return False, charging nothing, if the budget does not allow them.

        Raises:
            OSError: when it cannot be written; then nothing may be released.
        """
        charged = self.rounds_spent() + num_rounds
        if charged > self.num_rounds:
            return False
        BUDGET.write(self.folder, self._statement(charged, self.stated().get("ledger")))
        return True

    def enter_ledger(self) -> None:
        """Charge the ledger, if there is one, for all rounds that the run may release.

        The name of the entry is on disk first: a process that is killed in between is charged once.

        Raises:
            ConfigError: when all runs together would exceed `ledger_epsilon`.
            DamagedFileError: when budget or ledger cannot be read.
            OSError: when one cannot be written; then nothing may be released.
        """
        if self.ledger is None or jax.process_index() > 0:
            return
        path, stated = self.ledger.absolute(), self.stated()
        share = stated.get("ledger")
        if share is None or share["path"] != str(path):
            share = LedgerShare(path=str(path), run=uuid.uuid4().hex, epsilon=None)
            BUDGET.write(self.folder, self._statement(stated["rounds_charged"], share))
        entry = entry_of(
            share["run"],
            self.folder,
            Release(self.participation, self.noise_multiplier, self.num_rounds),
            epsilon=self.spent_after(self.num_rounds),
            delta=self.delta,
        )
        total = charge_ledger(path, entry, limit=self.ledger_epsilon)
        BUDGET.write(self.folder, self._statement(stated["rounds_charged"], {**share, "epsilon": total}))

    def epsilon(self) -> float:
        """Compute epsilon of the rounds charged so far."""
        return self.spent_after(self.rounds_spent())

    def _statement(self, num_rounds: int, share: LedgerShare | None = None) -> PrivacyStatement:
        epsilon = self.spent_after(num_rounds)
        in_name_only = epsilon >= EPSILON_IN_NAME_ONLY
        statement: PrivacyStatement = {
            "is_private": self.is_private and not in_name_only,
            "epsilon": epsilon,
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
            "evaluation_noise_multiplier": self.participation.evaluation_noise_multiplier,
            "released": "the item factors after each round; before the first one item counts, or counts and "
            "second moments, if item_counts_noise_multiplier, their noise, is not null; means of metrics if "
            "they have a noise multiplier; user factors stay on their devices (joint DP)",
            "caveats": [
                *_CAVEATS,
                _ALONE if share is None else _IN_LEDGER,
                *[_WARM_START] * self.is_warm,
                *[_FIXED_SEED] * (not self.is_private),
                *[_IN_NAME_ONLY] * in_name_only,
            ],
            "rounds_charged": num_rounds,
        }
        return statement if share is None else {**statement, "ledger": share}


def budget_of(problem: Problem, folder: Path) -> Budget | None:
    """Open the budget of a run; None without differential privacy."""
    protection = problem.protection
    if protection is None:
        return None
    accountant = accountant_used(protection.participation, protection.privacy.accountant)
    return Budget(
        folder=folder,
        participation=protection.participation,
        noise_multiplier=protection.noise_multiplier,
        delta=protection.delta,
        accountant=accountant,
        spent_after=epsilon_by_round(
            protection.participation,
            noise_multiplier=protection.noise_multiplier,
            delta=protection.delta,
            accountant=accountant,
        ),
        num_rounds=protection.num_rounds,
        is_private=protection.privacy.seed is None,
        is_warm=problem.start is not None,
        ledger=None if protection.privacy.ledger is None else Path(protection.privacy.ledger).expanduser(),
        ledger_epsilon=protection.privacy.ledger_epsilon,
    )


def open_budget(problem: Problem, folder: Path) -> Budget | None:
    """Open the budget of a run that is about to train, which enters its ledger; see `Budget.enter_ledger`."""
    budget = budget_of(problem, folder)
    if budget is not None:
        budget.enter_ledger()
    return budget


def released_item_weights(
    problem: Problem, folder: Path, budget: Budget | None
) -> Float[np.ndarray, "items"] | None:
    """Return the item weights of a run, made of noised item counts that are released once.

    The counts are charged, then written, before they are used; a resumed run reads them.

    Args:
        problem: of the run.
        folder: run directory.
        budget: what the release is charged to.

    Returns:
        None when the configuration does not ask for item counts, or for second moments alone.

    Raises:
        CheckpointError: when a run that has begun lost its counts.
        OSError: when the counts cannot be written.
    """
    protection, seed = problem.protection, problem.config.data.seed
    if budget is None or protection is None or not protection.privacy.needs_item_counts:
        return None
    share_files(folder, [ITEM_COUNTS.name])
    if not ITEM_COUNTS.is_in(folder):
        if budget.rounds_spent() > 0:
            path = folder / ITEM_COUNTS.name
            raise CheckpointError(f"{path}: expected the counts that were released; choose another --out")
        key = rounds_key(protection.privacy, jax.random.key(0))
        counts = release_item_counts(protection, problem.train, key, seed=seed)
        budget.charge(0)  # states the release on disk before anything is made of it
        ITEM_COUNTS.write(folder, {"counts": counts})
    if protection.privacy.starts_from_moments:
        return None
    return weights_of_counts(protection.privacy, ITEM_COUNTS.read(folder)["counts"])


def released_start(
    problem: Problem, folder: Path, budget: Budget | None
) -> Float[np.ndarray, "items factors"] | None:
    """Return the first item factors of a run where they are computed from released second moments.

    They are released and charged once, after the item counts (`released_item_weights`); a resumed run reads
    them.

    Returns:
        None when the configuration does not ask for second moments.

    Raises:
        CheckpointError: when a run that has ended lost them.
        OSError: when they cannot be written.
    """
    protection, config = problem.protection, problem.config
    if budget is None or protection is None or not protection.privacy.starts_from_moments:
        return None
    share_files(folder, [SECOND_MOMENTS.name])
    if not SECOND_MOMENTS.is_in(folder):
        if ITEM_FACTORS.is_in(folder):
            path = folder / SECOND_MOMENTS.name
            raise CheckpointError(f"{path}: expected the moments that were released; choose another --out")
        factors = release_second_moments(
            protection,
            problem.train,
            ITEM_COUNTS.read(folder)["counts"],
            rounds_key(protection.privacy, jax.random.key(0)),
            num_factors=config.model.num_factors,
            seed=config.data.seed,
        )
        budget.charge(0)
        SECOND_MOMENTS.write(folder, {"item_factors": factors})
    return SECOND_MOMENTS.read(folder)["item_factors"]
