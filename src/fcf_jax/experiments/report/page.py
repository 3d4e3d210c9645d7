"""From folders to a page and its picture on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fcf_jax.experiments.config.privacy_modes import PRIVACY_MODES
from fcf_jax.experiments.report import wording
from fcf_jax.experiments.report.content import content_of
from fcf_jax.experiments.report.curves import panels_of, panels_of_all
from fcf_jax.experiments.report.outcomes import Outcome, RunOutcome, read_outcome
from fcf_jax.experiments.report.pictures import COLORS, to_png
from fcf_jax.experiments.store.run_directory import write_atomically

PRIVACY_NOTE = (
    "Plain FCF uploads are not private: a single upload reveals the user's history to the server; see README."
)
SECURE_SUM_NOTE = (
    "Uploads were summed as a secure sum does, in fixed point and over at least {} clients. Masks are not "
    "simulated in training, because they cancel exactly; fcf_jax.privacy.secure_sum.secure_cohort_sum has "
    "them, and fcf audit tells what such a sum still gives away."
)
UNFINISHED_NOTE = "Trained with noise; what was spent so far is in privacy_budget.json."
NOT_PRIVATE_NOTE = "NOT PRIVATE: trained with noise from a fixed seed, to measure what noise costs."
REPORT_NAME = "report.html"
_PICTURE_NAME = "convergence.png"


def privacy_note(summary: dict[str, Any] | None) -> str:
    """Say what the clients of a run are promised; `summary` as `fcf run` returns it."""
    summary = summary or {}
    if "secure_sum" in summary:
        return SECURE_SUM_NOTE.format(summary["secure_sum"]["min_cohort"])
    statement = summary.get("privacy")
    if statement is None:
        return PRIVACY_NOTE
    if not statement["is_private"]:
        return NOT_PRIVATE_NOTE
    return (
        f"The item factors are differentially private: epsilon {statement['epsilon']:.3g} at delta "
        f"{statement['delta']:.2g} for {statement['unit']} ({statement['adjacency']}); measures are not."
    )


def _note_of(outcome: Outcome) -> str:
    """Say it of a finished run by what it did, of everything else by what it was to do."""
    summary = getattr(outcome, "summary", None)
    privacy = outcome.config.get("privacy", {})
    mode = PRIVACY_MODES[privacy.get("mode", "plain")]
    if summary is not None or not mode.protects_uploads:
        return privacy_note(summary)
    if mode.sums_securely:
        return SECURE_SUM_NOTE.format(privacy["min_cohort"])
    return UNFINISHED_NOTE if privacy.get("seed") is None else NOT_PRIVATE_NOTE


def write_report(folder: Path) -> None:
    """Write `report.html` and `convergence.png` of a folder into it.

    Raises:
        FileNotFoundError: when nothing of ours is there.
        ValueError: when a file in it is damaged.
        OSError: when it cannot be written.
    """
    write_page([read_outcome(folder)], folder / REPORT_NAME, folder / _PICTURE_NAME)


def read_outcomes(folders: Sequence[Path]) -> list[Outcome]:
    """Read several folders; those of the same name are called by their paths."""
    outcomes = [read_outcome(folder) for folder in folders]
    names = [outcome.name for outcome in outcomes]
    return [
        outcome._replace(name=str(folder)) if names.count(outcome.name) > 1 else outcome
        for outcome, folder in zip(outcomes, folders, strict=True)
    ]


def write_page(outcomes: Sequence[Outcome], page: Path, picture: Path | None = None) -> None:
    """Write the page about these outcomes, and the curves of its runs as a PNG.

    Args:
        outcomes: at least one.
        page: an HTML file; nothing else is needed to show it.
        picture: where the PNG goes; None is beside the page, under its name.
    """
    runs = [outcome for outcome in outcomes if isinstance(outcome, RunOutcome)]
    panels = panels_of(runs[0]) if len(runs) == 1 else panels_of_all(runs)
    if panels:
        write_atomically(picture or page.with_suffix(".png"), to_png(panels))
    write_atomically(page, render(outcomes).encode())


def render(outcomes: Sequence[Outcome]) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=PackageLoader("fcf_jax.experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "metric": wording.metric_text,
        "number": wording.number_text,
        "loss": wording.loss_text,
        "count": wording.count_text,
        "percent": wording.percent_text,
        "size": wording.size_text,
        "duration": wording.seconds_text,
    }
    page = environment.get_template(REPORT_NAME)
    notes = {_note_of(outcome) for outcome in outcomes}
    return page.render(content_of(outcomes), colors=COLORS, privacy_note=" ".join(sorted(notes)))
