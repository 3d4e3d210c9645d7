"""Time of a federated round beside a sweep of ALS and an iteration of `implicit`, in turn in one process.

A round solves all user factors exactly, sums all item gradients and takes the server's step: with the guarded
Gram step, with Adam, and with Adam on cohorts of clients. A sweep of our ALS and an iteration of `implicit`
solve all users and all items; `implicit` exactly, or with its default, three steps of conjugate gradients.
All use all cores and the same training set (binarised, 80 %), alpha 4 and lambda 1. Rounds start from trained
item factors. Compiling is reported apart.

    pip install -e '.[bench]'                     # for implicit; left out where it is not installed
    python benchmarks/rounds.py path/to/ml-1m --num-factors 25 64 128 --out rounds.json
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import (
    Timing,
    add_data_arguments,
    argument_parser,
    count_compilations,
    measure,
    positive,
    publish,
    ratio,
    show,
    sizes_of,
    training_set,
)
from problem import (
    ADAM,
    GUARDED_GRAM,
    NO_IMPLICIT,
    Problem,
    Rounds,
    all_devices,
    confidences,
    draw_factors,
    has_implicit,
    implicit_iterations,
    pack_on,
    problem_of,
    rounds_of,
    single_threaded_blas,
    train_item_factors,
    use_all_cores,
)

import fcf_jax as fcf
from fcf_jax.core.packing import padding_factor

BLOCK = 5  # full rounds, sweeps or iterations in a call
COHORT_BLOCK = 50  # rounds of a cohort in a call


class Kind(NamedTuple):
    """Rounds of one kind: the server step, the clients of a round and the rounds of a call."""

    optimizer: optax.GradientTransformation
    cohort_size: int | None
    num_rounds: int


def compare(train: fcf.Interactions, *, num_factors: int, cohort_size: int, repeats: int) -> dict[str, Any]:
    """Time everything with K factors."""
    problem = problem_of(train, num_factors=num_factors, mesh=all_devices())
    item_factors = train_item_factors(problem)
    kinds = {
        "full_round": Kind(GUARDED_GRAM, None, BLOCK),
        "full_round_adam": Kind(ADAM, None, BLOCK),
        "cohort_round": Kind(ADAM, cohort_size, COHORT_BLOCK),
    }
    rounds = {
        name: rounds_of(
            problem,
            problem.federation(kind.optimizer, cohort_size=kind.cohort_size),
            item_factors,
            num_rounds=kind.num_rounds,
            num_calls=repeats + 2,
        )
        for name, kind in kinds.items()
    }
    ours = {name: one.run for name, one in rounds.items()} | {
        "als_sweep": sweeps(problem, train, item_factors)
    }
    peers = implicit_runs(train, num_factors) if has_implicit() else {}
    measured = measure(ours | peers, repeats=repeats)
    with count_compilations() as compilations:
        for one in rounds.values():
            jax.block_until_ready(one.run())
    block = {name: rounds[name].num_rounds if name in rounds else BLOCK for name in measured}
    timings = {name: timing.per(block[name]) for name, timing in measured.items()}
    return {
        "num_factors": num_factors,
        "padding_factor": padding_factor(problem.clients),
        "num_devices": 1 if problem.mesh is None else problem.mesh.size,
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "compile_s": {name: measured[name].compile_s for name in ours},
        "compilations_of_another_call": compilations.count,
        "rates": rates(rounds, timings, num_users=train.num_users, cohort_size=cohort_size),
        "ratios": {
            f"{mine} / {other}": ratio(timings[mine], timings[other])._asdict()
            for mine in ("full_round", "full_round_adam")
            for other in ("als_sweep", *peers)
        },
    }


def sweeps(problem: Problem, train: fcf.Interactions, item_factors: jax.Array) -> Callable[[], Any]:
    """Prepare sweeps of our ALS."""
    items = pack_on(problem.mesh, fcf.pack_items, train)
    return lambda: fcf.als.run_sweeps(
        problem.model, item_factors, problem.clients, items, num_sweeps=BLOCK, mesh=problem.mesh
    )


def implicit_runs(train: fcf.Interactions, num_factors: int) -> dict[str, Callable[[], Any]]:
    """Prepare iterations of both solvers of `implicit`."""
    matrix = confidences(train)
    transposed, start = matrix.T.tocsr(), draw_factors(train.num_items, num_factors, seed=1)

    def prepare(use_cg: bool) -> Callable[[], None]:
        run, _ = implicit_iterations(matrix, transposed, start, use_cg=use_cg)
        return lambda: run(BLOCK)

    return {"implicit_exact": prepare(False), "implicit_cg": prepare(True)}


def rates(
    rounds: dict[str, Rounds], timings: dict[str, Timing], *, num_users: int, cohort_size: int
) -> dict[str, dict[str, float]]:
    """Compute rounds and clients a second; a cohort's ideal is N / Theta times the full rounds with Adam."""
    clients = {name: cohort_size if name == "cohort_round" else num_users for name in rounds}
    per_s = {name: 1 / (timings[name].median_s + one.plan_s) for name, one in rounds.items()}
    ideal = per_s["full_round_adam"] * num_users / cohort_size
    return {
        name: {
            "rounds_per_s": rate,
            "clients_per_s": rate * clients[name],
            "fraction_of_ideal": rate / ideal if name == "cohort_round" else 1.0,
        }
        for name, rate in per_s.items()
    }


def show_result(result: dict[str, Any]) -> None:
    """Print the tables of one number of factors."""
    timings = [
        {
            "": name,
            "median ms": 1e3 * one["median_s"],
            "min ms": 1e3 * one["min_s"],
            "max ms": 1e3 * one["max_s"],
            "compiling s": result["compile_s"].get(name, np.nan),
        }
        for name, one in result["timings"].items()
    ]
    sizes = f"K = {result['num_factors']}, {result['num_devices']} devices"
    show(f"{sizes}, padding {result['padding_factor']:.3g}", timings)
    show("rates", [{"": name, **rates} for name, rates in result["rates"].items()])
    show("ratios", [{"": name, **found} for name, found in result["ratios"].items()])
    print(f"calling again compiled {result['compilations_of_another_call']} programs")


def main() -> None:
    parser = argument_parser(__doc__, repeats=7)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[25, 64, 128])
    parser.add_argument("--cohort-size", type=positive, default=100, help="at most all users")
    arguments = parser.parse_args()
    use_all_cores()
    train = training_set(arguments)
    cohort_size = min(arguments.cohort_size, train.num_users)
    with single_threaded_blas():
        results = [
            compare(train, num_factors=num_factors, cohort_size=cohort_size, repeats=arguments.repeats)
            for num_factors in arguments.num_factors
        ]
    note = "" if has_implicit() else NO_IMPLICIT
    data = sizes_of(train) | {"cohort_size": cohort_size}
    publish({"data": data, "results": results, "note": note}, arguments.out)
    print(f"{train.num_users} users, {train.num_items} items, {train.num_interactions} interactions")
    for result in results:
        show_result(result)
    if note:
        print(note)


if __name__ == "__main__":
    main()
