"""Arguments and options that commands share."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig

ConfigArgument = Annotated[
    str | None, typer.Argument(metavar="[CONFIG.toml]", help="A TOML file, or the name of a shipped config.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key; repeatable.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with what was begun in --out; CONFIG may be left out.")
]


def folder_of(out: Path | None, config: str | None, *, suffix: str = "", resume: bool = False) -> Path:
    """Return the run directory: as asked for, or runs/NAME-TIMESTAMP, with a suffix to the name.

    Raises:
        ValueError: when there is nothing to resume.
    """
    if resume and out is None:
        raise ValueError("--resume: expected --out DIR, the run directory to go on with; add it")
    name = "simulated" if config is None else Path(config).stem
    return out or Path("runs") / f"{name}{suffix}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def config_of(
    folder: Path,
    config: str | None,
    overrides: list[str] | None,
    *,
    resume: bool,
    may_change: tuple[str, ...] = (),
) -> "ExperimentConfig":
    """Resolve the configuration of a run: a new one in an empty folder, or the one that was begun there.

    Args:
        folder: of the run.
        config: a file or a name; None: that of the folder, or the defaults.
        overrides: of its keys.
        resume: whether a run may have begun there.
        may_change: beginnings of keys that may differ from when it was begun.

    Raises:
        ValueError: in one line, for a mistake in it, or a folder that it does not fit.
        OSError: when it cannot be read.
    """
    from fcf_jax.experiments.config.load import load_config
    from fcf_jax.experiments.store.resume import refuse_another
    from fcf_jax.experiments.store.run_directory import CONFIG, refuse_used

    if resume and config is None and CONFIG.is_in(folder):
        config = str(folder / CONFIG.name)
    resolved = load_config(config, overrides or ())
    if resume:
        refuse_another(folder, resolved, may_change=may_change)
    else:
        refuse_used(folder)
    return resolved
