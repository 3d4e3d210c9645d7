"""`report.html`: one self-contained page about a run, a comparison, a tuning, or several of them together."""

from fcf_jax.experiments.report.page import (
    PRIVACY_NOTE,
    REPORT_NAME,
    privacy_note,
    read_outcomes,
    render,
    write_page,
    write_report,
)

__all__ = [
    "PRIVACY_NOTE",
    "REPORT_NAME",
    "privacy_note",
    "read_outcomes",
    "render",
    "write_page",
    "write_report",
]
