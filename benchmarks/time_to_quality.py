"""Time from the start to within 0.5 % of converged ALS's loss, for the federation and `implicit`.

The loss of item factors Y is min_X J(X, Y) on the training set, computed for both by the same function,
outside the clock. The goal comes from our ALS, run until its loss falls by less than 1e-5 a sweep, at least
40 sweeps. The federation steps with the guarded Gram step, everybody in every round, one round a call;
`implicit` runs its default, three conjugate gradient steps, and its exact solver, one iteration a call. Each
repeat begins anew, all in turn, each from a start that it draws itself; `implicit_cg_same_start` begins with
the federation's item factors, which suit it better than its own. Compiling is not counted but reported; what
each prepares of the data (packing, transposing) is counted in `ratios_with_preparation` only.

    python benchmarks/time_to_quality.py path/to/ml-1m --num-factors 64 --out quality.json
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from common import (
    add_data_arguments,
    argument_parser,
    positive,
    publish,
    seconds_of,
    show,
    sizes_of,
    spread,
    training_set,
)
from problem import (
    GUARDED_GRAM,
    NO_IMPLICIT,
    Problem,
    all_devices,
    confidences,
    converge_als,
    draw_factors,
    has_implicit,
    implicit_iterations,
    problem_of,
    single_threaded_blas,
    use_all_cores,
)

import fcf_jax as fcf

WITHIN, MOST_STEPS = 1.005, 200
PEERS = ("implicit_cg", "implicit_cg_same_start", "implicit_exact")

Curve = list[tuple[float, float]]  # seconds since the start, loss


class Descent(NamedTuple):
    """A training from its start: one step, and the item factors after the steps so far."""

    step: Callable[[], Any]
    item_factors: Callable[[], Any]


def descend(descent: Descent, loss: Callable[[Any], float], bound: float) -> Curve:
    """Step until the loss is at most the bound, adding up the seconds of the steps."""
    curve, seconds = [], 0.0
    while len(curve) < MOST_STEPS:
        seconds += seconds_of(descent.step)
        curve.append((seconds, loss(descent.item_factors())))
        if curve[-1][1] <= bound:
            break
    return curve


def federated(problem: Problem, federation: fcf.Federation, *, seed: int) -> Descent:
    """Prepare rounds from the start of this seed."""
    key = jax.random.key(seed)
    carried = [problem.start(federation, key)]

    def step() -> Any:
        carried[0], _ = fcf.run_rounds(federation, key, carried[0], problem.clients, num_rounds=1)
        return carried[0]

    return Descent(step, lambda: carried[0].item_factors)


def compare(train: fcf.Interactions, *, num_factors: int, repeats: int) -> dict[str, Any]:
    """Time the descents of all, in turn."""
    mesh, start = all_devices(), time.perf_counter()
    problem = jax.block_until_ready(problem_of(train, num_factors=num_factors, mesh=mesh))
    packing_s = time.perf_counter() - start
    matrix = confidences(train)
    start = time.perf_counter()
    transposed = matrix.T.tocsr()
    transposing_s = time.perf_counter() - start

    loss = problem.loss()
    converged, losses = converge_als(problem, train)
    bound = WITHIN * loss(converged)
    federation = problem.federation(GUARDED_GRAM)
    step = federated(problem, federation, seed=0).step
    first, second = seconds_of(step), seconds_of(step)
    peers = PEERS if has_implicit() else ()
    curves: dict[str, list[Curve]] = {name: [] for name in ("federated", *peers)}
    for seed in range(repeats):
        descent = federated(problem, federation, seed=seed)
        start_of_ours = np.asarray(descent.item_factors())
        own_start = draw_factors(train.num_items, num_factors, seed=seed + repeats)
        curves["federated"].append(descend(descent, loss, bound))
        for name in peers:
            start_of_it = start_of_ours if "same_start" in name else own_start
            use_cg = "exact" not in name
            run, items = implicit_iterations(matrix, transposed, start_of_it, use_cg=use_cg, seed=seed)
            theirs = Descent(lambda run=run: run(1), lambda items=items: items)
            curves[name].append(descend(theirs, loss, bound))
    return {
        "num_factors": num_factors,
        "als_sweeps": len(losses),
        "bound": bound,
        "compile_s": first - second,
        "packing_s": packing_s,
        "transposing_s": transposing_s,
        **summarize(curves, bound, {"federated": packing_s, **dict.fromkeys(peers, transposing_s)}),
        "curves": curves,
    }


def summarize(
    curves: dict[str, list[Curve]], bound: float, preparation_s: dict[str, float]
) -> dict[str, Any]:
    """Compute seconds and steps of all, and the ratios of the pairs."""
    seconds = {name: np.array([curve[-1][0] for curve in found]) for name, found in curves.items()}
    prepared = {name: seconds[name] + preparation_s[name] for name in seconds}
    peers = [name for name in seconds if name != "federated"]
    return {
        "seconds": {name: float(np.median(found)) for name, found in seconds.items()},
        "steps": {name: float(np.median([len(one) for one in found])) for name, found in curves.items()},
        "reached": {name: all(one[-1][1] <= bound for one in found) for name, found in curves.items()},
        "ratios": {name: spread(seconds["federated"] / seconds[name])._asdict() for name in peers},
        "ratios_with_preparation": {
            name: spread(prepared["federated"] / prepared[name])._asdict() for name in peers
        },
    }


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Arrange one result as rows of the table."""
    itself = {"median": 1.0}
    return [
        {
            "K": result["num_factors"],
            "": name,
            "seconds": seconds,
            "steps": result["steps"][name],
            "reached": result["reached"][name],
            "federated / it": result["ratios"].get(name, itself)["median"],
            "with preparation": result["ratios_with_preparation"].get(name, itself)["median"],
        }
        for name, seconds in result["seconds"].items()
    ]


def main() -> None:
    parser = argument_parser(__doc__, repeats=5)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[64])
    arguments = parser.parse_args()
    use_all_cores()
    train = training_set(arguments)
    with single_threaded_blas():
        results = [
            compare(train, num_factors=num_factors, repeats=arguments.repeats)
            for num_factors in arguments.num_factors
        ]
    publish({"data": sizes_of(train), "results": results}, arguments.out)
    show("to within 0.5 % of converged ALS", [one for result in results for one in rows(result)])
    for result in results:
        print(f"K = {result['num_factors']}: compiling took {result['compile_s']:.2f} s more, once")
    if not has_implicit():
        print(NO_IMPLICIT)


if __name__ == "__main__":
    main()
