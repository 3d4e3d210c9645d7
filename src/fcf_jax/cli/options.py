"""Arguments and options that commands share, and how a command opens its configuration and folder."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fcf_jax.messages import printable

if TYPE_CHECKING:
    from fcf_jax.experiments.config.schema import ExperimentConfig


def _shipped(incomplete: str) -> list[str]:
    from fcf_jax.experiments.config.source import shipped_configs

    return [name for name in shipped_configs() if name.startswith(incomplete)]


ConfigArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG|DATA]",
        autocompletion=_shipped,
        help="A TOML file, the name of a shipped config, or a data file or folder, read with own-csv.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key; repeatable.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue what was begun in --out; CONFIG may be left out.")
]

_ENDINGS = (".gz", ".bz2", ".xz", ".zip")


def folder_argument(text: str) -> Path:
    """Return the folder that an option names.

    Raises:
        typer.BadParameter: for what is hardly meant as a folder.
    """
    if not text.strip() or text.startswith("-"):
        raise typer.BadParameter(f"expected a folder, got {text!r}; name one")
    if printable(text) != text:  # it must fit into config.toml and onto a screen
        raise typer.BadParameter(
            f"expected a name in UTF-8 without control characters, got {text!r}; rename it"
        )
    return Path(text)


def open_run(
    command: Literal["run", "compare", "tune", "sweep", "audit"],
    config: str | None,
    overrides: list[str] | None,
    out: Path | None,
    *,
    resume: bool = False,
    may_change: tuple[str, ...] = (),
) -> tuple["ExperimentConfig", Path]:
    """Resolve and check the configuration of a command, and choose its folder; nothing is written.

    Args:
        command: decides which rules hold, and the default name of the folder.
        config: a file or a name; None: that of the resumed folder, or the defaults.
        overrides: `section.key=value` texts.
        out: the folder; None: runs/NAME[-COMMAND]-TIMESTAMP.
        resume: whether a run may have begun in the folder; it must have the same configuration.
        may_change: prefixes of keys that may differ from those of the resumed run.

    Raises:
        ValueError: in one line, for a mistake in the configuration, or a folder that does not fit it.
        OSError: when the configuration cannot be read.
    """
    from fcf_jax.experiments.config.checks import check
    from fcf_jax.experiments.config.load import load_config
    from fcf_jax.experiments.store.resume import refuse_another, refuse_unbegun
    from fcf_jax.experiments.store.run_directory import CONFIG, refuse_used

    if resume and out is None:
        raise ValueError("--resume: expected --out DIR, the run directory to continue; add it")
    folder = _default_folder(command, config) if out is None else out
    if resume and config is None and CONFIG.is_in(folder):
        config = str(folder / CONFIG.name)
    resolved = load_config(config, overrides or ())
    if resume:
        if config is None and resolved.parallel.process_id == 0:  # the others have no folder of their own
            refuse_unbegun(folder)
        refuse_another(folder, resolved, may_change=may_change)
    else:
        refuse_used(folder)
    check(resolved, command)
    return resolved, folder


def _default_folder(command: str, config: str | None) -> Path:
    name = "simulated" if config is None else _name_of(config)
    suffix = "" if command == "run" else f"-{command}"
    return Path("runs") / f"{name}{suffix}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def _name_of(config: str) -> str:
    """Return the name of a config or of data without endings such as .csv.gz."""
    path = Path(config)
    name = path.name.strip(".") or path.resolve().name
    while (suffix := Path(name).suffix).lower() in _ENDINGS:
        name = name.removesuffix(suffix)
    return Path(name).stem or name
