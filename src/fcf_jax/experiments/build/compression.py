"""Compression of an experiment's messages: its links, and the server step that goes with them."""

from typing import TYPE_CHECKING

import optax

from fcf_jax.channel import (
    Link,
    chain,
    item_subset,
    quantize_items,
    quantize_uploads,
    quantize_with_feedback,
    random_projection,
    step_of_sent_items,
    top_rows,
)
from fcf_jax.experiments.config.channel_section import ChannelConfig

if TYPE_CHECKING:
    from fcf_jax.experiments.build.problem import Problem


def chooses_items(problem: "Problem") -> bool:
    """Return whether a round is of some items only."""
    return problem.config.channel.item_share < 1


def subset_of_items(problem: "Problem") -> Link:
    """Build the link that chooses items; the first choice depends on the seed of the federation."""
    channel = problem.config.channel
    return item_subset(
        channel.item_share,
        num_items=problem.train.num_items,
        num_factors=problem.config.model.num_columns,
        choice=channel.item_choice,
        key=problem.key,
    )


def rounds_items(problem: "Problem") -> bool:
    """Return whether item factors are quantized on their way to the clients."""
    return problem.config.channel.item_bits is not None


def rounded_items(problem: "Problem") -> Link:
    """Build the link that quantizes item factors."""
    assert problem.config.channel.item_bits is not None
    return quantize_items(problem.config.channel.item_bits)


def changes_rows(problem: "Problem") -> bool:
    """Return whether clients compress the rows that they send."""
    return problem.config.channel.changes_rows


def compressed_rows(problem: "Problem") -> Link:
    """Build the links of the rows: fewer directions, then fewer rows, then fewer bits."""
    channel, links = problem.config.channel, []
    if channel.projection is not None:
        links.append(random_projection(channel.projection))
    if channel.top_rows < 1:
        links.append(top_rows(channel.top_rows))
    if channel.upload_bits is not None:
        links.append(_quantization(channel, problem))
    return chain(*links)


def _quantization(channel: ChannelConfig, problem: "Problem") -> Link:
    assert channel.upload_bits is not None
    if channel.rounding == "feedback":
        return quantize_with_feedback(
            channel.upload_bits,
            num_users=problem.train.num_users,
            num_factors=problem.config.model.num_columns,
        )
    return quantize_uploads(channel.upload_bits, is_stochastic=channel.rounding == "random")


def with_items(problem: "Problem", optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the server step, which leaves items alone that were not sent."""
    return step_of_sent_items(optimizer) if chooses_items(problem) else optimizer
