"""Progress bar of a fit."""

from typing import Any


def progress_bar(*, is_wanted: bool) -> Any:
    """Return a bar of rounds on stderr, shown only on a terminal."""
    from rich.console import Console  # noqa: TID251
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("round"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (is_wanted and console.is_terminal),
    )
