"""Time rounds of sampled cohorts, and tell what fraction of the ideal they reach.

Ideal would be N / Theta times the rounds a second of a full round with the same step (Adam): work
that is in proportion to the clients. Blocks of rounds go on where the last one ended, so every
block has new cohorts; how many rows they need is found beforehand for all of them, and the time
that takes is in the figures. Compilations after the first block are counted. Rounds begin with
trained item factors. Data as in against_implicit.py.

    python benchmarks/cohorts.py path/to/ml-1m --num-factors 25 64 --out cohorts.json

With --num-devices 1 a CPU's cores are not seen as devices of their own.
"""

import argparse
from functools import partial
from pathlib import Path

import optax

import fcf_jax as fcf
from fcf_jax.experiments import timed_runs, timing

ALPHA, REGULARIZATION = 4.0, 1.0
FULL_BLOCK, CLIENTS_IN_A_BLOCK = 3, 10_000


def measure(
    train: fcf.Interactions, cohort_sizes: list[int], *, num_factors: int, repeats: int
) -> list[dict]:
    """Time full rounds and all sizes of cohorts in turn."""
    mesh, weighting = timed_runs.local_mesh(), fcf.implicit_feedback(alpha=ALPHA)
    clients = timed_runs.placed(partial(fcf.batch_clients, train), mesh)
    model = {
        "num_items": train.num_items,
        "num_factors": num_factors,
        "regularization": REGULARIZATION,
        "mesh": mesh,
    }
    item_factors = timed_runs.trained(weighting, clients, **model)
    rounds = {}
    for cohort_size in [None, *cohort_sizes]:
        federation = fcf.federated_cf(
            optax.adam(0.01, b1=0.1, b2=0.99), weighting, cohort_size=cohort_size, **model
        )
        rounds[cohort_size] = timed_runs.rounds_of(
            federation,
            clients,
            item_factors,
            mesh,
            num_rounds=max(CLIENTS_IN_A_BLOCK // cohort_size, 1) if cohort_size else FULL_BLOCK,
            num_calls=repeats + 1,
        )
    first = {size: timing.seconds_of(one.run) for size, one in rounds.items()}
    with timing.count_compilations() as compilations:
        timings = timing.measure({str(size): one.run for size, one in rounds.items()}, repeats=repeats - 1)
    full_s = timings["None"].per(FULL_BLOCK).median_s
    return [
        describe(
            timings[str(size)].per(one.num_rounds),
            one,
            first_call_s=first[size],
            full_s=full_s,
            cohort_size=size,
            num_users=train.num_users,
        )
        | {"num_factors": num_factors, "compilations_after_first": compilations.count}
        for size, one in rounds.items()
    ]


def describe(
    warm: timing.Timing,
    rounds: timed_runs.Rounds,
    *,
    first_call_s: float,
    full_s: float,
    cohort_size: int | None,
    num_users: int,
) -> dict:
    """Put rates together."""
    theta = num_users if cohort_size is None else cohort_size
    seconds = warm.median_s + rounds.plan_s
    return {
        "cohort_size": theta,
        "round_s": warm.to_dict() | {"first_call_s": first_call_s},
        "plan_s": rounds.plan_s,
        "rounds_per_s": 1 / seconds,
        "clients_per_s": theta / seconds,
        "fraction_of_ideal": full_s * theta / num_users / seconds,
    }


def row(result: dict) -> dict:
    """Arrange one result for the eye."""
    names = ("rounds_per_s", "clients_per_s", "fraction_of_ideal", "compilations_after_first")
    return {
        "K": result["num_factors"],
        "Theta": result["cohort_size"],
        "round ms": 1e3 * result["round_s"]["median_s"],
        "planning ms": 1e3 * result["plan_s"],
    } | {name.replace("_", " "): result[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, nargs="+", default=[25, 64])
    parser.add_argument("--cohort-sizes", type=int, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument("--num-devices", type=int, help="that a CPU counts as; default: one for each core")
    parser.add_argument("--repeats", type=int, default=7, help="blocks of rounds after the first, at least 2")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    fcf.use_cpu_devices(arguments.num_devices)
    interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    results = []
    for num_factors in arguments.num_factors:
        results += measure(
            train, arguments.cohort_sizes, num_factors=num_factors, repeats=max(arguments.repeats, 2)
        )
    data = {"num_users": train.num_users, "num_items": train.num_items, "nnz": train.num_interactions}
    timing.publish({"data": data, "results": results}, arguments.out)
    timing.show("rounds of cohorts", map(row, results))


if __name__ == "__main__":
    main()
