"""One round as a program of its own, so that a fit can tell of each, and a second fit compiles nothing."""

from functools import partial
from typing import NamedTuple

import jax
import optax

from fcf_jax.core.federation import Federation, federated_cf
from fcf_jax.core.records import Key, PackedClients, RoundInfo, Scalar
from fcf_jax.core.server import ServerState
from fcf_jax.core.weighting import implicit_feedback
from fcf_jax.optimizers import guarded_gram, running_sums


class Sizes(NamedTuple):
    """What a round is compiled for."""

    num_items: int
    num_factors: int
    cohort_size: int | None
    server_step: optax.GradientTransformation | None


class Weights(NamedTuple):
    """What may change without compiling."""

    alpha: Scalar
    regularization: Scalar
    unobserved_weight: Scalar


def make_federation(sizes: Sizes, weights: Weights) -> Federation:
    """Set up the federation, with the step that suits its cohorts if none is given."""
    step = sizes.server_step
    if step is None:
        make_step = guarded_gram if sizes.cohort_size is None else running_sums
        step = make_step(regularization=weights.regularization, unobserved_weight=weights.unobserved_weight)
    return federated_cf(
        step,
        implicit_feedback(alpha=weights.alpha),
        num_items=sizes.num_items,
        num_factors=sizes.num_factors,
        cohort_size=sizes.cohort_size,
        regularization=weights.regularization,
        unobserved_weight=weights.unobserved_weight,
    )


@partial(jax.jit, static_argnums=(0, 1))
def run_round(
    sizes: Sizes,
    row_capacity: int,
    weights: Weights,
    key: Key,
    state: ServerState,
    clients: PackedClients,
) -> tuple[ServerState, RoundInfo]:
    """Run one round; arguments as of `Federation.round`."""
    return make_federation(sizes, weights).round(key, state, clients, row_capacity=row_capacity)
