"""Arguments and options that commands share."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[
    str | None, typer.Argument(metavar="[CONFIG.toml]", help="A TOML file, or the name of a shipped config.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key; repeatable.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]


def folder_of(out: Path | None, config: str | None, *, suffix: str = "") -> Path:
    """Return the run directory: as asked for, or runs/NAME-TIMESTAMP, with a suffix to the name."""
    name = "simulated" if config is None else Path(config).stem
    return out or Path("runs") / f"{name}{suffix}-{datetime.now():%Y%m%d-%H%M%S-%f}"
