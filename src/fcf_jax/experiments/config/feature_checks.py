"""Checks of side features, and of the items that are held out whole."""

from fcf_jax.experiments.config.rule import Check

FEATURE_CHECKS = (
    Check(
        lambda c, f: c.data.split != "cold_items" and (c.data.cold_fraction or c.data.warm_interactions),
        lambda c, f: (
            'data.split: expected "cold_items" for data.cold_fraction and data.warm_interactions, got '
            f'"{c.data.split}"; set it, or leave them out'
        ),
    ),
    Check(
        lambda c, f: c.data.user_features and (c.privacy.has_noise or c.is_in_fixed_point),
        lambda c, f: (
            "data.user_features: what clients send of them has neither noise nor fixed point, got "
            + (
                f'privacy.mode = "{c.privacy.mode}"'
                if c.privacy.spec.protects_uploads
                else "parallel.deterministic = true"
            )
            + "; leave them out: data.item_features need nothing of the clients"
        ),
    ),
    Check(
        lambda c, f: c.data.user_features or c.data.item_features,
        "data.user_features: {command} trains without features; leave out data.user_features and "
        "data.item_features",
        commands=("tune", "audit"),
    ),
)
