"""Checks of the server step."""

from fcf_jax.experiments.config.rule import Check

SERVER_CHECKS = (
    Check(
        lambda c, f: c.server.decay != "constant" and not c.server.spec.has_schedule,
        lambda c, f: f'server.decay: {c.server.step} has no schedule; set server.decay = "constant"',
    ),
    Check(
        lambda c, f: c.server.confidences == "once" and c.privacy.has_noise,
        "server.confidences: a sum before the first round would have no noise; set server.confidences = "
        '"each_round", or server.confidence_factor = 0',
    ),
    Check(
        lambda c, f: c.server.confidences == "once" and c.model.has_sampled_negatives,
        'server.confidences: "once" is made for squared errors; leave it out, or set model.objective = '
        '"squared"',
    ),
    Check(
        lambda c, f: c.server.initial_item_factors is not None,
        "server.initial_item_factors: {command} trains from drawn item factors; leave it out",
        commands=("compare", "tune", "sweep", "audit"),
    ),
)
