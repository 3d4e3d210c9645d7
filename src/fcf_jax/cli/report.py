"""`fcf report`."""

from pathlib import Path
from typing import Annotated

import typer

from fcf_jax.cli.errors import input_errors, run_errors
from fcf_jax.experiments.console import say


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of fcf run, compare, sweep, tune, audit."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Default: report.html in the run, or here for several runs.",
        ),
    ] = None,
) -> None:
    """Write one self-contained page about a run, comparison, tuning, sweep or audit, or several together.

    Several runs are grouped by what differs, with mean and sd over those that differ in their seeds alone.
    The curves of runs are written as a PNG, too.
    """
    from fcf_jax.experiments.report.page import REPORT, write_page, write_report
    from fcf_jax.experiments.report.read import read_folders

    with input_errors():
        everything = read_folders(folders)
        if out is not None and (out.is_dir() or out.suffix not in (".html", ".htm")):
            raise ValueError(f"{out}: expected a file name for --out that ends in .html; give one")
    with run_errors():
        if out is None and len(folders) == 1:
            out = folders[0] / REPORT
            write_report(folders[0])
        else:
            out = out or Path(REPORT)
            out.parent.mkdir(parents=True, exist_ok=True)
            write_page(everything, out)
    say(f"Written to {out}")
