"""Growth of a round's time and memory with users, items, K, Theta and interactions.

Simulated data (`simulate_taste`: planted tastes, long tails), binarised. One size at a time is doubled while
the others stay: 8192 users, 4096 items, about half a million interactions, K = 32, everybody; "scale" doubles
users and interactions together, up to eight million. A round of everybody ends with the guarded Gram step, a
round of Theta sampled clients with Adam. Rounds start from trained item factors, compiling is not counted,
and the points of an axis are timed in turn. Memory is what XLA's `memory_analysis` of the compiled round
counts: arguments (the data among them), temporaries and results, of all devices together; it is exact, and
free of whatever else the process holds. Exponents are least squares lines through the logarithms, with their
standard errors. A sum of terms such as nnz K + N K^2 has no single exponent, so an exponent describes the
growth within these sizes only.

    python benchmarks/growth.py --out growth.json --picture growth.png
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import Shape, argument_parser, measure, publish, show, simulated
from problem import ADAM, GUARDED_GRAM, Problem, all_devices, problem_of, train_item_factors, use_all_cores

import fcf_jax as fcf
from fcf_jax.core.federation import cohort_rows

TRAINING_ROUNDS = 5


class Size(NamedTuple):
    """Everything that can grow; without a cohort, everybody takes part."""

    users: int = 8192
    items: int = 4096
    mean_history: float = 64.0
    factors: int = 32
    cohort: int | None = None


class Point(NamedTuple):
    """Time and memory of a round at one size along an axis."""

    size: float
    seconds: float
    bytes: int


class Exponent(NamedTuple):
    """The slope of a line in log-log, and its standard error."""

    slope: float
    standard_error: float


class Prepared(NamedTuple):
    """A compiled round that starts from the state where the last one ended, and its size."""

    run: Callable[[], Any]
    num_interactions: int
    bytes: int


AXES: dict[str, tuple[str, list[Size]]] = {
    "users": (
        "users N",
        [Size(users=2**power, mean_history=2**19 / 2**power) for power in range(11, 16)],
    ),
    "items": ("items M", [Size(items=2**power) for power in range(10, 15)]),
    "nnz": ("interactions nnz", [Size(mean_history=2.0**power) for power in range(4, 9)]),
    "scale": ("users and interactions nnz", [Size(users=2**power) for power in range(13, 18)]),
    "factors": ("factors K", [Size(factors=2**power) for power in range(3, 8)]),
    "cohort": ("clients of a round, Theta", [Size(cohort=2**power) for power in range(7, 12)]),
}
SMALL_AXES = {
    "nnz": ("interactions nnz", [Size(128, 64, 2.0**power, 4) for power in (2, 3, 4)]),
    "cohort": ("clients of a round, Theta", [Size(128, 64, 8.0, 4, 2**power) for power in (3, 4, 5)]),
}


@functools.cache
def interactions_of(shape: Shape) -> fcf.Interactions:
    """Simulate the interactions; the axes share what they can."""
    return simulated(shape).binarized()


@functools.cache
def trained_of(size: Size) -> tuple[Problem, jax.Array]:
    """Pack the clients and train item factors with everybody."""
    interactions = interactions_of(Shape(size.users, size.items, size.mean_history))
    problem = problem_of(interactions, num_factors=size.factors, mesh=all_devices())
    return problem, train_item_factors(problem, num_rounds=TRAINING_ROUNDS)


def prepare(size: Size, *, num_calls: int) -> Prepared:
    """Compile a round of this size."""
    problem, item_factors = trained_of(size._replace(cohort=None))
    step = GUARDED_GRAM if size.cohort is None else ADAM
    federation, key = problem.federation(step, cohort_size=size.cohort), jax.random.key(0)
    state = problem.start(federation, key, item_factors)
    capacity = cohort_rows(federation, key, state, problem.clients, num_rounds=num_calls)
    compiled = (
        jax.jit(federation.round, static_argnames="row_capacity")
        .lower(key, state, problem.clients, row_capacity=capacity)
        .compile()
    )
    carried = [state]

    def run() -> Any:
        carried[0], _ = compiled(key, carried[0], problem.clients)
        return carried[0]

    num_devices = 1 if problem.mesh is None else problem.mesh.size
    interactions = interactions_of(Shape(size.users, size.items, size.mean_history))
    return Prepared(run, interactions.num_interactions, num_devices * bytes_of(compiled))


def bytes_of(compiled: Any) -> int:
    """Add up what the compiled program holds on one device."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return held - memory.alias_size_in_bytes


