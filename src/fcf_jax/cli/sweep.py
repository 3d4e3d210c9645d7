"""`fcf sweep`."""

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
from fcf_jax.messages import count_of

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig
    from fcf_jax.experiments.sweep.plan import Combination


def sweep(
    config: ConfigArgument = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="SECTION.KEY=A,B,...",
            help="Values of a key; repeatable, and every combination is run.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Repeat each combination with N starts and splits; seeds count up.",
        ),
    ] = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_argument,
            metavar="DIR",
            help="Folder to write; default runs/NAME-sweep-TIMESTAMP.",
        ),
    ] = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a federation for every combination of values, side by side, and weigh accuracy against cost.

    Runs that differ in numbers alone share one compiled program. No baseline is trained.
    """
    from fcf_jax.experiments.report.sweep_tables import show_sweep
    from fcf_jax.experiments.store.run_directory import CONFIG, SWEEP
    from fcf_jax.experiments.sweep.plan import axes_of, begun_with, combinations_of

    with input_errors():
        base, folder = open_run("sweep", config, overrides, out, resume=resume)
        varied, num_seeds = begun_with(folder, vary or [], seeds)
        axes = axes_of(varied, num_seeds, base)
        source = str(folder / CONFIG.name) if resume and config is None and CONFIG.is_in(folder) else config
        combinations = combinations_of(source, overrides or [], axes)
        is_finished = resume and SWEEP.read_or(folder, None) is not None
    if is_finished:
        if not quiet:
            say(f"{folder} is finished: nothing left to do")
        return
    begun = {"vary": varied, "seeds": num_seeds}
    document = _sweep(base, combinations, begun, folder, resume=resume, quiet=quiet)
    if not quiet:
        show_sweep(document)
        say(f"{document['seconds']:.0f} s. Written to {folder}")


def _sweep(
    base: "ExperimentConfig",
    combinations: "list[Combination]",
    begun: dict[str, Any],
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
) -> dict[str, Any]:
    from fcf_jax.experiments.build.devices import keep_compiled_programs, start_devices
    from fcf_jax.experiments.compare.replicates import replicate_mesh
    from fcf_jax.experiments.store.run_directory import VARIED, claimed, num_devices_begun_with
    from fcf_jax.experiments.sweep.runs import prepare
    from fcf_jax.experiments.sweep.sweeping import run_sweep

    with ExitStack() as stack:
        progress = ProgressLine(new_console(), quiet=quiet)
        with input_errors():
            start_devices(base.parallel, num_cpu_devices=num_devices_begun_with(folder))
            mesh = replicate_mesh(base.parallel.devices, len(combinations))
            keep_compiled_programs()
            prepared = prepare(combinations)
            stack.enter_context(claimed(folder, base, resume=resume))
            VARIED.write(folder, begun)
        stack.enter_context(progress)
        for note in prepared.notes:
            progress.say(note)
        num_programs = count_of(len(prepared.groups), "program")
        progress.say(f"{count_of(len(combinations), 'run')} in {num_programs}")
        signals = StopSignals(progress)
        stack.enter_context(run_errors())
        stack.enter_context(with_remedy(signals, "fcf sweep", folder))
        return run_sweep(prepared, folder, progress, mesh=mesh, stop=signals.held_back())
