"""Confidences that are sent once: their sum does not depend on Y, so that one sum serves all rounds.

Over cohorts, sums of confidences are otherwise linear equations in the histories, one more in each round,
and enough of them have one solution. A single sum over all users is one equation.

    channel = chain(fixed_point(...), confidences_once(total, num_users=...))
"""

import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.channel.link import link
from fcf_jax.core.records import CohortSum, Key, Link, Part, Payload, Scalar


def confidences_once(total: Float[Array | np.ndarray, "items"], *, num_users: Scalar) -> Link:
    """Build a link that takes the sum of confidences from before the first round, not from the cohorts.

    The server scales the sums of a cohort to all users. What the link puts in place of the cohort's sum of
    confidences scales to exactly `total`.

    Args:
        total: sum of c - w0 over all users, of each item.
        num_users: N, the users in that sum.
    """
    return link(server=Partial(_known, total, num_users), payload=_without_confidences)


def _known(
    total: Array, num_users: Scalar, key: Key, state: tuple, sums: CohortSum
) -> tuple[CohortSum, tuple]:
    share = jnp.asarray(sums.num_clients, sums.confidence_sum.dtype) / num_users
    padded = jnp.zeros_like(sums.confidence_sum).at[: total.shape[0]].set(total)
    return sums._replace(confidence_sum=share * padded), state


def _without_confidences(payload: Payload) -> Payload:
    return payload._replace(up=payload.up._replace(confidence_sum=Part(0)))
