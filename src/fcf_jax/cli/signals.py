"""Signals that stop the program: at once or, while rounds run, after the current block of rounds."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fcf_jax.cli.errors import CommandError
from fcf_jax.experiments.progress import ProgressLine

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class TerminatedError(BaseException):
    """SIGTERM arrived."""


def terminate(*unused: object) -> None:
    """Raise TerminatedError, as Python raises KeyboardInterrupt for SIGINT."""
    raise TerminatedError


@contextmanager
def handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Set signal handlers inside the `with`; does nothing outside of the main thread, as Python requires."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


class StopSignals:
    """SIGINT and SIGTERM held back: the first requests a stop, a second ends the process at once."""

    def __init__(self, progress: ProgressLine) -> None:
        self._progress = progress
        self._arrived: signal.Signals | None = None

    @contextmanager
    def held_back(self) -> Iterator[Callable[[], bool]]:
        """Yield a function that returns True once a stop was requested.

        While the main thread runs a compiled program, Python's handlers have to wait. So the signals
        are written to a pipe as they arrive, and another thread reads them.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        reader = threading.Thread(target=self._read, args=(read_end,), daemon=True)
        reader.start()
        try:
            with handling(dict.fromkeys(_NAMES, self._note)), _written_to(write_end):
                yield lambda: self._arrived is not None
        finally:
            os.close(write_end)
            reader.join()
            os.close(read_end)

    def describe(self) -> tuple[str, int]:
        """Return the name of the signal that arrived, and the exit code that a shell expects."""
        if self._arrived is None:  # among several processes of one run
            return "another process", 128 + signal.SIGINT
        return _NAMES[self._arrived], 128 + self._arrived

    def _note(self, number: int, *unused: object) -> None:
        self._arrived = self._arrived or signal.Signals(number)

    def _read(self, read_end: int) -> None:
        is_first = True
        while number := os.read(read_end, 1):
            if number[0] not in _NAMES:
                continue
            self._note(number[0])
            if not is_first:
                self._end_at_once()
            is_first = False
            name, _ = self.describe()
            self._progress.say(f"{name}: stopping after this block of rounds; again to stop at once")

    def _end_at_once(self) -> None:
        name, code = self.describe()
        with suppress(Exception):  # nothing may keep the process alive
            self._progress.close()
            print(f"fcf: stopped at once by {name}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(code)


@contextmanager
def with_remedy(signals: StopSignals, command: str, folder: Path) -> Iterator[None]:
    """Report how to continue after a signal: with `command --resume`."""
    from fcf_jax.experiments.errors import StoppedError

    remedy = f"go on with: {command} --resume --out {shlex.quote(str(folder))}"
    try:
        yield
    except StoppedError as stopped:
        name, code = signals.describe()
        raise CommandError(f"stopped by {name} {stopped}; {remedy}", code) from stopped
    except KeyboardInterrupt:
        raise CommandError(f"stopped by Ctrl-C; {remedy}", 130) from None
    except TerminatedError:
        raise CommandError(f"stopped by SIGTERM; {remedy}", 143) from None


@contextmanager
def _written_to(descriptor: int) -> Iterator[None]:
    """Have Python write the number of each signal to this descriptor as it arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
