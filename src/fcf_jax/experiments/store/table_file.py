"""Tables of recommendations as files: CSV or Parquet, written block by block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fcf_jax.experiments.store.files import written_atomically

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")
Append = Callable[["pd.DataFrame"], None]


@contextmanager
def written_in_blocks(path: Path) -> Iterator[Append]:
    """Yield a function that appends a block of rows; the file appears, or is replaced, at the end.

    Args:
        path: with one of `SUFFIXES`; a file of this name is replaced.

    Raises:
        OSError: when it cannot be written; then nothing has changed.
    """
    with written_atomically(path) as file, _WRITERS[path.suffix](file) as append:
        yield append


@contextmanager
def _csv(file: IO[bytes]) -> Iterator[Append]:
    def append(frame: "pd.DataFrame") -> None:
        frame.to_csv(file, index=False, header=file.tell() == 0, float_format="%.6g", lineterminator="\n")

    yield append


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Append]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    writers: list[ParquetWriter] = []

    def append(frame: "pd.DataFrame") -> None:
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        if not writers:
            writers.append(ParquetWriter(file, table.schema))
        writers[0].write_table(table.cast(writers[0].schema))

    try:
        yield append
    finally:
        for writer in writers:
            writer.close()


_WRITERS = {".csv": _csv, ".parquet": _parquet}
