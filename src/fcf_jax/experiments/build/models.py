"""The two models of an experiment as configured: the federation, and centralised ALS from the same start."""

from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float

from fcf_jax.als import Als, centralized_als
from fcf_jax.core.cohort_sum import FLOAT_SUMS
from fcf_jax.core.federation import Federation, federated_cf
from fcf_jax.core.records import Accumulation, Weighting
from fcf_jax.experiments.build.privacy import configured_mechanism
from fcf_jax.experiments.config.privacy_numbers import is_sampled
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import build_optimizer


def weights_of(config: ExperimentConfig) -> dict[str, Any]:
    """Name lambda and w0, as every function of the model takes them."""
    model = config.model
    return {"regularization": model.regularization, "unobserved_weight": model.unobserved_weight}


def model_options(config: ExperimentConfig, *, num_items: int, mesh: Mesh | None = None) -> dict[str, Any]:
    """Name what both models are made with."""
    model = config.model
    sizes = {"num_items": num_items, "num_factors": model.num_factors}
    return {**sizes, **weights_of(config), "init_scale": model.init_scale, "mesh": mesh}


def configured_federation(
    config: ExperimentConfig,
    weighting: Weighting,
    *,
    num_users: int,
    num_items: int,
    mesh: Mesh | None = None,
    optimizer: optax.GradientTransformation | None = None,
    item_weights: Float[np.ndarray, "items"] | None = None,
    accumulation: Accumulation = FLOAT_SUMS,
) -> Federation:
    """Set up the federation; a cohort of all users is everybody.

    Args:
        config: its numbers may be traced (`with_values`).
        weighting: of the data.
        num_users: that cohorts are drawn from.
        num_items: M.
        mesh: devices that share a round.
        optimizer: in place of the configured server step.
        item_weights: made of released counts, for a mechanism.
        accumulation: how rounds are summed, from `accumulation_of`.
    """
    federation = config.federation
    return federated_cf(
        build_optimizer(config) if optimizer is None else optimizer,
        weighting,
        cohort_size=federation.cohort_size if is_sampled(config, num_users=num_users) else None,
        sampling=federation.sampling,
        mechanism=configured_mechanism(config, num_users=num_users, item_weights=item_weights),
        accumulation=accumulation,
        **model_options(config, num_items=num_items, mesh=mesh),
    )


def configured_als(
    config: ExperimentConfig, weighting: Weighting, *, num_items: int, mesh: Mesh | None = None
) -> Als:
    """Set up centralised ALS."""
    return centralized_als(weighting, **model_options(config, num_items=num_items, mesh=mesh))
