"""Reading of the data that a configuration names; sentences about what was taken and what was left out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fcf_jax.data import Columns, Interactions, ReadReport, read_interactions
from fcf_jax.data.feedback import at_least
from fcf_jax.data.formats.layouts import LAYOUTS, PUBLISHED_SPLITS
from fcf_jax.data.known_sets import cache_folder, find_known, known_set
from fcf_jax.data.published import published_files, read_parts
from fcf_jax.experiments.config.schema import DataConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.messages import count_of

_WARNING_SHARE = 0.1  # more than this left out is a warning
_NOUNS = {"user": "users", "item": "items", "strength": "strengths", "timestamp": "times"}
_PARTS_OF_A_SPLIT = 2
_TRAIN, _VALIDATION, _TEST = "training set", "validation set", "test set"
_BY_POSITION = "column "  # of files without a header


class ReadData(NamedTuple):
    """Interactions of a file, after the filter.

    Attributes:
        interactions: with strengths as in the file.
        counts: what was merged, dropped, skipped and filtered out, by name.
        report: how the file was understood.
        notes: what was taken for what and what was left out, a line each.
    """

    interactions: Interactions
    counts: dict[str, int]
    report: ReadReport
    notes: tuple[str, ...]


def read_data(data: DataConfig, *, may_be_empty: bool = False) -> ReadData:
    """Read the interactions and drop users and items that have too few.

    Args:
        data: section of the configuration.
        may_be_empty: whether the filter may leave nothing.

    Raises:
        ValueError: in one line, for bad data, or when nothing is left.
        OSError: if the data cannot be read.
    """
    interactions, report = read_interactions(path_of(data), **_options(data))
    kept = filtered(interactions, data, may_be_empty=may_be_empty)
    counts = {
        **_counts(report),
        "weak_left_out": interactions.num_interactions
        - at_least(interactions, data.min_strength).num_interactions,
        "filtered_out": interactions.num_interactions - kept.num_interactions,
        "users_filtered_out": interactions.num_users - kept.num_users,
        "items_filtered_out": interactions.num_items - kept.num_items,
    }
    shares = (*_unread(report, data), *_unwanted(data, counts, interactions))
    notes = (_taken(report, data, counts), *_order(report), *_warn(shares))
    return ReadData(kept, counts, report, notes)


def _options(data: DataConfig) -> dict[str, Any]:
    """Return the arguments of readers that the configuration sets."""
    return {
        "layout": data.layout,
        "columns": Columns(data.user_column, data.item_column, data.strength_column, data.timestamp_column),
        "separator": data.separator,
        "duplicates": data.duplicates,
        "on_bad_line": data.on_bad_line,
        "implicit": data.feedback == "implicit",
        "strength_values": data.strength_values,
    }


def _counts(report: ReadReport) -> dict[str, int]:
    return {
        "labels_merged": report.labels_merged,
        "duplicates_merged": report.duplicates_merged,
        "zeros_dropped": report.zeros_dropped,
        "bad_lines_skipped": report.bad_lines_skipped,
        "unrated": report.unrated,
    }


def filtered(interactions: Interactions, data: DataConfig, *, may_be_empty: bool = False) -> Interactions:
    """Drop weak interactions, then users and items that have too few interactions.

    Raises:
        ValueError: if nothing is left, unless that may be.
    """
    kept = at_least(interactions, data.min_strength).filter_min_counts(
        min_user_interactions=data.min_user_interactions, min_item_interactions=data.min_item_interactions
    )
    if kept.num_interactions == 0 and not may_be_empty:
        raise ValueError(
            f"expected interactions, got none after filtering {count_of(interactions.num_users, 'user')} and "
            f"{count_of(interactions.num_items, 'item')}; lower data.min_user_interactions (now "
            f"{data.min_user_interactions}), data.min_item_interactions ({data.min_item_interactions}) or "
            f"data.min_strength ({'unset' if data.min_strength is None else f'{data.min_strength:g}'})"
        )
    return kept


class ReadSplit(NamedTuple):
    """A published split, over the same users and items.

    Attributes:
        train: training set, with strengths as in the file.
        validation: validation set; None if none is published.
        test: test set.
        counts: what was merged, dropped and skipped, by name.
        notes: what was taken for what and what was left out, a line each.
    """

    train: Interactions
    validation: Interactions | None
    test: Interactions
    counts: dict[str, int]
    notes: tuple[str, ...]


def read_published(data: DataConfig) -> ReadSplit:
    """Read a published split: the files that are named, or those of the folder.

    Raises:
        ValueError: in one line, for bad data or a folder without a published split.
        OSError: if the data cannot be read.
    """
    files = _files_of_split(data)
    parts, report = read_parts(list(files.values()), **_options(data))
    counts = _counts(report)
    named = ", ".join(f"{part} {Path(file).name}" for part, file in files.items())
    notes = (_taken(report, data, counts), f"published split: {named}", *_warn(_unread(report, data)))
    read = dict(zip(files, parts, strict=True))
    return ReadSplit(read[_TRAIN], read.get(_VALIDATION), read[_TEST], counts, notes)


def _files_of_split(data: DataConfig) -> dict[str, str | Path]:
    """Return the files of a published split, by what they hold."""
    named = {_TRAIN: data.train_path, _VALIDATION: data.validation_path, _TEST: data.test_path}
    if data.train_path is not None:
        return {part: file for part, file in named.items() if file is not None}
    files = published_files(path_of(data), layout=data.layout)
    return dict(zip((_TRAIN, _TEST), files, strict=True))


def path_of(data: DataConfig) -> str:
    """Return the file or folder to read: `data.path`, a training set, or that of `data.name` in the cache.

    Raises:
        ConfigError: if neither is set, or the data set is not in the cache.
    """
    if (path := data.path or data.train_path) is not None:
        return path
    if data.name is None and data.split == "published":
        raise ConfigError(
            "data.train_path: expected the training and the test file of a published split; pass --set "
            "data.train_path=... --set data.test_path=..., or --set data.path=... for a folder with both"
        )
    if data.name is None:
        raise ConfigError(
            "data.path: expected a data file or its folder; pass --set data.path=..., or --set data.name=... "
            "for one of `fcf data list`"
        )
    known = known_set(data.name)
    folder = find_known(known)
    if folder is None:
        raise ConfigError(
            f"data.path: expected {known.title} ({' and '.join(known.files)}), got none in {cache_folder()}; "
            f"run `fcf data fetch {known.name}`, or get it from {known.homepage} and pass --set data.path=..."
        )
    return str(folder)


def _taken(report: ReadReport, data: DataConfig, counts: dict[str, int]) -> str:
    """Describe what was taken for what, and how many rows were merged, skipped or dropped."""
    columns = dict(report.columns)
    used = {"keep": "", "binary": " (binary)", "log": " (log)"}[data.strengths]
    if "strength" in columns:
        columns["strength"] += used
    else:
        columns["strength"] = "1 each"
    taken = [f"{noun} = {columns[kind]}" for kind, noun in _NOUNS.items() if kind in columns]
    layout = [] if report.layout in ("generic", "npz", "parquet") else [f"layout {report.layout}"]
    return ", ".join([*taken, *layout, *_left_out(data, counts)])


def _left_out(data: DataConfig, counts: dict[str, int]) -> Iterator[str]:
    unrated = "taken as strength 1" if data.feedback == "implicit" else "left out"
    for name, singular, plural in (
        ("bad_lines_skipped", "line skipped", "lines skipped"),
        ("zeros_dropped", "zero dropped", "zeros dropped"),
        ("duplicates_merged", "duplicate merged", "duplicates merged"),
        ("labels_merged", "id merged that differs in blanks", "ids merged that differ in blanks"),
        ("unrated", f"seen but not rated, {unrated}", f"seen but not rated, {unrated}"),
        ("weak_left_out", "interaction below data.min_strength", "interactions below data.min_strength"),
        ("users_filtered_out", "user filtered out", "users filtered out"),
        ("items_filtered_out", "item filtered out", "items filtered out"),
    ):
        if counts.get(name):
            yield count_of(counts[name], singular, plural)


def _order(report: ReadReport) -> Iterator[str]:
    """Explain how columns were told apart or left out, and how to swap users and items."""
    user, item = (report.columns.get(kind, "") for kind in ("user", "item"))
    if report.why and user.startswith(_BY_POSITION) and item.startswith(_BY_POSITION):
        swap = f"--set data.user_column={item.split()[1]} --set data.item_column={user.split()[1]}"
        yield f"Columns by their order ({report.why}); to swap users and items: {swap}"
    elif report.why:
        yield f"Note: {report.why}"
    if len(report.files) == _PARTS_OF_A_SPLIT and report.layout in PUBLISHED_SPLITS:
        names = " and ".join(Path(file).name for file in report.files)
        yield f"{names} are joined and split anew; --set data.split=published keeps them apart"


class _Share(NamedTuple):
    """Part of the data that was left out, and what to do about it."""

    part: int
    whole: int
    what: str
    remedy: str


def _warn(shares: Iterable[_Share]) -> Iterator[str]:
    """Warn of every way in which more than a tenth was left out, with the key that changes it."""
    for part, whole, what, remedy in shares:
        if part > _WARNING_SHARE * whole:
            yield f"Warning: {part:,} of {whole:,} {what} ({part / whole:.0%}); {remedy}"


def _unread(report: ReadReport, data: DataConfig) -> Iterator[_Share]:
    """Yield what reading left out."""
    lines = report.num_rows + report.bad_lines_skipped
    remedy = "they cannot be read, or are negative; data.on_bad_line=error names the first"
    if report.layout in LAYOUTS and LAYOUTS[report.layout].skips_bad_lines:
        remedy = f"layout {report.layout} has returned purchases and lines without a user"
    yield _Share(report.bad_lines_skipped, lines, "lines were skipped", remedy)
    pairs = report.num_rows - report.duplicates_merged
    remedy = "if 0 means seen but not rated, pass --set 'data.strength_values={0=\"seen\"}'"
    yield _Share(report.zeros_dropped, pairs, "pairs were dropped as zeros", remedy)
    if data.feedback == "explicit":
        rows = report.num_rows + report.unrated
        yield _Share(report.unrated, rows, "rows were left out", "they were seen but not rated")


def _unwanted(data: DataConfig, counts: dict[str, int], interactions: Interactions) -> Iterator[_Share]:
    """Yield what the filter left out."""
    for noun, whole, least in (
        ("user", interactions.num_users, data.min_user_interactions),
        ("item", interactions.num_items, data.min_item_interactions),
    ):
        other = "item" if noun == "user" else "user"
        remedy = f"they have fewer than {least} interactions (data.min_{noun}_interactions)"
        if least == 1:
            remedy = f"each {other} of theirs was filtered out (data.min_{other}_interactions)"
        yield _Share(counts[f"{noun}s_filtered_out"], whole, f"{noun}s were filtered out", remedy)
