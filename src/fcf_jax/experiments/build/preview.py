"""Preview of data: what a run would read, without training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcf_jax.experiments.build.reading import ReadData, read_data
from fcf_jax.experiments.build.side_features import SideFeatures, features_of
from fcf_jax.experiments.config.schema import DataConfig
from fcf_jax.experiments.errors import ConfigError


class Preview(NamedTuple):
    """What `fcf data preview` shows.

    Attributes:
        notes: files, columns, and what is left out, a line each.
        rows: first rows of the file, by heading.
        counts: facts about the interactions that are left, by heading.
    """

    notes: list[str]
    rows: list[dict[str, Any]]
    counts: list[dict[str, Any]]


def preview_of(data: DataConfig) -> Preview:
    """Read the data, skipping lines that cannot be read and naming the first of them.

    Raises:
        ValueError: in one line, if nothing can be read.
        OSError: if the data cannot be read.
    """
    if data.source == "simulated":
        raise ConfigError("expected a data file or its folder, got simulated data; name one")
    try:
        read = read_data(data.model_copy(update={"on_bad_line": "skip"}), may_be_empty=True)
    except ValueError:
        read = read_data(data)  # names the first line, if none can be read
    fault = _fault(data) if data.on_bad_line == "error" and read.report.bad_lines_skipped else []
    files = ", ".join(Path(file).name for file in read.report.files)
    where = f"{files} ({read.report.encoding}): {read.report.num_rows:,} rows"
    features = features_of(data, read.interactions)
    counts = [*_counts(read), *_features(features)]
    return Preview([where, *read.notes, *features.notes, *fault], _rows(read), counts)


def _fault(data: DataConfig) -> list[str]:
    try:
        read_data(data, may_be_empty=True)
    except ValueError as error:
        return [f"A run stops at the first line that cannot be read: {error}"]
    return []  # the layout is known to have such lines


def _rows(read: ReadData) -> list[dict[str, Any]]:
    rows = [
        {
            "user": user,
            "item": item,
            "strength": None if strength is None else f"{strength:g}",
            "time": None if seconds is None else _date(seconds),
        }
        for user, item, strength, seconds in read.report.first_rows
    ]
    return [{name: cell for name, cell in row.items() if cell is not None} for row in rows]


def _counts(read: ReadData) -> list[dict[str, Any]]:
    interactions = read.interactions
    if interactions.num_interactions == 0:
        return [{"fact": "interactions", "value": "none: the filter leaves nothing"}]
    lengths, strengths = interactions.history_lengths, interactions.strengths
    facts = {
        "users": f"{interactions.num_users:,}",
        "items": f"{interactions.num_items:,}",
        "interactions": f"{interactions.num_interactions:,}",
        "items per user": f"median {np.median(lengths):g}, largest {lengths.max():,}",
        "strengths": f"from {strengths.min():g} to {strengths.max():g}, median {np.median(strengths):g}",
    }
    if (times := interactions.timestamps) is not None:
        facts["times"] = f"{_date(int(times.min()))} to {_date(int(times.max()))}"
    return [{"fact": name, "value": value} for name, value in facts.items()]


def _features(features: SideFeatures) -> list[dict[str, Any]]:
    return [
        {"fact": name.removeprefix("num_").replace("_", " "), "value": f"{count:,}"}
        for name, count in features.counts.items()
    ]


def _date(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # beyond the years that dates have
        return str(seconds)
