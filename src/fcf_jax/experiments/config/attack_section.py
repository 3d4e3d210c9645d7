"""Section of attacks: malicious clients, and the server's defence."""

from fcf_jax.experiments.config.section import Section


class AttackConfig(Section):
    """Malicious clients, and defences against them (docs/channel.md)."""
