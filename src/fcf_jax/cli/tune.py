"""`fcf tune`."""

import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fcf_jax.cli.errors import CommandError, input_errors, run_errors
from fcf_jax.cli.options import ConfigArgument, QuietOption, SetOption, folder_of

if TYPE_CHECKING:
    from fcf_jax.experiments.config import ExperimentConfig
    from fcf_jax.experiments.tuning import Tuned

_NO_OPTUNA = "fcf tune needs optuna, which is not installed; pip install 'fcf_jax[tune]'"


def tune(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; default runs/NAME-TIMESTAMP.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Find K, alpha, lambda and the numbers of the server's step, and write a config that has them.

    The test set is never looked at.
    """
    if importlib.util.find_spec("optuna") is None:
        raise CommandError(_NO_OPTUNA, 2)
    from fcf_jax.experiments.config import load_config
    from fcf_jax.experiments.run_directory import refuse_used
    from fcf_jax.experiments.study import FILE
    from fcf_jax.experiments.tuning import refuse_unfit

    with input_errors():
        resolved = load_config(config, overrides or ())
        refuse_unfit(resolved)
        if resume and out is None:
            raise ValueError("--resume: expected the folder of the study; add --out FOLDER")
        folder = folder_of(out, config)
        is_resumed = resume and (folder / FILE).is_file()
        if not is_resumed:
            refuse_used(folder)
    tuned = _tune(resolved, folder, is_resumed=is_resumed, quiet=quiet)
    if not quiet:
        _print_outcome(resolved, tuned, folder)


def _tune(config: "ExperimentConfig", folder: Path, *, is_resumed: bool, quiet: bool) -> "Tuned":
    from fcf_jax.experiments import run_directory
    from fcf_jax.experiments.config import ConfigError
    from fcf_jax.experiments.held_out import load_held_out
    from fcf_jax.experiments.placement import keep_compiled_programs, start_devices
    from fcf_jax.experiments.progress import ProgressLine
    from fcf_jax.experiments.study import journal
    from fcf_jax.experiments.tuning import run_tuning
    from fcf_jax.experiments.tuning_report import write_outcome

    with ExitStack() as stack:
        with input_errors():
            start_devices(config.parallel)
            keep_compiled_programs()
            held_out = load_held_out(config)
            folder.mkdir(parents=True, exist_ok=True)
            storage = stack.enter_context(journal(folder))
        stack.enter_context(run_errors())
        progress = stack.enter_context(ProgressLine(Console(), quiet=quiet))
        progress.say(
            f"{held_out.train.num_interactions} interactions to train on, "
            f"{held_out.validation.num_interactions} to validate on"
        )
        if not is_resumed:
            run_directory.write_config(folder, config)
            run_directory.write_json(folder / "environment.json", run_directory.environment())
        try:
            tuned = run_tuning(config, held_out, storage, progress)
        except ConfigError as error:  # a resumed study that is another one
            raise CommandError(str(error), 2) from None
        except BaseException as stopped:
            if not isinstance(stopped, Exception):  # Ctrl-C or SIGTERM
                progress.say(f"go on with: fcf tune {folder / 'config.toml'} --out {folder} --resume")
            raise
        write_outcome(folder, config, held_out, tuned)
        return tuned


def _print_outcome(config: "ExperimentConfig", tuned: "Tuned", folder: Path) -> None:
    from fcf_jax.experiments.timing import show
    from fcf_jax.experiments.tuning import metric_of
    from fcf_jax.experiments.tuning_report import TUNED, tables

    for title, rows in tables(config, tuned):
        show(title, rows)
    if tuned.start_value is not None:
        print(
            f"{metric_of(config)} of the federation on the validation set: {tuned.start_value:.4f} as "
            f"configured, {tuned.best_value:.4f} tuned"
        )
    if tuned.config == config:
        print(f"Nothing better was found: {TUNED} is the configuration as it was.")
    print(f"Written to {folder}; run it with: fcf run {folder / TUNED}")
