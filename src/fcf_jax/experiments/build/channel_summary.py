"""What the channel of a run did, for its summary: fixed point, dropouts and virtual time."""

from typing import Any

from fcf_jax.experiments.build.problem import Problem


def channel_summary(problem: Problem, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of `summary.json` that a run has because of its channel; empty for a plain one."""
    return {**_of_fixed_point(problem, records), **_of_arrivals(problem, records)}


def _of_fixed_point(problem: Problem, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the formats of fixed-point sums and the count of clipped numbers; empty for floating point."""
    if problem.formats is None:
        return {}
    formats = problem.formats._asdict().items()
    clipped = sum(record.get("num_clipped_entries", 0) for record in records if record["kind"] == "round")
    summary: dict[str, Any] = {
        "fixed_point": {
            "formats": {name: number._asdict() for name, number in formats if number is not None},
            "num_clipped_entries": clipped,
        }
    }
    if problem.config.privacy.spec.sums_securely:
        summary["secure_sum"] = {"min_cohort": problem.config.privacy.min_cohort}
    return summary


def _of_arrivals(problem: Problem, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the total virtual time and how many rounds nobody came back in; empty without either."""
    rounds = [record for record in records if record["kind"] == "round"]
    devices, summary = problem.config.devices, {}
    if devices.has_clock:
        summary["virtual_seconds"] = rounds[-1]["virtual_seconds"] if rounds else 0.0
    if devices.has_dropouts or devices.waits_for_some:
        summary["num_uploads"] = sum(record["num_clients"] for record in rounds)
        summary["num_void_rounds"] = sum(not record["num_clients"] for record in rounds)
    return summary
