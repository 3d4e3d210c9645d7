"""Attackers and defences of an experiment: their links, and the exposure that attackers reach."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.channel import Link, Pieces, clip, consistency_check
from fcf_jax.channel.attack import (
    draw_malicious,
    draw_targets,
    explicit_boosting,
    fed_rec_attack,
    poisoned_history,
    public_interactions,
    rank_one,
    untargeted_noise,
)
from fcf_jax.channel.robust_sums import trimmed_mean_of_rows
from fcf_jax.core.packing import choose_row_width
from fcf_jax.evaluation import exposure, summarize, user_metrics
from fcf_jax.experiments.build.histories import trained_histories
from fcf_jax.experiments.build.measuring import scored_data
from fcf_jax.experiments.errors import ConfigError

if TYPE_CHECKING:
    from fcf_jax.experiments.build.problem import Problem

_NUM_FILLERS = 100  # popular items that made-up histories are filled from
_LENGTHS = (5, 10)  # of the lists that exposure is measured in, as published


class Attackers(NamedTuple):
    """Malicious users and their targets.

    Attributes:
        roles: target of each malicious user, -1 for an honest one.
        targets: target items.
    """

    roles: np.ndarray
    targets: np.ndarray

    @property
    def is_honest(self) -> np.ndarray:
        """Whether a user is honest."""
        return self.roles < 0


def attackers_of(problem: "Problem") -> Attackers:
    """Draw targets and malicious users, as configured.

    Raises:
        ConfigError: for targets that the data do not have.
    """
    attack, train = problem.config.attack, problem.train
    key_targets, key_users = jax.random.split(jax.random.key(attack.seed))
    if attack.targets is not None:
        targets = _named(attack.targets, train.item_labels, train.num_items)
    else:
        targets = np.asarray(draw_targets(key_targets, train.item_counts, num_targets=attack.num_targets))
    lengths = trained_histories(problem.config.privacy, train, seed=problem.config.data.seed).history_lengths
    roles = draw_malicious(key_users, lengths, share=attack.share, targets=targets)
    return Attackers(np.asarray(roles), targets)


def _named(wanted: list[int | str], labels: np.ndarray | None, num_items: int) -> np.ndarray:
    """Return the numbers of items by their ids in the data, which are texts or integers."""
    known = map(str, range(num_items) if labels is None else labels.tolist())
    numbers = {label: number for number, label in enumerate(known)}
    missing = [str(label) for label in wanted if str(label) not in numbers]
    if missing:
        raise ConfigError(
            f"attack.targets: expected ids of items of the training set, got {', '.join(missing)}; "
            "choose others, or leave it out"
        )
    return np.array([numbers[str(label)] for label in wanted], np.int32)


def is_attacked(problem: "Problem") -> bool:
    """Return whether some clients are malicious."""
    return problem.config.attack.has_attackers


def attack_link(problem: "Problem") -> Link:
    """Build the link of the malicious clients."""
    attack, train, (roles, targets) = problem.config.attack, problem.train, attackers_of(problem)
    strength = attack.strength
    if attack.kind == "explicit_boosting":
        return explicit_boosting(roles, strength=strength)
    if attack.kind == "untargeted_noise":
        return untargeted_noise(roles, strength=strength)
    if attack.kind == "rank_one":
        return rank_one(roles, train.item_counts / train.num_users, strength=strength)
    if attack.kind == "fed_rec_attack":
        public = public_interactions(train, share=attack.public_share, seed=attack.seed)
        return fed_rec_attack(roles, public, targets=targets, strength=strength)
    fillers = np.argsort(-train.item_counts, kind="stable")[:_NUM_FILLERS].astype(np.int32)
    return poisoned_history(jax.random.key(attack.seed), roles, fillers=fillers, strength=strength)


def is_defended(problem: "Problem") -> bool:
    """Return whether the server defends itself."""
    return problem.config.attack.defence != "none"


def defence_link(problem: "Problem") -> Link:
    """Build the link of the defence."""
    attack, config = problem.config.attack, problem.config
    if attack.defence == "clip":
        return clip(Pieces(attack.clip_norm, None, None, None))
    histories = trained_histories(config.privacy, problem.train, seed=config.data.seed)
    if attack.defence == "consistency":
        strengths = histories.strengths
        return consistency_check(strength_range=(float(strengths.min()), float(strengths.max())))
    width = choose_row_width(histories)
    return trimmed_mean_of_rows(
        -(-histories.history_lengths // width),
        row_width=width,
        num_factors=config.model.num_factors,
        share=0.5 if attack.defence == "median" else attack.trim_share,
    )


def attack_summary(problem: "Problem", item_factors: np.ndarray) -> dict[str, Any]:
    """Measure exposure of the targets, and the metrics of honest users; empty without attackers."""
    if not is_attacked(problem):
        return {}
    attackers, config, train = attackers_of(problem), problem.config, problem.train
    model, y = problem.model, jnp.asarray(item_factors)
    found = exposure(model, y, train, attackers.targets, users=attackers.is_honest, k=_LENGTHS)
    data = scored_data(
        problem.dataset, config.evaluation, compare=lambda histories: histories, seed=config.data.seed
    )
    honest = {}
    if data is not None and config.data.split != "strong":  # users held out whole are not malicious
        metrics = user_metrics(model, y, data, k=config.evaluation.lengths)
        is_honest = attackers.is_honest[np.asarray(data.user_ids)]
        honest = summarize(jax.tree.map(lambda leaf: np.asarray(leaf)[is_honest], metrics))
    labels = train.item_labels
    targets = attackers.targets if labels is None else labels[attackers.targets]
    return {
        "attack": {
            "kind": config.attack.kind,
            "defence": config.attack.defence,
            "num_malicious": int(np.sum(~attackers.is_honest)),
            "targets": targets.tolist(),
            **found,
            "honest": honest,
        }
    }
