"""The federation of an experiment as configured."""

import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float

from fcf_jax.channel import Link, chain
from fcf_jax.core.federation import Federation, draw_item_factors, federated_cf
from fcf_jax.core.objective import explicit_ratings, implicit_feedback
from fcf_jax.core.records import Key, Model
from fcf_jax.experiments.build.privacy import configured_channel
from fcf_jax.experiments.config.privacy_numbers import is_sampled
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import build_optimizer


def configured_model(config: ExperimentConfig, mean_rating: float) -> Model:
    """Build the model; numbers of the configuration may be traced (`with_values`)."""
    is_explicit = config.data.feedback == "explicit"
    weighting = (
        explicit_ratings(mean=mean_rating) if is_explicit else implicit_feedback(alpha=config.model.alpha)
    )
    return Model(weighting, config.model.regularization, config.model.unobserved_weight)


def configured_federation(
    config: ExperimentConfig,
    model: Model,
    *,
    num_users: int,
    num_items: int,
    mesh: Mesh | None = None,
    item_weights: Float[np.ndarray, "items"] | None = None,
    sums: Link | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Federation:
    """Set up the federation; a cohort of all users is everybody.

    Args:
        config: its numbers may be traced (`with_values`).
        model: from `configured_model`.
        num_users: that cohorts are drawn from.
        num_items: M.
        mesh: devices that share a round.
        item_weights: made of released counts, for clipping and noise.
        sums: the link of fixed-point sums, from `fixed_point_link`.
        optimizer: in place of the configured server step.
    """
    federation = config.federation
    noise = configured_channel(config, num_users=num_users, item_weights=item_weights)
    links = [one for one in (noise, sums) if one is not None]
    return federated_cf(
        model,
        build_optimizer(config) if optimizer is None else optimizer,
        num_items=num_items,
        num_factors=config.model.num_factors,
        cohort_size=federation.cohort_size if is_sampled(config, num_users=num_users) else None,
        sampling=federation.sampling,
        init_scale=config.model.init_scale,
        channel=chain(*links) if links else None,
        mesh=mesh,
    )


def first_item_factors(config: ExperimentConfig, key: Key, *, num_items: int):
    """Draw the item factors that centralised ALS begins with, those of the federation."""
    return draw_item_factors(
        key, num_items=num_items, num_factors=config.model.num_factors, init_scale=config.model.init_scale
    )
