"""Mistakes and failures, told in one line each with their exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """A failure with its exit code, told in one line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def input_errors() -> Iterator[None]:
    """Tell a mistake in input or configuration: exit code 2."""
    try:
        yield
    except MemoryError as error:
        raise CommandError(f"out of memory while reading: {error}; use less data", 1) from error
    except OSError as error:  # a full disk is nobody's mistake
        raise CommandError(describe(error), 1 if error.errno == errno.ENOSPC else 2) from error
    except ValueError as error:
        raise CommandError(str(error), 2) from error


@contextmanager
def run_errors() -> Iterator[None]:
    """Tell a failure in the run: exit code 1; only a checkpoint of another run is a mistake in input."""
    from jax.errors import JaxRuntimeError

    from fcf_jax.experiments.errors import CheckpointError, DivergedError

    try:
        yield
    except CheckpointError as error:
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
    """Name the file, the trouble and, where there is one, the remedy."""
    if error.errno is None:
        return str(error)
    elsewhere = "; choose a place that you may use"
    remedies = {errno.ENOSPC: "; free some space", errno.EACCES: elsewhere, errno.EROFS: elsewhere}
    return f"{error.filename or 'disk'}: {error.strerror}{remedies.get(error.errno, '')}"
