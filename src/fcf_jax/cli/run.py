"""`fcf run`."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

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

_UNKNOWN = "-"
_LONG_NAME = 20  # characters of a metric; with longer ones, 80 columns have no room for blanks at the edges

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig
    from fcf_jax.experiments.store.schemas import Summary


def run(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=folder_argument, metavar="DIR", help="Run directory; default runs/NAME-TIMESTAMP."
        ),
    ] = None,
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a federation and centralised ALS on the same data, and compare them.

    With --resume, a larger federation.num_rounds trains longer, and other keys of [evaluation] measure anew.
    """
    from fcf_jax.experiments.store.continuation import MAY_CHANGE, changed_keys, refuse_impossible
    from fcf_jax.experiments.store.run_directory import SUMMARY

    with input_errors():
        resolved, folder = open_run("run", config, overrides, out, resume=resume, may_change=MAY_CHANGE)
        if resume:
            refuse_impossible(folder, resolved)
        is_finished = resume and SUMMARY.read_or(folder, None) is not None
        is_finished = is_finished and not changed_keys(folder, resolved)
    if is_finished:
        _end_finished(folder, quiet=quiet)
        return
    _run(resolved, folder, resume=resume, quiet=quiet)


def _end_finished(folder: Path, *, quiet: bool) -> None:
    """Write what a process that was killed at the very end left out: the report."""
    from fcf_jax.experiments.report.page import REPORT, write_report

    left = "nothing left to do"
    if not (folder / REPORT).is_file():
        with run_errors():
            write_report(folder)
        left = f"only {REPORT} was missing"
    if not quiet:
        say(f"{folder} is finished: {left}")


def _run(config: "ExperimentConfig", folder: Path, *, resume: bool, quiet: bool) -> None:
    import jax

    from fcf_jax.experiments.build.dataset import load_dataset
    from fcf_jax.experiments.build.devices import keep_compiled_programs, start_devices
    from fcf_jax.experiments.build.facts import facts_of
    from fcf_jax.experiments.build.problem import resolve
    from fcf_jax.experiments.cautions import caution_of_secure_sums, caution_of_start
    from fcf_jax.experiments.config.checks import check
    from fcf_jax.experiments.run import run_experiment
    from fcf_jax.experiments.store.continuation import changed_keys
    from fcf_jax.experiments.store.run_directory import claimed, num_devices_begun_with

    with ExitStack() as stack:
        with input_errors():
            start_devices(config.parallel, num_cpu_devices=num_devices_begun_with(folder))
            keep_compiled_programs()
            dataset = load_dataset(config)
            check(config, "run", facts_of(config, dataset))
            problem = resolve(config, dataset)
            place = folder
            if jax.process_index() > 0:  # process 0 alone prints, and writes the run directory
                place, quiet = Path(stack.enter_context(TemporaryDirectory(prefix="fcf-"))), True
            is_same = not changed_keys(folder, config)
            stack.enter_context(claimed(place, config, resume=resume, writes_config=is_same))
        progress = stack.enter_context(ProgressLine(new_console(), quiet=quiet))
        signals = StopSignals(progress)
        stack.enter_context(run_errors())
        stack.enter_context(with_remedy(signals, "fcf run", folder))
        train = problem.train
        for note in dataset.notes:
            progress.say(note)
        progress.say(
            f"{count_of(train.num_users, 'user')}, {count_of(train.num_items, 'item')}, "
            f"{count_of(train.num_interactions, 'interaction')} to train on"
        )
        for caution in filter(None, [caution_of_secure_sums(config), caution_of_start(config)]):
            progress.say(f"warning: {caution}")
        summary = run_experiment(problem, place, progress, resume=resume, stop=signals.held_back())
    if not quiet:
        _print_summary(summary, folder)


def _print_summary(summary: "Summary", folder: Path) -> None:
    from fcf_jax.experiments.report.wording import privacy_note

    console = new_console()
    console.print(_summary_table(summary))
    if not summary["num_test_interactions"]:
        say("No test interactions: there is nothing to rank; see data.test_fraction.")
    elif "explicit_baseline_rmse" in summary:
        say(f"RMSE of user and item offsets alone: {summary['explicit_baseline_rmse']:.4f}")
    if floor := summary.get("feature_popularity"):
        shown = [
            f"{name} {_number(value)}" for name, value in floor.items() if "recall" in name or "ndcg" in name
        ]
        say(f"Cold items by the popularity that their features predict: {', '.join(shown)}.")
    both = f"sends {summary['payload_bytes_up']} bytes and receives {summary['payload_bytes_down']}."
    if summary["num_rounds"]:
        say(f"{summary['seconds_per_round']:.4g} s per round; a client in a round {both}")
    else:
        say(f"No rounds; a client {both}")
    if clipped := summary.get("fixed_point", {}).get("num_clipped_entries"):
        say(
            f"{clipped} numbers that clients sent exceeded the bounds of fixed point and were clipped; raise "
            "privacy.upload_bound or privacy.gram_bound."
        )
    for warning in summary.get("warnings", []):
        say(f"warning: {warning}")
    say(f"{privacy_note(summary)}\nWritten to {folder}")


def _summary_table(summary: "Summary") -> Table:
    """Return a row for each metric that is known of any side, with popularity first: the floor."""
    difference = summary["difference_percent"]
    columns = {"popularity": summary.get("popularity"), "federated": summary["federated"]}
    shown_names = [name for name in summary["federated"] if not name.startswith("normalized_")]
    table = Table(
        title="federated vs centralised (ALS)" if summary["centralized"] else None,
        pad_edge=max(map(len, shown_names)) < _LONG_NAME,
    )
    columns |= {"centralised": summary["centralized"]}
    shown = {heading: values for heading, values in columns.items() if values}
    for heading in ["", *shown, *(["difference %"] if difference else [])]:
        table.add_column(heading, justify="right" if heading else "left")
    for name in shown_names:
        cells = [_number(values.get(name)) for values in shown.values()]
        if set(cells) != {_UNKNOWN}:
            table.add_row(name, *cells, *([_number(difference.get(name), "+.2f")] if difference else []))
    return table


def _number(value: float | None, form: str = ".6g") -> str:
    return _UNKNOWN if value is None or value != value else f"{value:{form}}"