def measure_axis(name: str, sizes: list[Size], *, repeats: int) -> list[Point]:
    """Time all points of an axis in turn."""
    prepared = [prepare(size, num_calls=repeats + 1) for size in sizes]
    timings = measure({str(place): one.run for place, one in enumerate(prepared)}, repeats=repeats)
    return [
        Point(
            size=one.num_interactions if name in ("nnz", "scale") else getattr(size, name),
            seconds=timings[str(place)].median_s,
            bytes=one.bytes,
        )
        for place, (size, one) in enumerate(zip(sizes, prepared, strict=True))
    ]


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> Exponent:
    """Fit values = a sizes^slope."""
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(values), 1, cov=True)
    return Exponent(float(slope), float(covariance[0, 0] ** 0.5))


def exponents_of(points: list[Point]) -> dict[str, Exponent]:
    """Fit the exponents of time and memory."""
    sizes = [point.size for point in points]
    return {
        "seconds": fit_exponent(sizes, [point.seconds for point in points]),
        "bytes": fit_exponent(sizes, [point.bytes for point in points]),
    }


def draw(axes: dict[str, tuple[str, list[Size]]], points: dict[str, list[Point]], picture: Path) -> None:
    """Draw time above memory, with a column for each axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(2.9 * len(points), 5.6), layout="constrained")
    figure.suptitle("a round's time and memory, one size doubled at a time (log scales)")
    panels = figure.subplots(2, len(points), sharey="row", squeeze=False)
    rows = (("seconds", 1e3, "ms a round", "time"), ("bytes", 1e-6, "MB of a round", "memory"))
    for panel_row, (kind, unit, label, what) in zip(panels, rows, strict=True):
        panel_row[0].set_ylabel(label)
        for panel, (name, measured) in zip(panel_row, points.items(), strict=True):
            sizes = np.array([point.size for point in measured])
            values = unit * np.array([getattr(point, kind) for point in measured])
            slope, error = fit_exponent(sizes.tolist(), values.tolist())
            middle = np.exp(np.mean(np.log(values)) - slope * np.mean(np.log(sizes)))
            panel.loglog(sizes, middle * sizes**slope, color="gray", linewidth=1)
            panel.loglog(sizes, values, "o", color="tab:blue" if kind == "seconds" else "tab:orange")
            panel.set_title(f"{what} ~ {axes[name][0].split()[-1]}^({slope:.2f} ± {error:.2f})", fontsize=10)
            panel.set_xlabel(axes[name][0])
            panel.set_xticks(sizes, [short(size) for size in sizes])
            panel.minorticks_off()
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(picture)


def short(size: float) -> str:
    """Format 2048 as 2k and 524288 as 524k."""
    if size >= 1e6:
        return f"{size / 1e6:.1f}M"
    if size >= 1e4:
        return f"{size / 1e3:.0f}k"
    return f"{size / 1e3:.2g}k" if size >= 1e3 else f"{size:g}"


def row(name: str, points: list[Point], exponents: dict[str, Exponent]) -> dict[str, str]:
    """Arrange one axis as a row of the table."""
    return {
        "axis": name,
        "from": short(points[0].size),
        "to": short(points[-1].size),
        "ms": " ".join(f"{1e3 * point.seconds:.3g}" for point in points),
        "MB": " ".join(f"{1e-6 * point.bytes:.3g}" for point in points),
        "exponent of time": "{:.2f} +- {:.2f}".format(*exponents["seconds"]),
        "of memory": "{:.2f} +- {:.2f}".format(*exponents["bytes"]),
    }


def main() -> None:
    parser = argument_parser(__doc__, repeats=9)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="where to draw the growth")
    arguments = parser.parse_args()
    use_all_cores()
    all_axes = SMALL_AXES if arguments.small else AXES
    axes = {name: all_axes[name] for name in arguments.axes if name in all_axes}
    points = {name: measure_axis(name, sizes, repeats=arguments.repeats) for name, (_, sizes) in axes.items()}
    exponents = {name: exponents_of(measured) for name, measured in points.items()}
    document = {
        name: {
            "points": [point._asdict() for point in measured],
            "exponents": {kind: one._asdict() for kind, one in exponents[name].items()},
            "sizes": [size._asdict() for size in axes[name][1]],
        }
        for name, measured in points.items()
    }
    publish({"memory": "memory_analysis of the compiled round", "axes": document}, arguments.out)
    if arguments.picture is not None:
        draw(axes, points, arguments.picture)
    show("growth of a round", [row(name, points[name], exponents[name]) for name in points])


if __name__ == "__main__":
    main()
