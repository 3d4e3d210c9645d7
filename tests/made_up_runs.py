"""A made-up run for the tests of this folder."""

from fcf_jax.experiments.report.read import StoredRun


def run_of(losses, *, sweeps=(), centralized=None, config=None, evaluations=()):
    """A run with these losses, 10 clients, and 3 + 2 bytes for each in a round."""
    records = [{"kind": "round", "round": index, "loss": loss} for index, loss in enumerate(losses[:-1])]
    records += [{"kind": "als_sweep", "round": index, "loss": loss} for index, loss in enumerate(sweeps)]
    records += [{"kind": "evaluation", "round": round_, **values} for round_, values in evaluations]
    summary = {
        "federated": {"loss": losses[-1]},
        "centralized": centralized,
        "payload_bytes_up": 3,
        "payload_bytes_down": 2,
        "cohort_size": 10,
    }
    return StoredRun("made up", config or {}, {}, records, summary)
