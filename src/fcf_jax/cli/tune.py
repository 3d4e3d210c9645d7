"""`fcf tune`."""

import importlib.util
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcf_jax.cli.errors import CommandError, input_errors, run_errors
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
    from fcf_jax.experiments.tune.tuning import Tuned

_NO_OPTUNA = "fcf tune needs optuna, which is not installed; pip install 'fcf_jax[tune]'"


def tune(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_argument,
            metavar="DIR",
            help="Folder of the study; default runs/NAME-tune-TIMESTAMP.",
        ),
    ] = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find K, alpha, lambda, nu and the numbers of the server step, and write a config that has them.

    The test set is never looked at.
    """
    if importlib.util.find_spec("optuna") is None:
        raise CommandError(_NO_OPTUNA, 2)
    from fcf_jax.experiments.tune.trials import MAY_CHANGE

    with input_errors():
        resolved, folder = open_run("tune", config, overrides, out, resume=resume, may_change=MAY_CHANGE)
    tuned = _tune(resolved, folder, resume=resume, quiet=quiet)
    if not quiet:
        _print_result(tuned, folder)


def _tune(config: "ExperimentConfig", folder: Path, *, resume: bool, quiet: bool) -> "Tuned":
    from fcf_jax.experiments.build.devices import keep_compiled_programs, start_devices
    from fcf_jax.experiments.build.held_out import load_held_out
    from fcf_jax.experiments.errors import ConfigError
    from fcf_jax.experiments.report.tuning import write_tuning
    from fcf_jax.experiments.store.run_directory import ENVIRONMENT, claimed, environment
    from fcf_jax.experiments.tune.study import journal
    from fcf_jax.experiments.tune.tuning import run_tuning

    with ExitStack() as stack:
        with input_errors():
            start_devices(config.parallel)
            keep_compiled_programs()
            held_out = load_held_out(config)
            stack.enter_context(claimed(folder, config, resume=resume))
            storage = journal(folder)
        stack.enter_context(run_errors())
        progress = stack.enter_context(ProgressLine(new_console(), quiet=quiet))
        stack.enter_context(with_remedy(StopSignals(progress), "fcf tune", folder))
        for note in held_out.notes:
            progress.say(note)
        progress.say(
            f"{count_of(held_out.train.num_interactions, 'interaction')} to train on, "
            f"{held_out.validation.num_interactions} to validate on"
        )
        ENVIRONMENT.write(folder, environment())
        try:
            tuned = run_tuning(config, held_out, storage, progress)
        except ConfigError as error:  # the resumed study is of other data
            raise CommandError(str(error), 2) from None
        write_tuning(folder, held_out, tuned)
        return tuned


def _print_result(tuned: "Tuned", folder: Path) -> None:
    from fcf_jax.experiments.report.tables import show
    from fcf_jax.experiments.report.tuning import gain_text, tuning_tables
    from fcf_jax.experiments.store.run_directory import TUNED

    say(gain_text(tuned))
    for title, rows in tuning_tables(tuned):
        show(title, rows)
    if tuned.config == tuned.given:
        say(f"Nothing better was found: {TUNED.name} is the configuration as given.")
    for note in tuned.at_bounds:
        say(note)
    name = shlex.quote(str(folder / TUNED.name))
    say(f"Written to {folder}; run it with: fcf run {name}")
    say(f"Mean and sd over 5 seeds, beside ALS: fcf compare {name} --set comparison.num_builds=5")
