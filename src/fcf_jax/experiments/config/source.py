"""Meaning of the CONFIG argument: a TOML file, the name of a shipped config, or data of one's own."""

import difflib
import importlib.resources
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fcf_jax.experiments.errors import ConfigError

OWN_DATA = "own-csv"  # the shipped config for data that are given in place of a config

_REPOSITORY_CONFIGS = Path(__file__).parents[4] / "configs"
_RUN_MARKS = ("config.toml", "environment.json")  # files of a run directory

# What to do with a file that is neither a config nor a form of data that is read.
_REMEDIES: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV"),
    **dict.fromkeys((".pkl", ".pickle", ".h5", ".hdf5", ".feather", ".rds", ".mat"), "save it as Parquet"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql"), "export the table as CSV"),
    **dict.fromkeys((".tar", ".tgz", ".zst", ".7z", ".rar"), "unpack it"),
    **dict.fromkeys((".yaml", ".yml", ".ini", ".cfg"), "write the configuration as TOML"),
    **dict.fromkeys((".py", ".ipynb", ".html", ".pdf", ".md"), "name another file"),
}  # fmt: skip
_KINDS = "a TOML file, a data file (CSV, TSV, JSON lines, Parquet, NPZ, .gz, .zip), a folder of data"


class Source(NamedTuple):
    """Where a configuration comes from.

    Attributes:
        config: TOML file.
        data: Data file or folder that it is to read; None: as the file says.
    """

    config: Path
    data: Path | None = None


def find_source(argument: str) -> Source:
    """Find out what a CONFIG argument names.

    Args:
        argument: Path of a TOML file, name of a shipped config, or path of a data file or folder, for which
            the config `OWN_DATA` is taken.

    Raises:
        ConfigError: For anything else, with what to give instead.
    """
    path, shipped = Path(argument).expanduser(), shipped_configs()
    if argument in shipped and not path.is_file():
        return Source(shipped[argument])
    if not path.exists():
        near = difflib.get_close_matches(path.stem, shipped, n=1)
        question = f"did you mean {near[0]}? Otherwise give" if near else "give"
        raise ConfigError(
            f"{argument}: no such config or data; {question} {_KINDS}, or one of {', '.join(shipped)}"
        )
    if path.is_dir():
        if all((path / mark).is_file() for mark in _RUN_MARKS):
            raise ConfigError(
                f"{argument}: expected a config or data, got the folder of a run; give "
                f"{path / _RUN_MARKS[0]} to run it again, or --resume --out {argument} to continue it"
            )
        return Source(shipped[OWN_DATA], path)
    if path.suffix.lower() == ".toml" or (path.is_file() and _holds_sections(path)):
        return Source(path)
    if remedy := _REMEDIES.get(path.suffix.lower()):
        raise ConfigError(f"{argument}: expected {_KINDS}, got a {path.suffix} file; {remedy}")
    return Source(shipped[OWN_DATA], path)


def shipped_configs() -> dict[str, Path]:
    """Return the path of each config that is shipped with the package or lies in its repository, by name."""
    packaged = Path(str(importlib.resources.files("fcf_jax"))) / "configs"
    folder = packaged if packaged.is_dir() else _REPOSITORY_CONFIGS
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _holds_sections(path: Path) -> bool:
    """Return True for TOML under another name: its sections are what no data file has."""
    if not path.is_file():  # a pipe can be read only once
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(2**16)
        return any(isinstance(value, dict) for value in tomllib.loads(start.decode("utf-8-sig")).values())
    except (ValueError, RecursionError):
        return False
