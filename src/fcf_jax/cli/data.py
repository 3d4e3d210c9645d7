"""`fcf data`: public data sets, downloaded once into a cache where configs find them; a look into data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from fcf_jax.cli.errors import CommandError, describe, input_errors
from fcf_jax.cli.options import ConfigArgument, SetOption
from fcf_jax.experiments.console import Console, new_console, say

if TYPE_CHECKING:
    from fcf_jax.data.fetch import Fetched
    from fcf_jax.data.known_sets import KnownSet

data = typer.Typer(
    help="Download public data sets, list those known, or look into data.", no_args_is_help=True
)


@data.command("fetch")
def fetch_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `fcf data list`.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Instead of the cache that configs look in."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="A mirror of files.grouplens.org/datasets.")
    ] = None,
) -> None:
    """Download a data set, verify its checksum and unpack it into the cache."""
    from fcf_jax.data.fetch import SERVER, FetchError, fetch
    from fcf_jax.data.known_sets import cache_folder, known_set

    with input_errors():
        known = known_set(name)
    cache = cache_folder() if to is None else to.expanduser().absolute()
    address = server or SERVER
    if not known.is_in(known.folder(cache)):
        say(f"Fetching {known.title} ({known.megabytes} MB) from {address}/{known.archive}")
    try:
        with _Bar(new_console()) as bar:
            fetched = fetch(known, cache=cache, server=address, progress=bar)
    except FetchError as error:
        raise CommandError(str(error), 1) from error
    except OSError as error:
        raise CommandError(f"{describe(error)} (--to and FCF_JAX_DATA choose the folder)", 1) from error
    key, value = ("name", known.name) if to is None else ("path", fetched.folder)
    say(f"{known.title} is in {fetched.folder}; {_verdict(fetched)}")
    say(f'{_terms(known)} Configs find it by data.{key} = "{value}".')


@data.command("list")
def list_sets() -> None:
    """List the known data sets, their terms, and which are in the cache."""
    from fcf_jax.data.known_sets import KNOWN_SETS, cache_folder, find_known

    for known in KNOWN_SETS.values():
        folder = find_known(known)
        here = f"here: {folder}" if folder else f"not here; `fcf data fetch {known.name}`"
        say(f"{known.name:16} {known.title}: {known.counts}; {known.megabytes} MB to fetch")
        say(f"{'':16} {_terms(known)}")
        say(f"{'':16} {here}")
    say(f"The cache is {cache_folder()}; set FCF_JAX_DATA to use another.")


@data.command("preview")
def preview(config: ConfigArgument = None, overrides: SetOption = None) -> None:
    """Show how data are understood, without training: columns, first rows, counts, what is left out."""
    from fcf_jax.experiments.build.preview import preview_of
    from fcf_jax.experiments.config.load import load_config
    from fcf_jax.experiments.report.tables import show

    with input_errors():
        shown = preview_of(load_config(config, overrides or ()).data)
    say("\n".join(shown.notes))
    show("first rows", shown.rows)
    show("what is trained and tested on", shown.counts)


def _verdict(fetched: "Fetched") -> str:
    checksum = fetched.checksum
    if checksum is None:
        return "the folder was there without an archive, so nothing was checked"
    if fetched.is_first:
        return f"no published checksum was found: pinned {checksum.value} at this first download"
    return f"its archive has the checksum {checksum.value} ({checksum.origin})"


def _terms(known: "KnownSet") -> str:
    return f"Terms: {known.terms}; cite {known.citation}."


class _Bar:
    """Progress bar of a download, on a terminal; the interface is that of pooch."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._live = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._live.add_task("", total=None, visible=False)

    def __enter__(self) -> "_Bar":
        self._live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._live.stop()

    @property
    def total(self) -> int:
        """Size of the file, in bytes."""
        return int(self._live.tasks[0].total or 0)

    @total.setter
    def total(self, num_bytes: int) -> None:
        self._live.update(self._task, total=num_bytes or None, visible=True)

    def update(self, num_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._live.advance(self._task, num_bytes)

    def reset(self) -> None:
        """Start from zero."""
        self._live.update(self._task, completed=0)

    def close(self) -> None:
        """Do nothing: the bar closes with the context."""
