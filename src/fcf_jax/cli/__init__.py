"""The command line `fcf`, a module for each command.

Exit codes: 0 done; 1 the run failed; 2 a mistake in input or configuration, reported in one line on stderr
with nothing written; 129, 130 and 143 stopped by SIGHUP, Ctrl-C or SIGTERM. Commands import JAX only if they
need it, and are imported with the signals watched: imports take most of the first seconds.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from fcf_jax.cli.errors import CommandError, as_given
from fcf_jax.cli.signals import SignalError, end_at_once, raised_signals
from fcf_jax.messages import one_line, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with raised_signals():
            from fcf_jax.cli.app import run_command

            code = run_command(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except CommandError as error:
        return _fail(as_given(str(error), arguments), error.code)
    except SignalError as error:
        return _fail(f"stopped by {error.name}", error.code)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads; do not complain about it at exit
        return 0
    except OSError as error:  # those of files have become a CommandError
        sys.stdout = None
        return _fail(f"standard output: {error.strerror}", 1)


def run_program() -> NoReturn:
    """Run the command line as a whole program, such as `fcf`, and end the process with its exit code.

    After a signal, the shutdown of the interpreter is left out: XLA crashes in it if the signal interrupted
    a compilation.
    """
    code = main()
    if code > 128:
        end_at_once(code)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be gone
        print(f"fcf: {printable(one_line(message))}", file=sys.stderr)  # noqa: T201
    return code
