"""Checks of federated evaluation."""

from fcf_jax.experiments.config.rule import Check

EVALUATION_CHECKS = (
    Check(
        lambda c, f: c.evaluation.federated and c.privacy.has_noise and c.privacy.evaluation_share == 0,
        "privacy.evaluation_share: noisy means of metrics cost budget, and have none; set it (such "
        "as 0.05), or leave out evaluation.federated",
    ),
    Check(
        lambda c, f: c.privacy.evaluation_share > 0 and not (c.evaluation.federated and c.privacy.has_noise),
        "evaluation.federated: privacy.evaluation_share is for noisy means that are never released; set "
        "evaluation.federated = true and a mode with noise, or leave it out",
    ),
    Check(
        lambda c, f: c.evaluation.federated,
        "evaluation.federated: {command} measures without the clients; leave it out, but for `fcf run`",
        commands=("compare", "tune", "sweep"),
    ),
)
