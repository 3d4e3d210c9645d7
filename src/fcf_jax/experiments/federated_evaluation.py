"""Federated evaluation of a run: clients compute metrics, and the server learns their sums."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.evaluation import per_user, user_metrics
from fcf_jax.experiments.build.devices import share_files
from fcf_jax.experiments.build.histories import compared_histories
from fcf_jax.experiments.build.measuring import scored_data
from fcf_jax.experiments.build.problem import Problem, rounds_key
from fcf_jax.experiments.store.budget import Budget
from fcf_jax.experiments.store.run_directory import FEDERATED_EVALUATION
from fcf_jax.privacy.federated_metrics import FederatedMeans, federated_means, present_clients

_NAMES = ("precision", "recall", "map", "ndcg", "hit_rate")  # at the first k
_NO_ROUND = 2**32 - 2  # folded into the key in place of a round index


def federated_evaluation(
    problem: Problem,
    folder: Path,
    budget: Budget | None,
    item_factors: np.ndarray,
    user_map: np.ndarray | None = None,
) -> dict[str, Any]:
    """Let the clients measure themselves, once after training; empty if not configured or without test items.

    Under noise the release is charged, and then written, before it is used; a resumed run reads it.

    Args:
        problem: of the run.
        folder: run directory.
        budget: what the release is charged to; None without noise.
        item_factors: Y.
        user_map: A; None: users have no features.

    Raises:
        OSError: when the means cannot be written.
    """
    if not problem.config.evaluation.federated:
        return {}
    share_files(folder, [FEDERATED_EVALUATION.name])
    if budget is not None and FEDERATED_EVALUATION.is_in(folder):
        return {"federated_evaluation": FEDERATED_EVALUATION.read(folder)}
    metrics = _of_clients(problem, item_factors, user_map)
    if metrics is None:
        return {}
    if budget is not None:
        budget.charge(0)  # states the release on disk before anything is made of it
    found = _summed(problem, *metrics)
    content = {
        **{f"federated_{name}": value for name, value in found.means.items()},
        "num_clients": found.num_clients,
        "noise_std": found.noise_std,
    }
    FEDERATED_EVALUATION.write(folder, content)
    return {"federated_evaluation": content}


def _of_clients(
    problem: Problem, item_factors: np.ndarray, user_map: np.ndarray | None
) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Return the metrics of each client by name, and the users that they are of; None without test items."""
    config = problem.config

    def compare(histories: Any) -> Any:
        return compared_histories(config.model, histories, seed=config.data.seed)

    data = scored_data(problem.dataset, config.evaluation, compare=compare, seed=config.data.seed)
    if data is None:
        return None
    k = config.evaluation.leading_k
    found = per_user(user_metrics(problem.model, jnp.asarray(item_factors), data, k=k, user_map=user_map))
    return {f"{name}_at_{k}": found[f"{name}_at_{k}"] for name in _NAMES}, np.asarray(data.user_ids)


def _summed(problem: Problem, metrics: dict[str, np.ndarray], user_ids: np.ndarray) -> FederatedMeans:
    config, protection = problem.config, problem.protection
    key = jax.random.fold_in(rounds_key(config.privacy, problem.key), _NO_ROUND)
    key_clients, key_noise = jax.random.split(key)
    dropout = np.asarray(problem.client_devices.dropout)
    dropout = dropout[config.federation.num_rounds % len(dropout)] if dropout.ndim == 2 else dropout
    comes = present_clients(key_clients, dropout, num_users=problem.train.num_users)[user_ids]
    noise = None if protection is None else protection.participation.evaluation_noise_multiplier
    if noise is not None and config.privacy.spec.noise_on == "upload":  # each client adds its own
        noise *= float(np.sqrt(max(comes.sum(), 1)))
    sums_securely = config.privacy.spec.sums_securely
    return federated_means(
        metrics,
        takes_part=comes,
        key=key_noise,
        noise_multiplier=noise,
        is_in_fixed_point=sums_securely,
        min_clients=config.privacy.min_cohort if sums_securely else 1,
    )
