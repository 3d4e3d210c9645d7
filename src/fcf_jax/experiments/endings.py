"""Bad ends of a training, with what helps: not converged, nothing learned, diverged."""

from collections.abc import Sequence

import numpy as np

from fcf_jax.als import MAX_SWEEPS
from fcf_jax.experiments.build.measuring import loss_of_scores
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.cautions import caution_of_strengths
from fcf_jax.experiments.loop import Divergence

_EXCESS = 0.01  # of ALS's loss; cohorts and Adam end below 1.01 when they have converged
_LAST_PART = 10  # the last tenth of the rounds
_NOTHING = 1e-3  # of the loss of factors of 0
_LARGE_CONFIDENCE = 100.0  # alpha r of the median interaction; ratings and counts have 4 to 20


def caution_of_end(
    problem: Problem, federated: float, centralized: float | None, losses: Sequence[float]
) -> str | None:
    """Return a caution if training ended before the loss settled, or in a model that predicts nothing.

    Args:
        problem: as resolved.
        federated: loss of the federation at the end.
        centralized: loss of ALS at its end; None if it was not trained.
        losses: of the federation before each round, over all clients; empty if nobody knows them.
    """
    nothing = (1 - _NOTHING) * loss_of_scores(problem.model, problem.train, 0.0)
    ends = [federated] if centralized is None else [federated, centralized]
    if losses and min(ends) >= nothing:
        return (
            "the model predicts nothing: its loss is that of factors of 0; lower model.regularization (now "
            f"{problem.config.model.regularization:g})"
        )
    if problem.config.privacy.has_noise:  # the end is due to the noise
        return None
    excess = None if centralized is None else federated / centralized
    if excess is not None and excess > 1 + _EXCESS:
        return f"not converged: loss {excess:.2f} x ALS's; {_remedy(problem)}"
    if excess is None and len(losses) > 1:
        num_last = -(-len(losses) // _LAST_PART)
        fall = 1 - federated / losses[-num_last]
        if fall > _EXCESS:
            rounds = "the last round" if num_last == 1 else f"the last {num_last} rounds"
            return f"not converged: the loss fell by {100 * fall:.2g} % in {rounds}; {_remedy(problem)}"
    return None


def caution_of_als(num_sweeps: int) -> str | None:
    """Return a caution if ALS itself stopped at its cap, so that its loss is no minimum either."""
    if num_sweeps < MAX_SWEEPS:
        return None
    return f"ALS has not converged after {num_sweeps} sweeps: its own loss still falls"


def remedy_of_divergence(problem: Problem, divergence: Divergence) -> str:
    """Return advice that fits the cause of a divergence."""
    config = problem.config
    if divergence.round == 0:
        return "no step was taken yet: lower model.init_scale or model.regularization, or rescale strengths"
    if config.model.regularization == 0:
        return "raise model.regularization"
    if _has_large_strengths(problem):
        return "lower model.alpha or set data.strengths=log"
    if config.server.spec.is_guarded:
        return "raise server.initial_damping"
    return 'lower server.learning_rate or set server.step = "guarded_gram"'


def _remedy(problem: Problem) -> str:
    config = problem.config
    remedies = ["raise federation.num_rounds"]
    if _has_large_strengths(problem):
        remedies.append("set data.strengths=log")
    elif not config.server.spec.is_guarded and config.federation.cohort_size is None:
        remedies.append("set server.step=guarded_gram")
    return " or ".join(remedies)


def _has_large_strengths(problem: Problem) -> bool:
    """Return whether strengths as they are give confidences that are large or of very different size."""
    data, train = problem.config.data, problem.train
    if data.feedback == "explicit" or data.strengths != "keep":
        return False
    is_large = problem.config.model.alpha * float(np.median(train.strengths)) > _LARGE_CONFIDENCE
    return is_large or caution_of_strengths(data, train) is not None
