"""`fcf report`."""

from pathlib import Path
from typing import Annotated

import typer

from fcf_jax.cli.errors import input_errors, run_errors


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of fcf run, compare or tune.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Default: report.html in the run, or here for several runs.",
        ),
    ] = None,
) -> None:
    """Write one self-contained page about one or several runs, and a PNG of the curves."""
    from fcf_jax.experiments import report as reporting

    with input_errors():
        outcomes = reporting.read_outcomes(folders)
        if out is not None and (out.is_dir() or out.suffix not in (".html", ".htm")):
            raise ValueError(f"{out}: expected a file name for --out that ends in .html; give one")
    with run_errors():
        if out is None and len(folders) == 1:
            out = folders[0] / reporting.REPORT_NAME
            reporting.write_report(folders[0])
        else:
            out = out or Path(reporting.REPORT_NAME)
            out.parent.mkdir(parents=True, exist_ok=True)
            reporting.write_page(outcomes, out)
    print(f"Written to {out}")
