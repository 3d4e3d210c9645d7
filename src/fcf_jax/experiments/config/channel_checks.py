"""Checks of the form of messages, and of their compression."""

from fcf_jax.experiments.config.rule import Check

CHANNEL_CHECKS = (
    Check(
        lambda c, f: c.channel.form != "dense" and c.privacy.spec.protects_uploads,
        lambda c, f: (
            f'channel.form: expected "dense" with privacy.mode = "{c.privacy.mode}", got {c.channel.form}: '
            "masks and noise are on all items, or they would tell the history; set channel.form = "
            '"dense", or privacy.mode = "plain"'
        ),
    ),
)
