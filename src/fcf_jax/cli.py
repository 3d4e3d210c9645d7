"""The command line: `fcf run`, `fcf recommend`, `fcf bench`, `fcf config`, `fcf doctor`.

Exit codes: 0 done; 1 failed in the run; 2 a mistake in input or configuration, told in one line on stderr
with nothing written; 130 and 143 stopped by Ctrl-C or SIGTERM. Commands import JAX only if they need it.
"""

import errno
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.main import get_command

if TYPE_CHECKING:
    from fcf_jax.experiments.config import ExperimentConfig

PRIVACY_NOTE = (
    "Plain FCF uploads are not private: a single upload reveals the user's history to the server; see README."
)

app = typer.Typer(
    name="fcf",
    help="Federated Collaborative Filtering (arXiv:1901.09888) in JAX.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[
    str | None, typer.Argument(metavar="[CONFIG.toml]", help="A TOML file, or the name of a shipped config.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key; repeatable.")
]


class CommandError(Exception):
    """A failure with its exit code, told in one line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _TerminatedError(BaseException):
    """SIGTERM arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    previous = _on_sigterm(_terminate)
    try:
        command = get_command(app)
        result = command.main(
            list(sys.argv[1:] if arguments is None else arguments), "fcf", standalone_mode=False
        )
        if result == 130:  # typer's answer to Ctrl-C
            return _fail("stopped by Ctrl-C", 130)
        return result if isinstance(result, int) else 0
    except CommandError as error:
        return _fail(str(error), error.code)
    except _TerminatedError:
        return _fail("stopped by SIGTERM", 143)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads; do not complain about it at exit
        return 0
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of typer
            message = error.format_message() or "expected a command; see `fcf --help`"  # type: ignore
            return _fail(message, 2)
        raise
    finally:
        _on_sigterm(previous)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"fcf {_version('fcf_jax')}")
        raise typer.Exit()


