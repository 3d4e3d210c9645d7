"""The commands of `fcf` as one application."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Annotated

import typer
from typer.main import get_command

from fcf_jax.cli.audit import audit
from fcf_jax.cli.compare import compare
from fcf_jax.cli.data import data
from fcf_jax.cli.errors import CommandError
from fcf_jax.cli.information import doctor, show_config
from fcf_jax.cli.privacy import privacy
from fcf_jax.cli.recommend import recommend
from fcf_jax.cli.report import report
from fcf_jax.cli.run import run
from fcf_jax.cli.similar import similar
from fcf_jax.cli.sweep import sweep
from fcf_jax.cli.tune import tune
from fcf_jax.experiments.console import say

app = typer.Typer(
    name="fcf",
    help="Federated Collaborative Filtering (arXiv:1901.09888) in JAX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(compare)
app.command()(sweep)
app.command()(report)
app.command()(recommend)
app.command()(similar)
app.command()(tune)
app.command()(audit)
app.add_typer(data, name="data")
app.add_typer(privacy, name="privacy")
app.command("config")(show_config)
app.command()(doctor)


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Raises:
        CommandError: for a failure, or a mistake in the arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # a terminal may lack letters; None: there is no terminal
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = get_command(app).main(list(arguments), "fcf", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of typer
            message = error.format_message() or "expected a command; see `fcf --help`"  # type: ignore
            raise CommandError(message, 2) from None
        raise
    if result == 130:  # typer's answer to Ctrl-C
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        say(f"fcf {_version('fcf_jax')}")
        raise typer.Exit()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
