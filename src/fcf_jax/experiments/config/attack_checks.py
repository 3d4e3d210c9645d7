"""Checks of attacks and defences."""

from fcf_jax.experiments.config.rule import Check
from fcf_jax.experiments.config.schema import ExperimentConfig


def _other_uploads(config: ExperimentConfig) -> str:
    """Name the key that makes uploads other than those that attacks and defences are made for."""
    if config.model.objective != "squared":
        return "model.objective"
    if config.model.biases:
        return "model.biases"
    return "data.user_features" if config.data.user_features else ""


ATTACK_CHECKS = (
    Check(
        lambda c, f: c.attack.is_on and _other_uploads(c),
        lambda c, f: (
            f"{_other_uploads(c)}: attacks and defences are made for squared errors, without biases and "
            "features of users; leave it out, or the section attack"
        ),
    ),
    Check(
        lambda c, f: c.attack.sees_uploads and c.privacy.spec.sums_securely,
        lambda c, f: (
            f"attack.defence: {c.attack.defence} compares single uploads, and secure sums are there to hide "
            'them; set attack.defence = "clip", or privacy.mode = "plain"'
        ),
    ),
    Check(
        lambda c, f: c.attack.defence != "none" and c.privacy.has_noise,
        lambda c, f: (
            f"attack.defence: with {c.privacy.mode}, uploads are clipped already and the noise is accounted "
            'for their sum, no other; set attack.defence = "none" and choose privacy.clip_norm'
        ),
    ),
    Check(
        lambda c, f: c.attack.sees_uploads and c.channel.is_compressed,
        lambda c, f: (
            f"attack.defence: {c.attack.defence} compares uploads as the protocol makes them, and "
            'compression changes them; set attack.defence = "clip", or leave out the keys of the section '
            "channel"
        ),
    ),
    Check(
        lambda c, f: c.attack.has_robust_sums and c.is_in_fixed_point,
        lambda c, f: (
            f"attack.defence: {c.attack.defence} sorts what clients send, and sums in fixed point keep only "
            "the sum; set parallel.deterministic = false"
        ),
    ),
    Check(
        lambda c, f: c.attack.has_robust_sums and c.devices.is_asynchronous,
        lambda c, f: (
            f"attack.defence: {c.attack.defence} compares the clients of a round, which asynchronous rounds "
            "have not; leave out devices.concurrency"
        ),
    ),
    Check(
        lambda c, f: c.attack.is_on,
        "attack.kind: {command} trains without attackers and defences; leave out the section attack",
        commands=("compare", "tune", "audit"),
    ),
    Check(
        lambda c, f: (
            c.attack.has_attackers and c.attack.targets is None and 2 * c.attack.num_targets > f.num_items
        ),
        lambda c, f: (
            f"attack.num_targets: expected at most half of the {f.num_items} items, got "
            f"{c.attack.num_targets}; lower it"
        ),
        when="data",
    ),
)
