"""Made-up runs and audits for the tests of reports: nothing is trained."""

from fcf_jax.experiments.report.read import StoredRun


def run_of(losses, *, sweeps=(), centralized=None, config=None, evaluations=()):
    """A run with these losses, 10 clients, and 3 + 2 bytes for each in a round."""
    records = [{"kind": "round", "round": index, "loss": loss} for index, loss in enumerate(losses[:-1])]
    records += [{"kind": "als_sweep", "round": index, "loss": loss} for index, loss in enumerate(sweeps)]
    records += [{"kind": "evaluation", "round": round_, **values} for round_, values in evaluations]
    summary = {
        "federated": {"loss": losses[-1]},
        "centralized": centralized,
        "difference_percent": None,
        "payload_bytes_up": 3,
        "payload_bytes_down": 2,
        "cohort_size": 10,
        "num_rounds": len(losses) - 1,
        "seconds_per_round": 0.5,
        "clients_per_second": 20.0,
        **dict.fromkeys(("num_users", "num_items", "num_interactions", "num_train_interactions"), 10),
        **dict.fromkeys(("num_test_interactions", "num_users_without_test", "num_users_without_train"), 0),
    }
    return StoredRun("made up", config or {}, {}, records, summary)


def audit_of(attacks, mode="secure_sum"):
    """The content of `audit.json` with these values of figures, by attack and name."""
    found = {
        name: {what: {"value": value, "low": value, "high": value} for what, value in figures.items()}
        for name, figures in attacks.items()
    }
    facts = {
        "num_users": 60, "num_items": 40, "num_factors": 4, "cohort_size": 30, "attacked_cohort_size": 30,
        "num_rounds": 20, "noise_multiplier": 1.0, "epsilon": None,
    }  # fmt: skip
    return {"mode": mode, "upload": "dense", "attacks": found, "facts": facts, "notes": []}
