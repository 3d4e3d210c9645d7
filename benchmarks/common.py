"""Shared parts of all benchmarks: arguments, data, timing, machine facts, tables and JSON.

    timings = measure({"ours": round_of_ours, "theirs": round_of_theirs}, repeats=7)
    ratio(timings["ours"], timings["theirs"]).median

Timing is made for a machine that others use too: the first call, which compiles, is kept apart; then all runs
take turns, so that a noisy moment hits all of them, and ratios are taken pair by pair.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import numpy as np
from memory import peak_memory_bytes

import fcf_jax as fcf

_COMPILING = "/jax/core/compile/backend_compile_duration"
_PACKAGES = ("fcf_jax", "jax", "jaxlib", "optax", "numpy", "scipy", "pandas", "implicit", "irspack")


class Shape(NamedTuple):
    """Size of a data set; `mean_history` is interactions per user."""

    num_users: int
    num_items: int
    mean_history: float


SIMULATED = Shape(2000, 500, 40.0)
MOVIELENS_100K = Shape(943, 1682, 106.0)
MOVIELENS_1M = Shape(6040, 3706, 165.0)
MOVIELENS_20M = Shape(138_000, 27_000, 145.0)


# Arguments


def argument_parser(doc: str | None, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """Create the parser of a script from its docstring, with `--out` and, if it repeats, `--repeats`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if repeats is not None:
        parser.add_argument("--repeats", type=positive, default=repeats, help="timed calls after the first")
    parser.add_argument("--out", type=_new_file, metavar="FILE.json", help="where to write the results")
    return parser


def add_data_arguments(parser: argparse.ArgumentParser, shape: Shape = SIMULATED) -> None:
    """Add the arguments of `read_data`; `shape` is that of the simulated data."""
    parser.add_argument(
        "path", nargs="?", help="data set in any layout that fcf_jax reads; default: simulated"
    )
    parser.add_argument(
        "--simulated", nargs=3, type=float, default=shape, metavar=("USERS", "ITEMS", "MEAN_HISTORY")
    )


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _new_file(text: str) -> Path:
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: expected a file, got a folder; name a file in it")
    return Path(text)


# Data


def read_data(arguments: argparse.Namespace) -> fcf.Interactions:
    """Read or simulate the interactions, strengths as they are."""
    if arguments.path is None:
        num_users, num_items, mean_history = arguments.simulated
        return simulated(Shape(int(num_users), int(num_items), mean_history))
    try:
        return fcf.read_interactions(arguments.path)[0]
    except (OSError, ValueError) as error:
        sys.exit(f"{arguments.path}: {error}")


def training_set(arguments: argparse.Namespace) -> fcf.Interactions:
    """Read or simulate the interactions, binarise them and take the 80 % for training."""
    return fcf.split_per_user(read_data(arguments).binarized(), test_fraction=0.2, seed=0).train


def simulated(shape: Shape) -> fcf.Interactions:
    """Simulate users with planted tastes and long tails, strengths as view counts."""
    from fcf_jax.data import simulate_taste

    num_users, num_items, mean_history = shape
    return simulate_taste(num_users=num_users, num_items=num_items, mean_history=mean_history, seed=0)


def sizes_of(train: fcf.Interactions) -> dict[str, int]:
    """Return the sizes of the training set, for the JSON document."""
    names = ("num_users", "num_items", "num_interactions")
    return {name: getattr(train, name) for name in names}


# Timing


class Timing(NamedTuple):
    """Seconds of one run.

    Attributes:
        first_call_s: seconds of the first call, which compiles.
        all_s: seconds of the warm calls, in the order in which they were measured.
        cpu_s: seconds that all cores spent on each, which a busy machine disturbs less; of this process.
    """

    first_call_s: float
    all_s: tuple[float, ...]
    cpu_s: tuple[float, ...] = ()

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
        """Difference of the first call and the median of the warm ones."""
        return max(self.first_call_s - self.median_s, 0.0)

    def per(self, count: int) -> "Timing":
        """Divide the warm calls by the `count` rounds that each ran; the first call stays whole."""
        divided = (tuple(seconds / count for seconds in one) for one in (self.all_s, self.cpu_s))
        return Timing(self.first_call_s, *divided)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        names = ("first_call_s", "median_s", "min_s", "max_s", "all_s", "cpu_s")
        return {name: getattr(self, name) for name in names}


class Spread(NamedTuple):
    """Median and range of repeated measurements."""

    median: float
    min: float
    max: float


def spread(values: Any) -> Spread:
    """Compute the median and the range."""
    return Spread(float(np.median(values)), float(np.min(values)), float(np.max(values)))


class Compilations:
    """Number of programs compiled in a block of code, known when the block has ended."""

    count: int = 0


def measure(runs: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, Timing]:
    """Time the first call of each run, then warm calls of all runs in turn.

    Args:
        runs: by name; the results of a run are waited for.
        repeats: warm calls of each run.

    Raises:
        ValueError: for less than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"expected repeats of at least 1, got {repeats}")
    first = {name: seconds_of(run) for name, run in runs.items()}
    warm: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            cpu_before = time.process_time()
            warm[name].append((seconds_of(run), time.process_time() - cpu_before))
    return {name: Timing(first[name], *zip(*warm[name], strict=True)) for name in runs}


def seconds_of(run: Callable[[], Any]) -> float:
    """Time one call until its results are ready."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ratio(numerator: Timing, denominator: Timing) -> Spread:
    """Divide the warm calls pair by pair, as they were measured in turn."""
    return spread(np.divide(numerator.all_s, denominator.all_s))


def cpu_ratio(numerator: Timing, denominator: Timing) -> Spread:
    """Divide what the warm calls took of all cores, pair by pair."""
    return spread(np.divide(numerator.cpu_s, denominator.cpu_s))


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


# Machine, tables, JSON


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that the figures belong to."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "versions": versions,
        "arguments": sys.argv[1:],
    }


def publish(document: Mapping[str, Any], out: Path | None) -> None:
    """Write results and machine as JSON, if `out` is given; numbers that are not finite become null.

    The machine is asked, which starts JAX's devices, only if the document does not describe it.
    """
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found = {} if "machine" in document else {"machine": machine()}
        content = found | {"peak_memory_bytes": peak_memory_bytes(), **document}
        out.write_text(json.dumps(_plain(content), indent=2) + "\n")


def show(title: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as a table."""
    import pandas as pd

    table = pd.DataFrame(list(rows)).to_string(index=False, na_rep="-", float_format="{:.4g}".format)
    print(f"\n{title}\n{table}", flush=True)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    return content


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
