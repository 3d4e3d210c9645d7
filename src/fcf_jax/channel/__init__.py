"""The channel between clients and server: a chain of links, open to links of your own."""

from fcf_jax.channel import attack
from fcf_jax.channel.clip_and_noise import (
    ClippingState,
    adaptive_clip_and_noise,
    clip,
    clip_and_noise,
    clip_factor,
    joint_norm,
)
from fcf_jax.channel.clock import (
    Devices,
    client_seconds,
    devices_of_classes,
    draw_devices,
    first_to_arrive,
    round_seconds,
)
from fcf_jax.channel.confidences import confidences_once
from fcf_jax.channel.consistency import consistency_check, is_consistent
from fcf_jax.channel.dropouts import dropouts, dropouts_by_activity, void_below
from fcf_jax.channel.error_feedback import quantize_with_feedback
from fcf_jax.channel.fixed_point import FixedPoint, check_formats, choose_formats, fixed_point
from fcf_jax.channel.item_subset import item_subset, step_of_sent_items
from fcf_jax.channel.link import chain, link
from fcf_jax.channel.projection import random_projection
from fcf_jax.channel.quantization import quantize_items, quantize_uploads
from fcf_jax.channel.robust_sums import coordinate_median, trimmed_mean
from fcf_jax.channel.sent_rows import SentRows, sent_rows
from fcf_jax.channel.top_rows import top_rows
from fcf_jax.core.records import Accumulation, Link, Part, Payload, Pieces, Uploads

__all__ = [
    "Accumulation",
    "ClippingState",
    "Devices",
    "FixedPoint",
    "Link",
    "Part",
    "Payload",
    "Pieces",
    "SentRows",
    "Uploads",
    "adaptive_clip_and_noise",
    "attack",
    "chain",
    "check_formats",
    "choose_formats",
    "client_seconds",
    "clip",
    "clip_and_noise",
    "clip_factor",
    "confidences_once",
    "consistency_check",
    "coordinate_median",
    "devices_of_classes",
    "draw_devices",
    "dropouts",
    "dropouts_by_activity",
    "first_to_arrive",
    "fixed_point",
    "is_consistent",
    "item_subset",
    "joint_norm",
    "link",
    "quantize_items",
    "quantize_uploads",
    "quantize_with_feedback",
    "random_projection",
    "round_seconds",
    "sent_rows",
    "step_of_sent_items",
    "top_rows",
    "trimmed_mean",
    "void_below",
]
