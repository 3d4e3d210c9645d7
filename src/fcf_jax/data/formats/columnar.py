"""Tables whose columns have names and types: NPZ archives, Parquet files and pandas DataFrames."""

import contextlib
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fcf_jax.data.arrow import as_arrow
from fcf_jax.data.formats.columns import Columns, named_positions
from fcf_jax.data.formats.evidence import PLAIN_NUMBERS, Meaning
from fcf_jax.data.formats.table import BYTES_A_ROW, BadLinePolicy, Table, TableBuilder
from fcf_jax.data.formats.text import is_damage, reason
from fcf_jax.data.formats.typed import check_rows
from fcf_jax.data.memory import check_fits_memory

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SUFFIXES = (".npz", ".parquet")

_BATCH_ROWS = 2**17
_NPY = b"\x93NUMPY"
_SKIP = 'data.on_bad_line = "skip"'


class _Source(NamedTuple):
    """Where columns come from, how rows are judged, and what the chosen columns are called."""

    where: str
    names: Mapping[str, str]  # of users, items, strengths and timestamps, by kind
    on_bad_line: BadLinePolicy
    implicit: bool
    meaning: Meaning


def read_columnar(
    path: Path,
    columns: Columns,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    meaning: Meaning = PLAIN_NUMBERS,
) -> Table:
    """Read a Parquet file, or an NPZ archive of arrays of equal length (users, items, values, timestamps).

    Args:
        path: With one of `SUFFIXES`.
        columns: Names or 0-based numbers of arrays or columns.
        on_bad_line: What to do with a row without an id, a finite strength or a timestamp: "error", or "skip"
            to omit and count it.
        implicit: Whether a negative strength is such a row.
        meaning: Of words and special numbers among the strengths.

    Raises:
        ValueError: With "FILE: row N" (0-based), the fault and the remedy.
    """
    read = _npz_columns if path.suffix == ".npz" else _parquet_batches
    names, batches = read(path, columns)
    return _table(_Source(str(path), names, on_bad_line, implicit, meaning), batches)


