"""The command line `fcf`, a module for each command.

Exit codes: 0 done; 1 the run failed; 2 a mistake in input or configuration, reported in one line on stderr
with nothing written; 130 and 143 stopped by Ctrl-C or SIGTERM. Commands import JAX only if they need it.
"""

import signal
import sys
from collections.abc import Sequence
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
from fcf_jax.cli.signals import TerminatedError, handling, terminate
from fcf_jax.cli.tune import tune

app = typer.Typer(
    name="fcf",
    help="Federated Collaborative Filtering (arXiv:1901.09888) in JAX.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(compare)
app.command()(report)
app.command()(recommend)
app.command()(tune)
app.command()(audit)
app.add_typer(data, name="data")
app.add_typer(privacy, name="privacy")
app.command("config")(show_config)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with handling({signal.SIGTERM: terminate}):
            result = get_command(app).main(arguments, "fcf", standalone_mode=False)
        if result == 130:  # typer's answer to Ctrl-C
            return _fail("stopped by Ctrl-C", 130)
        return result if isinstance(result, int) else 0
    except CommandError as error:
        return _fail(str(error), error.code)
    except TerminatedError:
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


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"fcf {_version('fcf_jax')}")
        raise typer.Exit()


def _fail(message: str, code: int) -> int:
    print("fcf: " + " ".join(message.split()), file=sys.stderr)
    return code


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
