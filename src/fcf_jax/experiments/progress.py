"""How a run tells where it is: a live line on a terminal, plain lines in a pipe, or nothing."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

_ROOM_FOR_A_BAR = 110  # columns


class ProgressLine:
    """Shows rounds as they pass, and how long the rest will take; use it as a context manager."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        bar = [BarColumn(bar_width=20)] if console.width >= _ROOM_FOR_A_BAR else []
        self._live = Progress(
            *bar,
            TextColumn("{task.description} {task.fields[status]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID = TaskID(0)
        self._first = (0, 0.0)  # how much was done when it was first told, and when that was

    def __enter__(self) -> "ProgressLine":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, what: str, done: int, total: int | None, status: str) -> None:
        """Say how far something is, `done` out of `total`, and from the second time on the time left.

        What came before the first time is no measure: it includes compiling.

        Args:
            what: is counted.
            done: so far.
            total: None when nobody knows.
            status: what else there is to say.
        """
        self._begin(what, done, total)
        position = f"{done}" if total is None else f"{done}/{total}"
        status = "  ".join(filter(None, (position, self._time_left(done, total), status)))
        self._live.update(self._task, completed=done, status=status, visible=True)
        if not self._console.is_terminal:
            self.say(f"{what} {status}")

    def say(self, line: str) -> None:
        """Print one line that stays."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the live line away."""
        self._live.stop()

    def _begin(self, what: str, done: int, total: int | None) -> None:
        if self._live.tasks and self._live.tasks[0].description == what:
            return
        for task in self._live.tasks:
            self._live.remove_task(task.id)
        self._task = self._live.add_task(what, total=total, visible=False, status="")
        self._first = (done, time.monotonic())

    def _time_left(self, done: int, total: int | None) -> str:
        first, since = self._first
        if total is None or not first < done < total:
            return ""
        return f"{_duration((time.monotonic() - since) / (done - first) * (total - done))} left"


def short(number: float) -> str:
    """Write a positive number in few characters: 33100 as 33k."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.{1 if number < 10 else 0}f}{unit}"
        number /= 1000
    return f"{number:.0f}G"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