@app.command()
def run(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default runs/NAME-TIMESTAMP.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Train a federation and centralised ALS on the same data, and compare them."""
    from fcf_jax.experiments.config import load_config
    from fcf_jax.experiments.run_directory import refuse_used

    with _input_errors():
        resolved = load_config(config, overrides or ())
        folder = out or Path("runs") / f"{_name(config)}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        if resolved.parallel.process_id == 0:
            refuse_used(folder)
    if resolved.parallel.process_id > 0:  # works along; process 0 tells and writes
        with TemporaryDirectory(prefix="fcf-") as elsewhere:
            _run(resolved, Path(elsewhere), quiet=True)
        return
    summary = _run(resolved, folder, quiet=quiet)
    if not quiet:
        _print_summary(summary, folder)


@app.command()
def recommend(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    user: Annotated[str | None, typer.Option(help="Original user id, from the data of the run.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many items.")] = 10,
    history: Annotated[Path | None, typer.Option(help="CSV of item[,strength] instead of a user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend items to one user, from a finished run."""
    if (user is None) == (history is None):
        raise CommandError("expected either --user ID or --history FILE; give one of them", 2)
    from fcf_jax.experiments.recommending import history_from_file, history_of_user, recommend_items
    from fcf_jax.experiments.run_directory import read_run

    with _input_errors():
        model = read_run(folder)
        if history is not None:
            known = history_from_file(model, history)
        else:
            known = history_of_user(model, str(user))
    items = recommend_items(model, known, count=count)
    if as_json:
        print(json.dumps([one._asdict() for one in items]))
        return
    if known.num_unknown:
        print(f"{known.num_unknown} items of the history are unknown to the model")
    if not items:
        print("nothing left to recommend: the user has every item")
    for one in items:
        print(f"{one.item}\t{one.score:.4f}")


@app.command()
def bench(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures there.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Warm calls of each run.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Time rounds, ALS and, where it is installed, `implicit` on the data of a configuration."""
    from fcf_jax.experiments import bench as benchmark
    from fcf_jax.experiments.config import load_config
    from fcf_jax.experiments.dataset import load_dataset
    from fcf_jax.experiments.placement import start_devices
    from fcf_jax.experiments.timing import publish, show

    with _input_errors():
        resolved = load_config(config, overrides or ())
        benchmark.refuse_unfit(resolved)
        start_devices(resolved.parallel)
        if out is not None and out.is_dir():
            raise ValueError(f"{out}: expected a file for --out, got a folder; name a file in it")
        dataset = load_dataset(resolved)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
    with _run_errors():
        document = benchmark.run_bench(resolved, dataset, repeats=repeats)
        publish({"config": resolved.to_dict(), **document}, out)
    if quiet:
        return
    for title, rows in benchmark.tables(document):
        show(title, rows)
    print(f"calling again compiled {document['compilations_of_another_call']} programs")
    if document["note"]:
        print(document["note"])
    if out is not None:
        print(f"Written to {out}")


@app.command(name="config")
def show_config(
    config: ConfigArgument = None,
    overrides: SetOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Every key, default and meaning.")] = False,
) -> None:
    """Print the configuration as resolved, or explain every key."""
    import tomli_w

    from fcf_jax.experiments import config as configuration

    with _input_errors():
        resolved = configuration.load_config(config, overrides or ())
    print(configuration.explain(resolved) if explain else tomli_w.dumps(resolved.to_dict()).rstrip())


@app.command()
def doctor() -> None:
    """Say what is installed, which devices there are, and whether the solver is exact on them."""
    from fcf_jax.experiments.doctor import diagnose

    diagnosis = diagnose()
    for name, value in diagnosis.facts.items():
        print(f"{name:20} {value}")
    if not diagnosis.is_healthy:
        raise CommandError("the solver disagrees with float64 on this device; please report it", 1)


def _run(config: "ExperimentConfig", folder: Path, *, quiet: bool) -> dict[str, Any]:
    from fcf_jax.experiments.dataset import load_dataset
    from fcf_jax.experiments.experiment import run_experiment
    from fcf_jax.experiments.placement import keep_compiled_programs, start_devices
    from fcf_jax.experiments.progress import ProgressLine

    with _input_errors():
        start_devices(config.parallel)
        keep_compiled_programs()
        dataset = load_dataset(config)
        folder.mkdir(parents=True, exist_ok=True)
    with _run_errors(), ProgressLine(Console(), quiet=quiet) as progress:
        train = dataset.split.train
        progress.say(
            f"{train.num_users} users, {train.num_items} items, "
            f"{train.num_interactions} interactions to train on"
        )
        return run_experiment(config, dataset, folder, progress)


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    console = Console()
    federated, centralized = summary["federated"], summary["centralized"]
    headings = ["", "federated"] + (["centralised", "difference %"] if centralized else [])
    table = Table(title="federated vs centralised (ALS)" if centralized else None)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for name, value in federated.items():
        if name.startswith("normalized_"):
            continue
        row = [name, f"{value:.6g}"]
        if centralized:
            row += [f"{centralized[name]:.6g}", f"{summary['difference_percent'][name]:+.2f}"]
        table.add_row(*row)
    console.print(table)
    if "explicit_baseline_rmse" in summary:
        print(f"RMSE of user and item offsets alone: {summary['explicit_baseline_rmse']:.4f}")
    print(
        f"{summary['seconds_per_round']:.4g} s per round; each client and round sends "
        f"{summary['payload_bytes_up']} bytes and receives {summary['payload_bytes_down']}."
    )
    print(f"{PRIVACY_NOTE}\nWritten to {folder}")


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise CommandError(f"out of memory while reading: {error}; use less data", 1) from error
    except OSError as error:
        raise CommandError(_describe(error), 2) from error
    except ValueError as error:
        raise CommandError(str(error), 2) from error


@contextmanager
def _run_errors() -> Iterator[None]:
    from jax.errors import JaxRuntimeError

    from fcf_jax.experiments.experiment import DivergedError

    try:
        yield
    except DivergedError as error:
        raise CommandError(str(error), 1) from error
    except OSError as error:
        raise CommandError(_describe(error), 1) from error
    except MemoryError as error:
        raise CommandError("out of memory; lower model.num_factors or federation.cohort_size", 1) from error
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise CommandError("out of memory; lower model.num_factors or federation.cohort_size", 1) from error


def _describe(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    remedies = {errno.ENOSPC: "; free some space", errno.EACCES: "; choose a place that you may use"}
    return f"{error.filename or 'disk'}: {error.strerror}{remedies.get(error.errno, '')}"


def _fail(message: str, code: int) -> int:
    print("fcf: " + " ".join(message.split()), file=sys.stderr)
    return code


def _terminate(*unused: object) -> None:
    raise _TerminatedError


def _on_sigterm(handler: Any) -> Any:
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread
        return None


def _name(config: str | None) -> str:
    return "simulated" if config is None else Path(config).stem


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


if __name__ == "__main__":
    sys.exit(main())
