r"""Logistic matrix factorization: the probability of an interaction is sigma(x.y_i).

    d(p, s) = 2 (log(1 + e^s) - p s),   p = 1 for an interaction, 0 for a sampled negative

The Gram matrix cannot sum a logistic loss over the whole catalogue. Negatives are therefore sampled: they are
interactions of strength 0 in the histories (`fcf_jax.data.with_negatives`), and w0 is 0.

References:
    Johnson, "Logistic Matrix Factorization for Implicit Feedback Data", NIPS workshop 2014.
"""

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.core.checks import require
from fcf_jax.core.objective import confidence
from fcf_jax.core.objectives.record import Objective
from fcf_jax.core.records import ClientData, Observations, Scalar, Weighting


def logistic() -> Objective:
    """Return the logistic objective, for `Model(sampled_feedback(alpha=...), ..., objective=logistic())`."""
    return _LOGISTIC


def sampled_feedback(*, alpha: Scalar) -> Weighting:
    """Build the weighting of interactions and sampled negatives: c = 1 + alpha r, p = 1 if r > 0, else 0.

    Args:
        alpha: confidence added by one unit of strength, at least 0; may be traced.

    Raises:
        ValueError: for a negative alpha.
    """
    require(alpha=alpha)
    return Partial(_weigh_sampled, alpha=alpha)


def _weigh_sampled(data: ClientData, *, alpha: Scalar) -> Observations:
    return Observations(
        item_ids=data.item_ids,
        confidence=confidence(data.strengths, alpha=alpha),
        preference=(data.strengths > 0).astype(data.strengths.dtype),
        mask=data.mask,
    )


def _loss(preference: Float[Array, "..."], score: Float[Array, "..."]) -> Float[Array, "..."]:
    # log(1 + e^-s) where p = 1, so that nothing cancels
    return 2.0 * (jax.nn.softplus(jnp.where(preference > 0.5, -score, score)))


def _residual(preference: Float[Array, "..."], score: Float[Array, "..."]) -> Float[Array, "..."]:
    is_preferred = preference > 0.5
    size = jax.nn.sigmoid(jnp.where(is_preferred, -score, score))
    return jnp.where(is_preferred, size, -size)


def _curvature(_: Float[Array, "..."], score: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.sigmoid(score) * jax.nn.sigmoid(-score)


_LOGISTIC = Objective("logistic", _loss, _residual, _curvature)
