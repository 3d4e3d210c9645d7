"""Measures of a run that are not computed side by side: those of new items and of attacks."""

import numpy as np
from jax import numpy as jnp

from fcf_jax.core.objective import for_items
from fcf_jax.experiments.build.attack import attack_summary
from fcf_jax.experiments.sweep.runs import Packed, Run

Metrics = dict[str, float]


def is_measured_on_host(run: Run, packed: Packed) -> bool:
    """Return whether `measured_on_host` has anything to measure."""
    return packed.new_items is not None or run.problem.config.attack.has_attackers


def measured_on_host(run: Run, packed: Packed, user_factors: np.ndarray, item_factors: np.ndarray) -> Metrics:
    """Measure new items, the exposure of an attack's targets, and the metrics of honest users.

    Args:
        run: that was trained.
        packed: its data.
        user_factors: X, solved from the training histories.
        item_factors: Y.
    """
    problem, found = run.problem, {}
    if (new_items := packed.new_items) is not None:
        of_items = for_items(problem.model, jnp.asarray(problem.train.item_counts), problem.train.num_users)
        found |= new_items.metrics(of_items, user_factors[new_items.user_ids], item_factors)
    attack = attack_summary(problem, item_factors).get("attack", {"honest": {}})
    honest = {f"honest_{name}": value for name, value in attack["honest"].items()}
    return found | {name: value for name, value in attack.items() if isinstance(value, float)} | honest
