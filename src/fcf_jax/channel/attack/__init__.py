"""Attacks: links whose client ends replace what malicious clients send."""

from fcf_jax.channel.attack.crafted import explicit_boosting, fed_rec_attack, rank_one, untargeted_noise
from fcf_jax.channel.attack.poisoned import poisoned_history
from fcf_jax.channel.attack.roles import draw_malicious, draw_targets, public_interactions

__all__ = [
    "draw_malicious",
    "draw_targets",
    "explicit_boosting",
    "fed_rec_attack",
    "poisoned_history",
    "public_interactions",
    "rank_one",
    "untargeted_noise",
]
