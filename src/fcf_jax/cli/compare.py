"""`fcf compare`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fcf_jax.cli.errors import input_errors, run_errors
from fcf_jax.cli.options import (
    ConfigArgument,
    QuietOption,
    ResumeOption,
    SetOption,
    folder_argument,
    open_run,
)
from fcf_jax.cli.signals import StopSignals, with_remedy
from fcf_jax.experiments.console import new_console, say
from fcf_jax.experiments.progress import ProgressLine

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig


def compare(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_argument,
            metavar="DIR",
            help="Folder to write; default runs/NAME-compare-TIMESTAMP.",
        ),
    ] = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Repeat a federation and centralised ALS on several splits, and test whether they are equivalent."""
    from fcf_jax.experiments.report.tables import show_comparison
    from fcf_jax.experiments.store.run_directory import COMPARISON

    with input_errors():
        resolved, folder = open_run("compare", config, overrides, out, resume=resume)
        is_finished = resume and COMPARISON.read_or(folder, None) is not None
    if is_finished:
        if not quiet:
            say(f"{folder} is finished: nothing left to do")
        return
    document = _compare(resolved, folder, resume=resume, quiet=quiet)
    if not quiet:
        show_comparison(document)
        say(f"{document['seconds']:.0f} s. Written to {folder}")


def _compare(config: "ExperimentConfig", folder: Path, *, resume: bool, quiet: bool) -> dict[str, Any]:
    from fcf_jax.experiments.build.devices import keep_compiled_programs, start_devices
    from fcf_jax.experiments.build.problem import resolve
    from fcf_jax.experiments.compare.comparison import load_splits, run_comparison
    from fcf_jax.experiments.compare.replicates import replicate_mesh
    from fcf_jax.experiments.store.run_directory import claimed, num_devices_begun_with

    with ExitStack() as stack:
        with input_errors():
            start_devices(config.parallel, num_cpu_devices=num_devices_begun_with(folder))
            mesh = replicate_mesh(config.parallel.devices, config.comparison.num_builds)
            keep_compiled_programs()
            datasets = load_splits(config)
            problem = resolve(config, *datasets)
            stack.enter_context(claimed(folder, config, resume=resume))
        progress = stack.enter_context(ProgressLine(new_console(), quiet=quiet))
        for note in datasets[0].notes:
            progress.say(note)
        signals = StopSignals(progress)
        stack.enter_context(run_errors())
        stack.enter_context(with_remedy(signals, "fcf compare", folder))
        stop = signals.held_back()
        return run_comparison(problem, datasets, folder, progress, mesh=mesh, resume=resume, stop=stop)
