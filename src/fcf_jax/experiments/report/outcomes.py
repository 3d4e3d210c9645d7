"""What runs, comparisons and tunings left on disk, read back as far as they came."""

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class RunOutcome(NamedTuple):
    """The folder of `fcf run`; None or empty where it was stopped before that was written."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any] | None


class ComparisonOutcome(NamedTuple):
    """The folder of `fcf compare`."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    comparison: dict[str, Any]
    pictures: dict[str, bytes]  # PNGs by name


class TuningOutcome(NamedTuple):
    """The folder of `fcf tune`."""

    name: str
    config: dict[str, Any]  # the tuned one; empty where tuning was stopped
    environment: dict[str, Any]
    trials: list[dict[str, str]]
    pictures: dict[str, bytes]


_SUMMARY = (
    "federated", "centralized", "difference_percent", "num_users", "num_items", "num_interactions",
    "num_train_interactions", "num_test_interactions", "num_users_without_test", "num_users_without_train",
    "cohort_size", "num_rounds", "seconds_per_round", "clients_per_second", "payload_bytes_up",
    "payload_bytes_down",
)  # fmt: skip
Outcome = RunOutcome | ComparisonOutcome | TuningOutcome


def read_outcome(folder: Path) -> Outcome:
    """Read what lies in a folder, whichever command wrote it.

    Raises:
        FileNotFoundError: when there is no such folder, or nothing of ours in it.
        ValueError: when one of its files is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a run directory, got no folder; check the path")
    name = folder.resolve().name
    environment = _read(folder / "environment.json", _object, {})
    if (folder / "comparison.json").is_file():
        comparison = _read(folder / "comparison.json", _object, {})
        return ComparisonOutcome(name, _config(folder), environment, comparison, _pictures(folder))
    if (folder / "tuned.toml").is_file() or (folder / "trials.csv").is_file():
        tuned = _config(folder, "tuned.toml")
        trials = _read(folder / "trials.csv", _rows, [])
        return TuningOutcome(name, tuned, environment, trials, _pictures(folder))
    if not (folder / "config.toml").is_file():
        raise FileNotFoundError(
            f"{folder}: expected a run directory with config.toml; make one with `fcf run`"
        )
    records = _read(folder / "metrics.jsonl", _records, [])
    return RunOutcome(
        name, _config(folder), environment, records, _read(folder / "summary.json", _summary, None)
    )


def _config(folder: Path, name: str = "config.toml") -> dict[str, Any]:
    return _read(folder / name, _sections, {})


def _pictures(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def _sections(text: str) -> dict[str, Any]:
    sections = tomllib.loads(text)
    if alone := [name for name, keys in sections.items() if not isinstance(keys, dict)]:
        raise ValueError(f"{alone[0]} outside of a section")
    return sections


def _object(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return content


def _summary(text: str) -> dict[str, Any]:
    content = _object(text)
    if missing := [name for name in _SUMMARY if name not in content]:
        raise ValueError(f"one without {missing[0]}")
    return content


def _records(text: str) -> list[dict[str, Any]]:
    records = [_object(line) for line in text.splitlines()]
    if not all("kind" in one and "round" in one for one in records):
        raise ValueError("a line without kind or round")
    return records


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines(), restval=""))


def _read(path: Path, parse: Callable[[str], Any], absent: Any) -> Any:
    try:
        return parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return absent
    except ValueError as error:  # of JSON, TOML and UTF-8 alike
        raise ValueError(f"{path}: expected an intact file, got {error}; repeat the run") from error
