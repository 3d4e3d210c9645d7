"""Signals that stop the program: at once or, while rounds run, after the current block of rounds."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from fcf_jax.cli.errors import CommandError, describe

if TYPE_CHECKING:
    from fcf_jax.experiments.progress import ProgressLine

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # POSIX
    _NAMES[signal.SIGHUP] = "SIGHUP"


class SignalError(BaseException):
    """A signal that ends the command.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """Name of the signal, as users know it."""
        return _NAMES[signal.Signals(self.number)]

    @property
    def code(self) -> int:
        """Exit code that a shell expects."""
        return 128 + self.number


@contextmanager
def raised_signals() -> Iterator[None]:
    """Raise SignalError for signals inside the `with`, wherever they arrive.

    During imports a signal ends the process at once: nothing is written by then, and packages such as NumPy
    handle or replace any exception that interrupts their import. Python ignores exceptions in callbacks and
    destructors: such a signal is sent again. Any other failure after a signal is the signal's.
    """
    previous, arrived = sys.unraisablehook, []

    def raise_it(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            _end(number, f"stopped by {SignalError(number).name}")
        arrived.append(number)
        raise SignalError(number)

    def send_again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, SignalError):  # later: this is a callback, too
            number = unraisable.exc_value.number
            threading.Timer(0.01, os.kill, [os.getpid(), number]).start()
        else:
            previous(unraisable)

    sys.unraisablehook = send_again
    try:
        with handling(raise_it):
            yield
    except Exception as error:
        if not arrived or (isinstance(error, CommandError) and error.code > 128):  # stopped, with a remedy
            raise
        raise SignalError(arrived[0]) from error
    finally:
        sys.unraisablehook = previous


@contextmanager
def handling(handler: Callable[..., None]) -> Iterator[None]:
    """Handle the signals that stop the program inside the `with`, except those that are ignored (nohup).

    Does nothing outside of the main thread, as Python requires.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in _NAMES}
    handled = [number for number, before in previous.items() if before != signal.SIG_IGN]
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number] or signal.SIG_DFL)


class StopSignals:
    """Signals held back: the first requests a stop, a second ends the process at once."""

    def __init__(self, progress: "ProgressLine") -> None:
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
            with handling(self._note), _written_to(write_end):
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
        with suppress(Exception):  # nothing may keep the process alive
            self._progress.close()
        _end(self._arrived or signal.SIGINT, f"stopped at once by {self.describe()[0]}")


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
    except SignalError as error:
        raise CommandError(f"stopped by {error.name}; {remedy}", error.code) from None
    except KeyboardInterrupt:
        raise CommandError(f"stopped by Ctrl-C; {remedy}", 130) from None
    except OSError as error:
        raise CommandError(f"{describe(error)}; {remedy}", 1) from error


def end_at_once(code: int) -> NoReturn:
    """End the process without the shutdown of the interpreter, but leave the group of a distributed run.

    Args:
        code: exit code.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # there may be none, or nobody who reads
                stream.flush()
        jax = sys.modules.get("jax")
        if jax is not None and jax.distributed.is_initialized():
            jax.distributed.shutdown()
    finally:  # also for a signal or a failure
        os._exit(code)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, message: str) -> NoReturn:
    with suppress(Exception):
        print(f"fcf: {message}", file=sys.stderr, flush=True)  # noqa: T201
        sys.stdout.write("\x1b[?25h" * sys.stdout.isatty())  # the cursor, which a live line hides
        sys.stdout.flush()
    os._exit(128 + number)


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
