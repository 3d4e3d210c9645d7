"""Checks of noise, and of what it costs."""

from fcf_jax.experiments.config.mistakes import small_adaptive_cohort, unaccountable_noise, undrawable_noise
from fcf_jax.experiments.config.rule import Check, computed

PRIVACY_CHECKS = (
    Check(
        lambda c, f: c.privacy.start != "drawn" and c.privacy.spec.noise_on != "sum",
        lambda c, f: (
            f"privacy.start: second moments are released as sums with noise, got privacy.mode = "
            f'{c.privacy.mode}; set privacy.mode = "central_noise" or "distributed_noise", or leave it out'
        ),
    ),
    Check(
        lambda c, f: c.privacy.starts_from_moments and c.federation.num_rounds > 0,
        lambda c, f: (
            f"federation.num_rounds: expected 0, since second moments spend the whole budget, got "
            f'{c.federation.num_rounds}; set federation.num_rounds = 0, or privacy.start = "drawn"'
        ),
    ),
    Check(
        lambda c, f: c.privacy.starts_from_moments and c.federation.cohort_size is not None,
        "federation.cohort_size: second moments are sums over everybody; leave it out",
    ),
    Check(
        lambda c, f: c.privacy.starts_from_moments and c.server.initial_item_factors is not None,
        "server.initial_item_factors: second moments are a start of their own; leave out one of them",
    ),
    Check(
        lambda c, f: c.privacy.starts_from_moments and not 2 <= c.model.num_factors <= c.privacy.moment_items,
        lambda c, f: (
            f"model.num_factors: expected 2, of which one is popularity, to {c.privacy.moment_items} "
            f"(privacy.moment_items), got {c.model.num_factors}; change one of them"
        ),
    ),
    Check(
        lambda c, f: c.privacy.starts_from_moments,
        'privacy.start: {command} trains in rounds; set privacy.start = "drawn" and federation.num_rounds',
        commands=("compare", "tune", "sweep", "audit", "plan"),
    ),
    Check(
        lambda c, f: c.privacy.ledger is None and c.privacy.ledger_epsilon is not None,
        "privacy.ledger_epsilon: expected a file that runs share, got none; set privacy.ledger",
    ),
    Check(
        lambda c, f: c.privacy.ledger is not None and not c.privacy.has_noise,
        lambda c, f: (
            f"privacy.ledger: expected a privacy.mode with noise, whose epsilon can be added up, got "
            f"{c.privacy.mode}; leave it out"
        ),
    ),
    Check(
        lambda c, f: c.privacy.ledger is not None and not c.privacy.ledger.endswith(".json"),
        lambda c, f: f"privacy.ledger: expected a file name that ends with .json, got {c.privacy.ledger}",
    ),
    Check(
        lambda c, f: c.privacy.ledger is not None and c.privacy.seed is not None,
        "privacy.ledger: noise with a fixed seed has no epsilon to add up; leave out privacy.seed",
    ),
    Check(
        lambda c, f: c.privacy.ledger is not None,
        "privacy.ledger: {command} enters no ledger, and says what its runs spend together; leave it out",
        commands=("sweep",),
    ),
)
PRIVACY_DATA_CHECKS = (
    Check(
        lambda c, f: (
            c.privacy.starts_from_moments and c.model.num_factors > c.privacy.num_learned_items(f.num_items)
        ),
        lambda c, f: (
            f"model.num_factors: expected at most the {c.privacy.num_learned_items(f.num_items)} items of "
            f"privacy.head_items, got {c.model.num_factors}; lower it or raise privacy.head_items"
        ),
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.has_noise and c.data.feedback == "explicit",
        "data.feedback: explicit ratings are centred on their mean, which has no noise; "
        'set data.feedback = "implicit" under noise',
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.has_noise and c.model.regularization_exponent > 0,
        "model.regularization_exponent: lambda of an item is computed from its count, which has no noise; "
        "set it to 0 under noise",
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.has_noise and c.data.min_item_interactions > 1,
        "data.min_item_interactions: it reveals without noise which items are rare; leave it out, and set "
        "privacy.head_items, whose counts are noised",
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.has_noise and c.server.spec.is_guarded,
        lambda c, f: (
            f"server.step: {c.server.step} is guided by the clients' loss, which {c.privacy.mode} hides; "
            'set server.step = "gram" (everybody in a round) or "running_sums" (cohorts)'
        ),
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.spec.noise_on == "upload" and c.privacy.clipping == "adaptive",
        lambda c, f: (
            f"privacy.clipping: adaptive needs a count of clipped clients, which {c.privacy.mode} does "
            'not release; set privacy.clipping = "static"'
        ),
        when="data",
    ),
    Check(
        lambda c, f: c.privacy.spec.noise_on == "upload" and c.privacy.needs_item_counts,
        lambda c, f: (
            f"privacy.head_items: it needs summed item counts, which {c.privacy.mode} does not release; "
            "leave out privacy.head_items and privacy.item_weight_power"
        ),
        when="data",
    ),
    computed(
        "privacy",
        lambda c, f: unaccountable_noise(c.privacy, c.federation, num_users=f.num_users),
        when="data",
    ),
    computed(
        "privacy.noise_multiplier",
        lambda c, f: undrawable_noise(
            c.privacy,
            c.federation,
            num_users=f.num_users,
            num_numbers=f.num_items * (c.model.num_columns + 1) + c.model.num_columns**2,
        ),
        "; raise privacy.epsilon, or lower model.num_factors",
        when="data",
    ),
    computed(
        "privacy.clipping",
        lambda c, f: small_adaptive_cohort(c.privacy, c.federation, num_users=f.num_users),
        '; set privacy.clipping = "static"',
        when="data",
    ),
)
