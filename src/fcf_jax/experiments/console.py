"""Output of the commands: control characters of the data spelled out, and a reader that may go away."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251
from rich.segment import Segment
from rich.text import Text

from fcf_jax.messages import printable


def say(text: object = "") -> None:
    """Print a line, or several; in silence where nobody reads them any more, as after `| head -1`."""
    try:
        print(printable(str(text)))  # noqa: T201
    except BrokenPipeError:
        _discard(sys.stdout)


def new_console() -> Console:
    """Return a console on the standard output, which shows text as it is: no markup, emoji or highlights.

    Where it cannot be written any more, the command goes on without it, and says so once.
    """
    file = None if sys.stdout is None else cast(TextIO, _Lasting(sys.stdout))
    return _Printable(file=file, markup=False, emoji=False, highlight=False)


class _Printable(Console):
    """A console whose text a terminal cannot obey."""

    def render_str(self, text: str, **options: Any) -> Text:  # cells, which are measured
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Any:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Lasting:
    """A text file that drops what cannot be written, and says so once on the standard error."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._losing():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._losing():
            self._file.flush()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_lost:
                self._is_lost = True
                self._lose(error.strerror or str(error))

    def _lose(self, why: str) -> None:
        _discard(self._file)
        with suppress(OSError):
            print(f"fcf: the output is lost ({why}); going on without it", file=sys.stderr)  # noqa: T201


def _discard(file: TextIO) -> None:
    """Send to nowhere what is written, and what Python has buffered, which would fail again at the end."""
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, file.fileno())
        os.close(descriptor)
