"""Checks of attacks and defences."""

from fcf_jax.experiments.config.rule import Check

ATTACK_CHECKS: tuple[Check, ...] = ()
