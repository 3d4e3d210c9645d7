"""`fcf compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fcf_jax.cli.errors import input_errors, run_errors
from fcf_jax.cli.options import ConfigArgument, QuietOption, SetOption, folder_of


def compare(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default runs/NAME-compare-TIMESTAMP.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Repeat a federation and centralised ALS on several splits, and test whether they are equivalent."""
    from fcf_jax.experiments.comparison import load_splits, refuse_unfit, run_comparison
    from fcf_jax.experiments.comparison_builds import mesh_of_builds
    from fcf_jax.experiments.config import load_config
    from fcf_jax.experiments.placement import keep_compiled_programs, start_devices
    from fcf_jax.experiments.progress import ProgressLine
    from fcf_jax.experiments.run_directory import refuse_used

    with input_errors():
        resolved = load_config(config, overrides or ())
        refuse_unfit(resolved)
        folder = folder_of(out, config, suffix="-compare")
        refuse_used(folder)
        start_devices(resolved.parallel)
        mesh = mesh_of_builds(resolved)
        keep_compiled_programs()
        datasets = load_splits(resolved)
        folder.mkdir(parents=True, exist_ok=True)
    with run_errors(), ProgressLine(Console(), quiet=quiet) as progress:
        document = run_comparison(resolved, datasets, folder, progress, mesh=mesh)
    if not quiet:
        _show(document, folder)


def _show(document: dict[str, Any], folder: Path) -> None:
    """Print the plain metrics over the builds, and the verdict; the files have the rest."""
    from fcf_jax.experiments.comparison_tables import HEADINGS, PER_USER, legend, table_rows, title

    console = Console()
    table = Table(title=title(document), box=box.SIMPLE_HEAD)
    shown = [column for column, heading in enumerate(HEADINGS) if heading != PER_USER]
    for column in shown:
        table.add_column(HEADINGS[column], justify="right" if column else "left", no_wrap=not column)
    for row in table_rows(document):
        if not row[0].startswith("normalized_"):
            table.add_row(*(row[column] for column in shown))
    console.print(table)
    print(legend(document))
    for sentence in (document["verdict"], *document["notes"]):
        print(sentence)
    print(f"{document['seconds']:.0f} s. Written to {folder}")
