"""Cautions beside a result: heavy tails, models that a floor beats, and secure sums that add up."""

from collections.abc import Mapping

import numpy as np

from fcf_jax.data import Interactions
from fcf_jax.evaluation.metrics import RANKING
from fcf_jax.experiments.config.schema import DataConfig, ExperimentConfig

_TOP_SHARE = 0.01  # of the interactions
_HEAVY_SHARE = 0.1  # of the sum of all strengths; counts up to 20 have .05, play counts of Last.fm .29
_FEWEST_TIMES = 5  # the share of so few interactions that one of them is more than 1 %
Sides = Mapping[str, Mapping[str, float] | None]
_NAMES = {"federated": "the federation", "centralized": "ALS"}


def cautions(
    config: ExperimentConfig, train: Interactions, sides: Sides, popularity: Mapping[str, float]
) -> list[str]:
    """Return the cautions of implicit feedback.

    Args:
        config: as resolved.
        train: training set.
        sides: metrics by name of "federated" and "centralized"; None for a side that was not trained.
        popularity: the same metrics of popularity.
    """
    on_strengths = caution_of_strengths(config.data, train)
    remedy = "`fcf tune` looks for better settings"
    if config.model.has_sampled_negatives:  # fcf tune refuses these
        remedy = "try other values of model.regularization and model.num_negatives"
    if on_strengths:
        remedy = "try data.strengths=log"
    on_ranking = cautions_of_ranking(sides, popularity, k=config.evaluation.leading_k, remedy=remedy)
    return [*filter(None, [on_strengths]), *on_ranking]


def caution_of_secure_sums(config: ExperimentConfig) -> str | None:
    """Return a caution if every round's secure sum adds an equation to those that the server can solve.

    The server knows each cohort. Uploads hardly move in late rounds, and confidences never do.
    """
    federation = config.federation
    sums_differ = federation.cohort_size is not None and federation.num_rounds > 1
    if not (config.privacy.spec.sums_securely and sums_differ):
        return None
    what = "confidences" if config.sent_confidences == "each_round" else "uploads, which hardly move late,"
    return (
        f"secure sums over cohorts protect clients less with every round: sums of {what} are linear "
        "equations in the histories (docs/privacy.md); `fcf audit` measures it; run few rounds, leave out "
        "federation.cohort_size, or choose a privacy.mode with noise"
    )


def caution_of_start(config: ExperimentConfig) -> str | None:
    """Return a caution if epsilon does not count the training that a run under noise starts from."""
    if not (config.privacy.has_noise and config.server.initial_item_factors):
        return None
    return (
        "epsilon does not count the training that server.initial_item_factors come from: if it was on the "
        "same users, its epsilon, infinite without noise, adds to that of this run"
    )


def caution_of_strengths(data: DataConfig, train: Interactions) -> str | None:
    """Return a caution if strengths are confidences with a heavy tail, with the key that helps."""
    if data.feedback == "explicit" or data.strengths != "keep" or train.num_interactions == 0:
        return None
    num_top = max(int(_TOP_SHARE * train.num_interactions), 1)
    strengths = np.asarray(train.strengths, np.float64)
    top = np.partition(strengths, -num_top)[-num_top:]
    share, total = num_top / train.num_interactions, strengths.sum()
    if not top.sum() > max(_HEAVY_SHARE, _FEWEST_TIMES * share) * total:
        return None
    return (
        f"strengths are heavy-tailed: {100 * share:.2g} % of the interactions hold "
        f"{100 * top.sum() / total:.0f} % of their sum (median {np.median(strengths):g}, largest "
        f"{top.max():g}), and confidence follows it; try data.strengths=log"
    )


def cautions_of_ranking(sides: Sides, popularity: Mapping[str, float], *, k: int, remedy: str) -> list[str]:
    """Return a caution for each side that ranks below popularity.

    Args:
        sides: metrics by name of "federated" and "centralized"; None for a side that was not trained.
        popularity: the same metrics of popularity.
        k: length of the ranked lists.
        remedy: advice at the end of the sentence.
    """
    cautions = []
    for side, metrics in sides.items():
        below = [
            f"{name}@{k} {metrics[key]:.4f} against {popularity[key]:.4f}"
            for name in RANKING
            if metrics and round(metrics[key := f"{name}_at_{k}"], 4) < round(popularity[key], 4)
        ]
        if below:
            cautions.append(f"{_NAMES[side]} ranks below popularity ({', '.join(below)}); {remedy}")
    return cautions


def cautions_of_rating(sides: Sides, offsets_rmse: float) -> list[str]:
    """Return a caution for each side that predicts ratings worse than user and item offsets alone."""
    return [
        f"{_NAMES[side]} predicts ratings worse than user and item offsets alone (RMSE {metrics['rmse']:.4f} "
        f"against {offsets_rmse:.4f}); raise model.regularization or lower model.num_factors"
        for side, metrics in sides.items()
        if metrics and metrics["rmse"] > offsets_rmse
    ]
