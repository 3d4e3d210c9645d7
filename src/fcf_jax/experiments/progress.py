"""Progress of a run: a live line on a terminal, plain lines in a pipe, or nothing."""

import math
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from fcf_jax.experiments.console import Console

_ROOM_FOR_A_BAR = 110  # columns


class ProgressLine:
    """Context manager that shows how far a run is, and how long the rest will take."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        bar = [BarColumn(bar_width=20)] if console.width >= _ROOM_FOR_A_BAR else []
        self._live = Progress(
            *bar,
            TextColumn("{task.description} {task.fields[status]}", table_column=Column(no_wrap=True)),
            console=console,
            speed_estimate_period=math.inf,  # a single block of rounds may take longer than the default
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID = TaskID(0)
        self._is_new = True

    def __enter__(self) -> "ProgressLine":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, what: str, done: int, total: int | None, status: str, *, is_kept: bool = True) -> None:
        """Show `done` out of `total`, with the time left where it can be estimated.

        The steps before the first call, and those before the first call after `compiling`, are left out of
        the estimate.

        Args:
            what: name of what is counted.
            done: number of steps done.
            total: number of all steps; None if unknown.
            status: further text for the line.
            is_kept: whether the line is worth keeping where lines stay: in a pipe.
        """
        if self._is_new or self._live.tasks[0].description != what:
            self._begin(what, done, total)
        self._live.update(self._task, completed=done)
        position = f"{done}" if total is None else f"{done}/{total}"
        status = "  ".join(filter(None, (position, self._time_left(), status)))
        self._live.update(self._task, status=status, visible=True)
        if is_kept and not self._console.is_terminal:
            self.say(f"{what} {status}")

    def compiling(self, what: str) -> None:
        """Show that the next step is compiled first, which may take longer than many steps."""
        self._begin(what, 1, None)
        self._live.update(self._task, status=" compiling ...", visible=True)
        self._is_new = True

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the live line."""
        self._live.stop()

    def _begin(self, what: str, done: int, total: int | None) -> None:
        for task in self._live.tasks:
            self._live.remove_task(task.id)
        before = done - 1  # rich takes the time from the first step that it sees
        self._task = self._live.add_task(what, total=total, completed=before, visible=False, status="")
        self._is_new = False

    def _time_left(self) -> str:
        """Return rich's estimate; empty before there is one, and at the end."""
        seconds = self._live.tasks[0].time_remaining
        return f"{_duration(seconds)} left" if seconds else ""


def short(number: float) -> str:
    """Format a positive number in few characters: 33100 as 33k."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.{1 if number < 10 else 0}f}{unit}"
        number /= 1000
    return f"{number:.0f}G"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
