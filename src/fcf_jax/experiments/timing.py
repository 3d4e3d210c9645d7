"""Timing on a machine that others use too: runs in turn, the first call apart, medians and ratios.

timings = measure({"ours": round_of_ours, "theirs": round_of_theirs}, repeats=7)
ratio(timings["ours"], timings["theirs"]).median
"""

import contextlib
import functools
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import numpy as np
from rich.console import Console
from rich.table import Table

from fcf_jax.experiments.store.files import write_json
from fcf_jax.experiments.store.run_directory import environment

_WIDTH = 160  # of a table that no terminal confines
_COMPILING = "/jax/core/compile/backend_compile_duration"


class Timing(NamedTuple):
    """Seconds of one run: of its first call, which compiles, and of the calls after it."""

    first_call_s: float
    all_s: tuple[float, ...]  # warm, in the order in which they were measured

    @property
    def median_s(self) -> float:
        """Median of the warm calls."""
        return float(np.median(self.all_s))

    @property
    def min_s(self) -> float:
        """Fastest warm call."""
        return min(self.all_s)

    @property
    def max_s(self) -> float:
        """Slowest warm call."""
        return max(self.all_s)

    @property
    def compile_s(self) -> float:
        """What the first call took longer than a warm one."""
        return max(self.first_call_s - self.median_s, 0.0)

    def per(self, count: int) -> "Timing":
        """Divide the warm calls by the `count` rounds that each ran; the first call stays whole."""
        return Timing(self.first_call_s, tuple(seconds / count for seconds in self.all_s))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        names = ("first_call_s", "median_s", "min_s", "max_s", "all_s")
        return {name: getattr(self, name) for name in names}


class Ratio(NamedTuple):
    """A timing divided by another, measurement by measurement."""

    median: float
    min: float
    max: float


class Compilations:
    """How many programs were compiled in a block of code, once it has ended."""

    count: int = 0


def measure(runs: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, Timing]:
    """Time each run's first call, then all of them in turn, so that a noisy moment hits all.

    Args:
        runs: by name; what a run returns is waited for.
        repeats: warm calls of each.

    Raises:
        ValueError: for less than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"expected repeats of at least 1, got {repeats}")
    first = {name: seconds_of(run) for name, run in runs.items()}
    warm: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            warm[name].append(seconds_of(run))
    return {name: Timing(first[name], tuple(warm[name])) for name in runs}


def seconds_of(run: Callable[[], Any]) -> float:
    """Time one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ratio(numerator: Timing, denominator: Timing) -> Ratio:
    """Divide the warm calls pairwise, as they were measured in turn."""
    pairs = np.divide(numerator.all_s, denominator.all_s)
    return Ratio(float(np.median(pairs)), float(pairs.min()), float(pairs.max()))


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Count the programs that XLA compiles, or takes from a cache on disk, in the block."""
    found, before = Compilations(), _compiled()[0]
    try:
        yield found
    finally:
        found.count = _compiled()[0] - before


@functools.cache
def _compiled() -> list[int]:
    total = [0]

    def listen(event: str, duration_secs: float, **unused: Any) -> None:
        del duration_secs, unused
        total[0] += event == _COMPILING

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had resident, None where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):  # getrusage would also count a parent's peak
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that a figure belongs to."""
    found = environment()
    for name in ("implicit", "scipy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["versions"][name] = metadata.version(name)
    return found | {"processor": _processor(), "memory_bytes": _memory()}


def publish(document: dict[str, Any], out: Path | None) -> None:
    """Write a benchmark's outcome, with the machine, where the caller wants it."""
    if out is not None:
        write_json(out, {"machine": machine(), "peak_memory_bytes": peak_memory_bytes(), **document})


def show(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as a table; what is no number stands to the left."""
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        is_number = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
