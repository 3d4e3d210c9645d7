"""Published splits: a training, a test and perhaps a validation file, over the same users and items."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fcf_jax.data.formats.columns import Columns
from fcf_jax.data.formats.evidence import meaning_of
from fcf_jax.data.formats.layouts import find_files
from fcf_jax.data.formats.load import Request, load_parts
from fcf_jax.data.formats.table import BadLinePolicy
from fcf_jax.data.interactions import Interactions
from fcf_jax.data.read import ReadReport, check_policies, concatenated, counted, report_of
from fcf_jax.data.rows import DuplicatePolicy, encode_labels

_BY_NAME = Columns()


def read_published_split(
    path: str | PathLike[str],
    *,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
) -> tuple[Interactions, Interactions]:
    """Read a data set published as a folder with a training and a test file (LightGCN's).

    Args:
        path: The folder.
        duplicates: As in `read_interactions`, within each file.
        on_bad_line: As in `read_interactions`.
        implicit: As in `read_interactions`.

    Returns:
        (train, test), both over the users and items of both files, with the same ids.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: As `read_interactions`, and for a folder without a published split.
    """
    files = published_files(path)
    parts, _ = read_parts(files, duplicates=duplicates, on_bad_line=on_bad_line, implicit=implicit)
    return parts[0], parts[1]


def published_files(path: str | PathLike[str], *, layout: str = "auto") -> list[Path]:
    """Return the training and the test file in a folder.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: For a folder without a published split.
    """
    files = find_files(Path(path), layout)
    if len(files) != 2:
        raise ValueError(
            f"{path}: expected the folder of a published split, got {files[0].name}; split it yourself, or "
            "set data.train_path and data.test_path"
        )
    return files


def read_parts(
    files: Sequence[str | PathLike[str]],
    *,
    layout: str = "auto",
    columns: Columns = _BY_NAME,
    separator: str | None = None,
    duplicates: DuplicatePolicy = "sum",
    on_bad_line: BadLinePolicy = "error",
    implicit: bool = True,
    strength_values: Mapping[Any, float | str] | None = None,
) -> tuple[list[Interactions], ReadReport]:
    """Read files that are parts of one data set, each as `read_interactions` does.

    If one of them holds lists of items (LightGCN), all do; otherwise each is a table, or of its own form.

    Args:
        files: At least one.
        layout, columns, separator, on_bad_line, implicit, strength_values: As in `read_interactions`.
        duplicates: As in `read_interactions`, within each file.

    Returns:
        The parts over the users and items of all files, with the same ids, and the report of all together.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: As `read_interactions`.
    """
    check_policies(duplicates, on_bad_line)
    paths = [found for file in files for found in find_files(Path(file), layout)]
    meaning = meaning_of(strength_values)
    loaded = load_parts(paths, Request(layout, columns, separator, on_bad_line, implicit, *meaning))
    tables = [part.table for part in loaded]
    everything = concatenated(paths[0], tables)
    user_ids, user_labels = encode_labels(everything.users, kind="user")
    item_ids, item_labels = encode_labels(everything.items, kind="item")
    ends = np.cumsum([len(table.users) for table in tables])
    merged = [
        Interactions.from_arrays(
            user_ids[end - len(table.users) : end],
            item_ids[end - len(table.users) : end],
            table.strengths,
            timestamps=table.timestamps,
            user_labels=user_labels,
            item_labels=item_labels,
            duplicates=duplicates,
        )
        for table, end in zip(tables, ends, strict=True)
    ]
    kept = [part.drop_zeros() if implicit else part for part in merged]
    return kept, counted(report_of(paths, loaded, everything), merged, kept)
