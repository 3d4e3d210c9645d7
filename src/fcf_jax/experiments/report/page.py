"""The report page: one self-contained HTML file about whatever was stored."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fcf_jax.experiments.report import wording
from fcf_jax.experiments.report.content import page_content
from fcf_jax.experiments.report.drawing import COLORS
from fcf_jax.experiments.report.panels import png_of_panels
from fcf_jax.experiments.report.read import Stored, StoredRun, read_folder
from fcf_jax.experiments.report.run_panels import panels_of_run, panels_of_runs
from fcf_jax.experiments.store.files import write_atomically

REPORT = "report.html"
_FIGURE = "convergence.png"


def write_report(folder: Path) -> None:
    """Write `report.html`, and `convergence.png` of a run, into the folder that they are about.

    Raises:
        FileNotFoundError: if there is no run, comparison, tuning, sweep or audit in the folder.
        ValueError: if one of its files is damaged.
        OSError: if the page cannot be written.
    """
    write_page([read_folder(folder)], folder / REPORT, folder / _FIGURE)


def write_page(everything: Sequence[Stored], page: Path, figure: Path | None = None) -> None:
    """Write a page, and the curves of its runs as a PNG.

    Args:
        everything: at least one stored run, comparison, tuning, sweep or audit.
        page: an HTML file that needs no other file.
        figure: PNG file; by default the page's name with another suffix.
    """
    runs = [stored for stored in everything if isinstance(stored, StoredRun)]
    panels = panels_of_run(runs[0]) if len(runs) == 1 else panels_of_runs(runs)
    if panels:
        write_atomically(figure or page.with_suffix(".png"), png_of_panels(panels))
    write_atomically(page, render(everything).encode())


def render(everything: Sequence[Stored]) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("fcf_jax.experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "metric": wording.metric_text,
        "count": wording.count_text,
        "size": wording.size_text,
    }
    return environment.get_template(REPORT).render(page_content(everything), colors=COLORS)
