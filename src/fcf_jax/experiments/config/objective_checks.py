"""Checks of what clients minimize, and of biases."""

from fcf_jax.experiments.config.rule import Check

OBJECTIVE_CHECKS = (
    Check(
        lambda c, f: c.model.has_sampled_negatives and c.data.feedback == "explicit",
        lambda c, f: (
            f"model.objective: {c.model.objective} compares interactions with unobserved items, not ratings; "
            'set data.feedback = "implicit", or model.objective = "squared"'
        ),
    ),
    Check(
        lambda c, f: c.model.has_sampled_negatives and c.model.unobserved_weight != 0,
        lambda c, f: (
            f"model.unobserved_weight: expected 0, since {c.model.objective} samples unobserved items, "
            f"got {c.model.unobserved_weight}; set model.unobserved_weight = 0"
            + (", and evaluation.baseline = false" if c.model.objective == "bpr" else "")
        ),
    ),
    Check(
        lambda c, f: c.model.has_sampled_negatives and c.model.regularization == 0,
        "model.regularization: expected above 0, since the logistic loss of users whose items can be told "
        "from their negatives has no minimum, got 0; raise it",
    ),
    Check(
        lambda c, f: c.model.has_sampled_negatives,
        'model.objective: {command} knows squared errors only; set model.objective = "squared"',
        commands=("tune", "audit"),
    ),
    Check(
        lambda c, f: c.model.objective == "bpr",
        "model.objective: {command} compares with ALS, which cannot solve for pairs; use fcf run",
        commands=("compare",),
    ),
    Check(
        lambda c, f: c.model.objective == "bpr" and c.evaluation.baseline,
        "evaluation.baseline: ALS cannot solve for pairs; set evaluation.baseline = false with bpr",
    ),
    Check(
        lambda c, f: c.model.biases,
        "model.biases: the attacks expect factors without biases; set model.biases = false",
        commands=("audit",),
    ),
    Check(
        lambda c, f: c.model.has_sampled_negatives and c.privacy.mode != "plain",
        lambda c, f: (
            f"model.objective: {c.privacy.mode} is made for squared errors, got {c.model.objective}; set "
            'privacy.mode = "plain", or model.objective = "squared"'
        ),
    ),
    Check(
        lambda c, f: c.model.biases and c.privacy.mode != "plain",
        lambda c, f: (
            f"model.biases: {c.privacy.mode} is made for factors without biases; set model.biases = false"
        ),
    ),
)
