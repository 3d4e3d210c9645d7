"""Reading of large files: seconds, and the most memory held at once, against the arrays that are the result.

A table like MovieLens (user, item, rating, timestamp) is written in several forms. Each is read in a process
of its own, which has imported everything; memory counts from there. The arrays of the result are indptr, item
ids, strengths and timestamps; a row as it is read is a code for user and item, a strength and a timestamp, 20
bytes.

    python benchmarks/reading.py --num-rows 10000000
"""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import argument_parser, machine, peak_memory_bytes, positive, publish, show

import fcf_jax as fcf

_ROW_BYTES = 20
_USER_ROWS = 72  # of MovieLens 25M a user has twice as many
_NUM_ITEMS = 26_744
FORMS = {  # "pandas" is the CSV again, read by pandas alone
    "csv": ".csv",
    "pandas": ".csv",
    "csv.gz": ".csv.gz",
    "quoted": ".csv",
    "careful": ".csv",
    "parquet": ".parquet",
}


def main() -> None:
    """Write each form, read it, and show the figures."""
    parser = argument_parser(__doc__)
    parser.add_argument("--num-rows", type=positive, default=10_000_000)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for form in arguments.forms:
            path = Path(folder) / f"ratings{FORMS[form]}"
            _in_process(write, form, arguments.num_rows, path)
            rows.append(
                {"form": form, "file MB": path.stat().st_size / 1e6} | _in_process(measure, form, path)
            )
            path.unlink()
    show(f"{arguments.num_rows:,} rows", rows)
    publish({"machine": machine(), "peak_memory_bytes": peak_memory_bytes(), "results": rows}, arguments.out)


def _in_process(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def write(form: str, num_rows: int, path: Path) -> None:
    """Write the table, its rows in no order."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table(columns(num_rows))
    if form == "parquet":
        parquet.write_table(table, path)
    elif form == "csv.gz":
        with pa.CompressedOutputStream(path, "gzip") as stream:
            csv.write_csv(table, stream)
    else:
        quoting = "all_valid" if form in ("quoted", "careful") else "needed"
        if quoting == "all_valid":
            table = pa.table([column.cast(pa.string()) for column in table.columns], table.column_names)
        csv.write_csv(table, path, csv.WriteOptions(quoting_style=quoting))
    if form == "careful":  # blanks before quotes are what the fast parser does not know
        path.write_bytes(path.read_bytes().replace(b',"', b', "'))


def columns(num_rows: int) -> dict[str, np.ndarray]:
    """Draw users, items with a long tail, half stars and times."""
    rng = np.random.default_rng(0)
    return {
        "userId": rng.integers(1, num_rows // _USER_ROWS + 2, num_rows),
        "movieId": (_NUM_ITEMS * rng.random(num_rows) ** 2).astype(np.int64) + 1,
        "rating": rng.integers(1, 11, num_rows) / 2,
        "timestamp": rng.integers(800_000_000, 1_500_000_000, num_rows),
    }


def measure(form: str, path: Path) -> dict[str, Any]:
    """Read a file; return seconds and memory."""
    import pandas as pd

    small = path.with_name("small" + "".join(path.suffixes))
    write(form, 100, small)
    fcf.read_interactions(small)  # imports what is needed
    start = _reset_peak()
    started, cpu = time.perf_counter(), time.process_time()
    if form == "pandas":
        frame = pd.read_csv(path)
        size = num_bytes = int(frame.memory_usage().sum())
        num_rows = len(frame)
    else:
        interactions, report = fcf.read_interactions(path)
        num_rows, size = report.num_rows, sum(array.nbytes for array in _arrays(interactions))
        num_bytes = _ROW_BYTES * num_rows
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = (peak_memory_bytes() or 0) - start
    return {
        "seconds": seconds,
        "of all cores": cpu,
        "MB held": peak / 1e6,
        "bytes a row": peak / num_rows,
        "/ rows as read": peak / num_bytes,
        "/ arrays": peak / size,
    }


def _arrays(interactions: fcf.Interactions) -> Iterator[np.ndarray]:
    for name in ("indptr", "item_ids", "strengths", "timestamps"):
        array = getattr(interactions, name)
        if array is not None:
            yield array


def _reset_peak() -> int:
    """Forget the peak of this process so far, where Linux allows it; return the memory held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory_bytes() or 0


if __name__ == "__main__":
    main()
