"""How a run tells where it is: a live line on a terminal, plain lines in a pipe, or nothing."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressLine:
    """Shows rounds as they pass; use it as a context manager."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._live.add_task("rounds", total=None, visible=False, status="")

    def __enter__(self) -> "ProgressLine":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, what: str, done: int, total: int, status: str) -> None:
        """Say how far something is, `done` out of `total`."""
        self._live.update(
            self._task, description=what, completed=done, total=total, status=status, visible=True
        )
        if not self._console.is_terminal:
            self.say(f"{what} {done}/{total}  {status}")

    def say(self, line: str) -> None:
        """Print one line that stays."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
