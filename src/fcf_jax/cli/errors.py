"""Errors of commands: each is printed as one line and sets the exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


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
    elsewhere = "; choose a place that you may write to"
    remedies = {errno.ENOSPC: "; free some space", errno.EACCES: elsewhere, errno.EROFS: elsewhere}
    return f"{error.filename or 'disk'}: {error.strerror}{remedies.get(error.errno, '')}"
