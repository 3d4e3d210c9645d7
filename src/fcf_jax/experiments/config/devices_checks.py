"""Checks of the clients' devices: dropouts, deadlines and asynchronous rounds."""

import math

from fcf_jax.experiments.config.mistakes import Facts, similar_survivors
from fcf_jax.experiments.config.rule import Check, computed
from fcf_jax.experiments.config.schema import ExperimentConfig


def _drawn(config: ExperimentConfig, facts: Facts) -> int:
    """Return the clients that a round draws."""
    cohort_size = config.federation.cohort_among(facts.num_users)
    return math.ceil(round(config.devices.over_selection * cohort_size, 6)) if cohort_size else 0


DEVICES_CHECKS = (
    Check(
        lambda c, f: c.devices.dropout_trace is not None and c.devices.dropout > 0,
        "devices.dropout: the trace of devices.dropout_trace decides who comes back; leave out one of them",
    ),
    Check(
        lambda c, f: c.devices.trace is not None and c.devices.bandwidth is not None,
        "devices.bandwidth: the trace of devices.trace has bandwidths; leave out one of them",
    ),
    Check(
        lambda c, f: (c.devices.waits_for_some or c.devices.is_asynchronous) and not c.devices.has_clock,
        "devices.bandwidth: over-selection, deadlines and asynchronous rounds need virtual time; set it "
        "(such as 1e6), or devices.trace",
    ),
    Check(
        lambda c, f: c.devices.waits_for_some and c.federation.sampling == "poisson",
        'federation.sampling: expected "shuffled" or "independent" where the first to arrive are taken, got '
        '"poisson"; set it, or leave out devices.over_selection and devices.deadline_seconds',
    ),
    Check(
        lambda c, f: c.devices.waits_for_some and c.privacy.has_noise,
        lambda c, f: (
            f"devices.over_selection: {c.privacy.mode} accounts for cohorts that are drawn by chance alone, "
            "and who arrives first is not; leave out devices.over_selection and devices.deadline_seconds"
        ),
    ),
    Check(
        lambda c, f: c.devices.waits_for_some and c.privacy.spec.sums_securely,
        "devices.over_selection: secure sums are checked for the cohorts that are drawn, not for those that "
        "arrive first; leave out devices.over_selection and devices.deadline_seconds",
    ),
    Check(
        lambda c, f: (
            c.privacy.spec.sums_securely
            and (c.devices.dropout_trace is not None or c.devices.dropout_pattern != "independent")
        ),
        "devices.dropout_pattern: secure sums are checked beforehand for dropouts of the same chance; set "
        'devices.dropout_pattern = "independent" and devices.dropout',
    ),
    Check(
        lambda c, f: c.data.user_features and (c.devices.has_dropouts or c.devices.deadline_seconds),
        "data.user_features: what clients send of them passes no channel, and so no dropouts; leave out "
        "data.user_features, or devices.dropout and devices.deadline_seconds",
    ),
    Check(
        lambda c, f: (
            c.server.spec.needs_everybody
            and (c.devices.has_dropouts or c.devices.deadline_seconds is not None)
        ),
        lambda c, f: (
            f"server.step: {c.server.step} needs everybody in every round, and some clients do not come back "
            'in time; set server.step = "running_sums", or leave out '
            + ("devices.deadline_seconds" if not c.devices.has_dropouts else "dropouts")
        ),
    ),
    Check(
        lambda c, f: c.devices.over_selection > 1 and c.federation.cohort_size is None,
        "devices.over_selection: with everybody in a round nobody is left to draw; set "
        "federation.cohort_size",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.federation.cohort_size is None,
        "devices.concurrency: a step of asynchronous rounds takes federation.cohort_size uploads; set it",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.privacy.spec.protects_uploads,
        lambda c, f: (
            f"devices.concurrency: {c.privacy.mode} needs rounds: "
            + (
                "who is in which step depends on the devices, and the accountants know only cohorts drawn "
                "by chance"
                if c.privacy.has_noise
                else "masks cancel among the clients of one round"
            )
            + "; leave it out"
        ),
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.devices.waits_for_some,
        "devices.concurrency: asynchronous rounds wait for no one; leave out devices.over_selection and "
        "devices.deadline_seconds",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.parallel.stream,
        "devices.concurrency: asynchronous rounds keep all clients on the devices; leave out parallel.stream",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.data.user_features,
        "devices.concurrency: sums for the features of users are those of whole rounds; leave out "
        "data.user_features",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous and c.devices.dropout_trace is not None,
        "devices.dropout_trace: a trace is of rounds, which asynchronous ones have not; set devices.dropout",
    ),
    Check(
        lambda c, f: c.devices.is_asynchronous,
        "devices.concurrency: {command} trains in synchronous rounds; leave it out",
        commands=("compare", "tune", "audit"),
    ),
    Check(
        lambda c, f: (
            c.devices.is_asynchronous
            and (c.devices.concurrency or 0) + (c.federation.cohort_size or 0) > f.num_users
        ),
        lambda c, f: (
            f"devices.concurrency: expected at most {f.num_users - (c.federation.cohort_size or 0)}, which "
            f"with federation.cohort_size makes {f.num_users} users, got {c.devices.concurrency}; lower it"
        ),
        when="data",
    ),
    Check(
        lambda c, f: _drawn(c, f) > f.num_users,
        lambda c, f: (
            f"devices.over_selection: expected at most {f.num_users} users drawn for a round, got "
            f"{_drawn(c, f)}; lower it"
        ),
        when="data",
    ),
    computed(
        "devices.dropout",
        lambda c, f: similar_survivors(c, f),
        "; raise it, leave it out, or set federation.cohort_size",
        commands=("run", "compare", "sweep"),
        when="data",
    ),
)