def read_frame(
    frame: "pd.DataFrame",
    columns: Columns,
    *,
    on_bad_line: BadLinePolicy,
    implicit: bool,
    meaning: Meaning = PLAIN_NUMBERS,
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
    try:
        names = _chosen("DataFrame", [str(name) for name in frame.columns], columns)
    except ValueError as error:  # names keys of a configuration
        raise ValueError(_as_arguments(str(error))) from error
    series = {str(name): column for name, column in frame.items()}
    arrays = {kind: series[name] for kind, name in names.items()}
    return _table(_Source("DataFrame", names, on_bad_line, implicit, meaning), [arrays])


def _as_arguments(message: str) -> str:
    """Replace keys of a configuration by arguments: `--set data.user_column=who` by `user='who'`."""
    chosen = re.sub(r"--set ('?)data\.(\w+)_column=(.*?)\1(?=, or | --set)", r"\2='\3'", message)
    return re.sub(r"data\.(\w+)_column", r"\1=", re.sub("' (?=(item|strength)=')", "', ", chosen))


def _chosen(where: str, names: list[str], columns: Columns) -> dict[str, str]:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{where}: expected every column once, got {repeated[0]} twice; rename one")
    positions = named_positions(where, names, columns)
    return {kind: names[p] for kind, p in positions._asdict().items() if p is not None}


def _table(source: _Source, batches: Iterable[Mapping[str, Any]]) -> Table:
    builder, first_row, num_skipped = TableBuilder(source.where), 0, 0
    for batch in batches:
        arrays = {kind: _as_arrow(source, kind, column) for kind, column in batch.items()}
        num_rows = len(arrays["user"])
        for start in range(0, num_rows, _BATCH_ROWS):
            piece = {kind: array.slice(start, _BATCH_ROWS) for kind, array in arrays.items()}
            num_skipped += _add(source, builder, first_row + start, piece)
        first_row += num_rows
    return builder.finish(num_skipped)._replace(names=source.names)


def _as_arrow(source: _Source, kind: str, column: Any) -> "pa.Array":
    try:
        return as_arrow(column)
    except ValueError as error:
        raise ValueError(f"{source.where}: column {source.names[kind]}: {error}") from error


def _add(source: _Source, builder: TableBuilder, first_row: int, arrays: Mapping[str, "pa.Array"]) -> int:
    """Add the good rows; return the number of the others."""
    import pyarrow as pa

    try:
        rows = check_rows(arrays, implicit=source.implicit, meaning=source.meaning)
    except ValueError as error:
        kind = next((kind for kind in arrays if str(error).startswith(kind)), "user")
        message = str(error).removeprefix(f"{kind}: ")
        raise ValueError(f"{source.where}: column {source.names[kind]}: {message}") from error
    bad = rows.bad
    if bad.any() and source.on_bad_line == "error":
        row = int(bad.argmax())
        raise ValueError(
            f"{source.where}: row {first_row + row} (0-based): {rows.problem(row)}; "
            f"correct or remove the row, or set {_SKIP}"
        )
    keep = pa.array(~bad)
    builder.add(
        rows.users.filter(keep),
        rows.items.filter(keep),
        None if rows.strengths is None else rows.strengths[~bad],
        None if rows.timestamps is None else rows.timestamps[~bad],
    )
    return int(bad.sum())


def _npz_columns(path: Path, columns: Columns) -> tuple[dict[str, str], Iterable[Mapping[str, Any]]]:
    with path.open("rb") as stream:
        if stream.read(len(_NPY)) == _NPY:
            raise ValueError(
                f"{path}: expected an NPZ archive, got a single array (.npy); save columns with np.savez"
            )
        with reading(path, "NPZ archive"):
            archive = zipfile.ZipFile(stream)
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = _chosen(str(path), list(members), columns)
        chosen = {kind: members[name] for kind, name in names.items()}
        num_bytes = 2 * sum(member.file_size for member in chosen.values())
        check_fits_memory(num_bytes, "its arrays", "split the file", where=str(path))
        with reading(path, "NPZ archive"):
            arrays = {kind: _npy_array(archive, member) for kind, member in chosen.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"{path}: expected 1-D arrays of one length, got shapes {sorted(shapes)}; save it again"
        )
    return names, [arrays]


def _npy_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read an array; refuse a header that promises another size than the member has."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:  # version 3 is for names of fields alone
            raise ValueError(f"{member.filename}: expected a plain array, got records")
        shape, _, dtype = read_header(stream)
        num_bytes = math.prod(shape) * dtype.itemsize
        held = member.file_size - stream.tell()
        if num_bytes != held and not dtype.hasobject:
            raise ValueError(
                f"{member.filename}: expected {num_bytes} bytes for shape {shape} of {dtype}, got {held}"
            )
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _parquet_batches(path: Path, columns: Columns) -> tuple[dict[str, str], Iterable[Mapping[str, Any]]]:
    from pyarrow import parquet

    with reading(path, "Parquet file"):
        file = parquet.ParquetFile(path)
        found = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
        num_rows = file.metadata.num_rows
    check_fits_memory(BYTES_A_ROW * num_rows, f"{num_rows:,} rows", "split the file", where=str(path))
    names = _chosen(str(path), found, columns)
    return names, _batches_of(path, file, names)


def _batches_of(path: Path, file: Any, names: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    with file:
        batches = file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(names.values())))
        while True:
            with reading(path, "Parquet file"):
                batch = next(batches, None)
            if batch is None:
                return
            yield {kind: batch.column(name) for kind, name in names.items()}


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises for a damaged file into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        raise ValueError(
            f"{path}: not a readable {what} ({reason(error)}); fetch or save it again"
        ) from error
