"""Errors of commands: each is printed as one line and sets the exit code."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ELSEWHERE = "choose a place that you may write to"
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOENT: "check the name and the folders in it",
    errno.ENOTDIR: "one of the folders in it is a file: name another path",
    errno.EEXIST: "it is there already: name another path",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: name another path",
}


class CommandError(Exception):
    """An error that ends the command.

    Args:
        message: one line.
        code: exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn mistakes in input or configuration into exit code 2, exhausted memory or disk into 1."""
    try:
        yield
    except MemoryError as error:
        raise CommandError(f"out of memory while reading: {error}; use less data", 1) from error
    except OSError as error:  # a full disk is no mistake in the input
        raise CommandError(describe(error), 1 if error.errno == errno.ENOSPC else 2) from error
    except ValueError as error:
        raise CommandError(str(error), 2) from error


@contextmanager
def run_errors() -> Iterator[None]:
    """Turn failures of a run into exit code 1; configurations and files that do not fit it are input: 2."""
    from jax.errors import JaxRuntimeError

    from fcf_jax.experiments.errors import CheckpointError, ConfigError, DamagedFileError, DivergedError

    try:
        yield
    except (CheckpointError, ConfigError, DamagedFileError) as error:
        raise CommandError(str(error), 2) from error
    except DivergedError as error:
        raise CommandError(str(error), 1) from error
    except OSError as error:
        raise CommandError(describe(error), 1) from error
    except MemoryError as error:
        raise CommandError("out of memory; lower model.num_factors or federation.cohort_size", 1) from error
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise CommandError("out of memory; lower model.num_factors or federation.cohort_size", 1) from error


def describe(error: OSError) -> str:
    """Return the file, what went wrong, and the remedy if one is known."""
    if error.errno is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno)
    return f"{error.filename or 'disk'}: {error.strerror}{f'; {remedy}' if remedy else ''}"


def as_given(message: str, arguments: Sequence[str]) -> str:
    """Return a message with paths as the user wrote them, where a configuration has made them absolute.

    Args:
        message: of an error.
        arguments: of the command line; also the values of `--set section.key=value`.
    """
    for text in (part for argument in arguments for part in (argument, argument.partition("=")[2])):
        with suppress(RuntimeError, ValueError):  # `~name` of nobody
            absolute = str(Path(text).expanduser().absolute())
            if text and text != absolute:
                message = re.sub(
                    rf"(?<![^\s'\"]){re.escape(absolute)}(?![\w.-])", lambda _, t=text: t, message
                )
    return message
