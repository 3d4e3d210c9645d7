"""The channel between clients and server: a chain of links, open to links of your own."""

from fcf_jax.channel.clip_and_noise import (
    ClippingState,
    adaptive_clip_and_noise,
    clip_and_noise,
    clip_factor,
    joint_norm,
)
from fcf_jax.channel.dropouts import dropouts, dropouts_by_activity, void_below
from fcf_jax.channel.fixed_point import FixedPoint, check_formats, choose_formats, fixed_point
from fcf_jax.channel.link import chain, link
from fcf_jax.core.records import Accumulation, Link, Part, Payload, Pieces, Uploads

__all__ = [
    "Accumulation",
    "ClippingState",
    "FixedPoint",
    "Link",
    "Part",
    "Payload",
    "Pieces",
    "Uploads",
    "adaptive_clip_and_noise",
    "chain",
    "check_formats",
    "choose_formats",
    "clip_and_noise",
    "clip_factor",
    "dropouts",
    "dropouts_by_activity",
    "fixed_point",
    "joint_norm",
    "link",
    "void_below",
]
