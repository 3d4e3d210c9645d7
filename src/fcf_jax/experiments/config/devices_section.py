"""Section of the clients' devices: who comes back, and when."""

from fcf_jax.experiments.config.section import Section


class DevicesConfig(Section):
    """Devices of the clients: dropouts, speed and deadlines (docs/channel.md)."""
