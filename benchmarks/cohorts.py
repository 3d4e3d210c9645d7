"""Time of rounds of sampled cohorts, as a fraction of the ideal.

The ideal is N / Theta times the rounds a second of a full round with the same step (Adam): work in
proportion to the clients. A round of one client shows what a round costs whatever its cohort, such as the
step on all of Y; the second fraction adds that time to the ideal time. Each call of rounds goes on where the
last one ended, so it has new cohorts; how many rows they need is found beforehand for all of them, and the
time for that is included. Compilations after the first call are counted. Data as in against_implicit.py.

    python benchmarks/cohorts.py path/to/ml-1m --num-factors 25 64 --out cohorts.json

With --num-devices 1 a CPU counts as one device, else each core does.
"""

from typing import Any

from common import (
    Timing,
    add_data_arguments,
    argument_parser,
    count_compilations,
    measure,
    positive,
    publish,
    seconds_of,
    show,
    sizes_of,
    training_set,
)
from problem import ADAM, Rounds, all_devices, problem_of, rounds_of, train_item_factors, use_devices

import fcf_jax as fcf

FULL_BLOCK, CLIENTS_IN_A_BLOCK, MOST_ROUNDS = 3, 10_000, 100


def time_cohorts(
    train: fcf.Interactions, cohort_sizes: list[int], *, num_factors: int, repeats: int
) -> list[dict[str, Any]]:
    """Time full rounds and all sizes of cohorts in turn."""
    problem = problem_of(train, num_factors=num_factors, mesh=all_devices())
    item_factors = train_item_factors(problem)
    rounds = {
        size: rounds_of(
            problem,
            problem.federation(ADAM, cohort_size=size),
            item_factors,
            num_rounds=min(max(CLIENTS_IN_A_BLOCK // size, 1), MOST_ROUNDS) if size else FULL_BLOCK,
            num_calls=repeats + 1,
        )
        for size in dict.fromkeys((None, 1, *cohort_sizes))
    }
    first = {size: seconds_of(one.run) for size, one in rounds.items()}
    with count_compilations() as compilations:
        timings = measure({str(size): one.run for size, one in rounds.items()}, repeats=repeats - 1)
    full_s = timings["None"].per(FULL_BLOCK).median_s
    fixed_s = timings["1"].per(rounds[1].num_rounds).median_s
    found = []
    for size, one in rounds.items():
        warm, theta = timings[str(size)].per(one.num_rounds), size or train.num_users
        ideal_s = full_s * theta / train.num_users
        result = describe(warm, one, cohort_size=theta, ideal_s=ideal_s, fixed_s=fixed_s if size else 0.0)
        result["round_s"]["first_call_s"] = first[size]
        counts = {"num_factors": num_factors, "compilations_after_first": compilations.count}
        found.append(result | counts)
    return found


def describe(
    warm: Timing, rounds: Rounds, *, cohort_size: int, ideal_s: float, fixed_s: float
) -> dict[str, Any]:
    """Compute the rates of one size of cohort."""
    seconds = warm.median_s + rounds.plan_s
    return {
        "cohort_size": cohort_size,
        "round_s": warm.to_dict(),
        "plan_s": rounds.plan_s,
        "rounds_per_s": 1 / seconds,
        "clients_per_s": cohort_size / seconds,
        "fraction_of_ideal": ideal_s / seconds,
        "fraction_of_ideal_and_fixed": (ideal_s + fixed_s) / seconds,
    }


def row(result: dict[str, Any]) -> dict[str, Any]:
    """Arrange one result as a row of the table."""
    names = (
        "rounds_per_s",
        "clients_per_s",
        "fraction_of_ideal",
        "fraction_of_ideal_and_fixed",
        "compilations_after_first",
    )
    return {
        "K": result["num_factors"],
        "Theta": result["cohort_size"],
        "round ms": 1e3 * result["round_s"]["median_s"],
        "planning ms": 1e3 * result["plan_s"],
    } | {name.replace("_", " "): result[name] for name in names}


def main() -> None:
    parser = argument_parser(__doc__, repeats=7)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[25, 64])
    parser.add_argument("--cohort-sizes", type=positive, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument(
        "--num-devices", type=positive, help="that a CPU counts as; default: one for each core"
    )
    arguments = parser.parse_args()
    use_devices(arguments.num_devices)
    train, results = training_set(arguments), []
    for num_factors in arguments.num_factors:
        repeats = max(arguments.repeats, 2)  # one call is apart, and one at least is timed
        results += time_cohorts(train, arguments.cohort_sizes, num_factors=num_factors, repeats=repeats)
    publish({"data": sizes_of(train), "results": results}, arguments.out)
    show("rounds of cohorts", map(row, results))


if __name__ == "__main__":
    main()
