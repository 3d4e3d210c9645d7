"""Tables whose columns have names and types: NPZ archives, Parquet files and pandas DataFrames."""

import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from fcf_jax.data.columns import Columns, named_positions
from fcf_jax.data.parse import MAX_STRENGTH, BadLinePolicy, Table, labels_of, one_line, whole_seconds

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".npz", ".parquet")


def read_columnar(
    path: Path,
    columns: Columns,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    unrated: tuple[float, ...] = (),
) -> Table:
    """Read a Parquet file, or an NPZ archive of arrays of equal length (users, items, values, timestamps).

    Args:
        path: With one of `SUFFIXES`.
        columns: Names or 0-based numbers of arrays or columns.
        on_bad_line: What to do with a row without an id or without a finite strength: "error", or "skip" to
            omit and count it.
        implicit: Whether a negative strength is such a row.
        unrated: Strengths that mean "seen, not rated".

    Raises:
        ValueError: With "FILE: row N" (0-based), the fault and the remedy.
    """
    table = _read_npz(path, columns) if path.suffix == ".npz" else _read_parquet(path, columns)
    return _checked(path, table, on_bad_line=on_bad_line, implicit=implicit, unrated=unrated)


def read_frame(
    frame: "pd.DataFrame",
    columns: Columns,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    unrated: tuple[float, ...] = (),
) -> Table:
    """Read a DataFrame; arguments as for `read_columnar`. The levels of a named index count as columns.

    Raises:
        ValueError: With "DataFrame: row N" (0-based), the fault and the remedy.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        hint = '.reset_index(name="count") makes one' if isinstance(frame, pd.Series) else "pass one"
        raise ValueError(f"expected a pandas DataFrame, got {type(frame).__name__}; {hint}")
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"DataFrame: expected every column once, got {repeated[0]} twice; rename one")
    try:
        table = _chosen_of(frame, "DataFrame", columns)
    except ValueError as error:  # names keys of a configuration
        raise ValueError(re.sub(r"data\.(\w+)_column", r"\1=", str(error))) from error
    return _checked("DataFrame", table, on_bad_line=on_bad_line, implicit=implicit, unrated=unrated)


def _checked(
    path: Path | str,
    table: dict[str, "pd.Series"],
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    unrated: tuple[float, ...],
) -> Table:
    strengths = _numbers(table["strength"]) if "strength" in table else None
    bad = np.logical_or.reduce([table[kind].isna() for kind in table if kind != "strength"])
    negative = np.zeros(len(bad), np.bool_)
    if strengths is not None:
        bad = bad | ~(np.abs(strengths) < MAX_STRENGTH)  # also NaN
        negative = (strengths < 0) & ~np.isin(strengths, unrated) & implicit
    if on_bad_line == "error":
        _refuse(
            path,
            negative,
            strengths,
            expected="a strength >= 0 for implicit feedback",
            remedy='set data.feedback = "explicit" for ratings, data.strength_values if it means seen, or '
            'data.on_bad_line = "skip"',
        )
        _refuse(
            path,
            bad,
            strengths,
            expected="two ids and finite numbers",
            remedy='correct or remove the row, or set data.on_bad_line = "skip"',
        )
    bad = bad | negative
    return Table(
        users=_labels(table["user"][~bad]),
        items=_labels(table["item"][~bad]),
        strengths=None if strengths is None else strengths[~bad],
        timestamps=_seconds(table["timestamp"][~bad]) if "timestamp" in table else None,
        num_skipped=int(bad.sum()),
        names={kind: str(column.name) for kind, column in table.items()},
    )


def _refuse(
    path: Path | str, bad: np.ndarray, strengths: np.ndarray | None, *, expected: str, remedy: str
) -> None:
    if bad.any():
        row = int(bad.argmax())
        got = "a row without an id or timestamp" if strengths is None else f"strength {strengths[row]:g}"
        raise ValueError(f"{path}: row {row} (0-based): expected {expected}, got {got}; {remedy}")


def _read_npz(path: Path, columns: Columns) -> dict[str, "pd.Series"]:
    import pandas as pd

    try:
        # np.load would leave a damaged file open if it opened it itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not a readable NPZ archive ({one_line(error)}); fetch or save it again"
        ) from error
    chosen = _chosen(path, list(arrays), columns)
    shapes = {arrays[name].shape for name in chosen.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"{path}: expected 1-D arrays of one length, got shapes {sorted(shapes)}; save it again"
        )
    return {kind: pd.Series(arrays[name], name=name) for kind, name in chosen.items()}


def _read_parquet(path: Path, columns: Columns) -> dict[str, "pd.Series"]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow") from error
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable Parquet file ({one_line(error)}); fetch or save it again"
        ) from error
    return _chosen_of(frame, path, columns)


def _chosen_of(frame: "pd.DataFrame", path: Path | str, columns: Columns) -> dict[str, "pd.Series"]:
    series = {str(name): column.reset_index(drop=True) for name, column in frame.items()}
    return {kind: series[name] for kind, name in _chosen(path, list(series), columns).items()}


def _chosen(path: Path | str, names: list[str], columns: Columns) -> dict[str, str]:
    positions = named_positions(str(path), names, columns)
    return {kind: names[p] for kind, p in positions._asdict().items() if p is not None}


def _numbers(column: "pd.Series") -> np.ndarray:
    import pandas as pd

    numbers = cast("pd.Series", pd.to_numeric(column, errors="coerce"))
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _labels(column: "pd.Series") -> np.ndarray:
    if column.dtype.kind in "iu":
        return column.to_numpy(dtype=np.uint64 if column.dtype.kind == "u" else np.int64)
    return labels_of([str(label).strip() for label in column])


def _seconds(column: "pd.Series") -> np.ndarray:
    if column.dtype.kind == "M":  # datetimes, with or without a time zone
        return column.dt.as_unit("s").astype(np.int64).to_numpy()
    if column.dtype.kind in "iu":
        return column.to_numpy(dtype=np.int64)
    return whole_seconds(_numbers(column))
