"""What is measured of one side of a comparison, in every build, and between the sides."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fcf_jax.evaluation import ModelDifference, UserMetrics, model_difference, per_user, summarize
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.compare.statistics import Values


class Assessment(NamedTuple):
    """The models of one side, what they lose and what they find; on the host."""

    item_factors: Float[np.ndarray, "builds items factors"]
    user_factors: Float[np.ndarray, "builds users factors"]  # solved against them from the training histories
    loss: Float[np.ndarray, "builds"]  # min_X J(X, Y)
    metrics: UserMetrics | None  # [builds, users] each; None without any test item


def metrics_of_builds(assessment: Assessment, *, k: int) -> dict[str, Values]:
    """Summarise each build: metrics and loss, [builds] each; nan without test items."""
    num_builds = assessment.loss.size
    if assessment.metrics is None:
        named = {name: np.full(num_builds, np.nan) for name in metric_names(k)}
    else:
        summaries = [summarize(_build(assessment.metrics, build), k=k) for build in range(num_builds)]
        named = {name: np.array([one[name] for one in summaries]) for name in metric_names(k)}
    return {**named, "loss": assessment.loss.astype(np.float64)}


def metrics_of_users(assessment: Assessment, *, k: int) -> dict[str, Values]:
    """Name the metrics of each user, [builds, users] each; none without test items."""
    if assessment.metrics is None:
        return {}
    builds = [per_user(_build(assessment.metrics, one), k=k) for one in range(assessment.loss.size)]
    return {name: np.stack([one[name] for one in builds]) for name in builds[0]}


def difference_between(federated: Assessment, centralized: Assessment) -> dict[str, Values]:
    """Compute how far apart the models of each build are, [builds] each; see `model_difference`."""
    sides = (
        federated.item_factors,
        federated.user_factors,
        centralized.item_factors,
        centralized.user_factors,
    )
    of_builds = [model_difference(*models) for models in zip(*sides, strict=True)]
    return {
        f"{name}_difference": np.array([getattr(one, name) for one in of_builds])
        for name in ModelDifference._fields
    }


def _build(tree: Any, build: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[build], tree)
