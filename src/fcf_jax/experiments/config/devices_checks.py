"""Checks of the clients' devices."""

from fcf_jax.experiments.config.rule import Check

DEVICES_CHECKS: tuple[Check, ...] = ()
