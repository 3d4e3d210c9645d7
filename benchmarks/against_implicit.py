"""Time a federated round against an iteration of `implicit`, in turn in one process.

A round: all user factors solved exactly, all item gradients summed, the server's step; once with
the guarded Gram step (dearer, and what the configs use), once with Adam. An iteration of
`implicit` solves all users and all items, exactly or with its default, three conjugate gradient
steps. Both use all cores, the same training set (binarised, 80 %), alpha 4 and lambda 1. Rounds
begin with trained item factors. Compiling is told apart.

    pip install -e '.[bench]'
    python benchmarks/against_implicit.py path/to/ml-1m --num-factors 25 64 128 --out against.json
"""

import argparse
from functools import partial
from pathlib import Path

import optax

import fcf_jax as fcf
from fcf_jax.experiments import timed_runs, timing

ALPHA, REGULARIZATION, BLOCK = 4.0, 1.0, 5


def compare(train: fcf.Interactions, *, num_factors: int, repeats: int) -> dict:
    """Time the four with K factors."""
    mesh = timed_runs.local_mesh()
    clients = timed_runs.placed(partial(fcf.batch_clients, train), mesh)
    weighting = fcf.implicit_feedback(alpha=ALPHA)
    model = {
        "num_items": train.num_items,
        "num_factors": num_factors,
        "regularization": REGULARIZATION,
        "mesh": mesh,
    }
    item_factors = timed_runs.trained(weighting, clients, **model)
    steps = {
        "guarded_gram_round": fcf.guarded_gram(regularization=REGULARIZATION),
        "adam_round": optax.adam(0.01, b1=0.1, b2=0.99),
    }
    runs = {}
    for name, step in steps.items():
        federation = fcf.federated_cf(step, weighting, **model)
        runs[name] = timed_runs.rounds_of(
            federation, clients, item_factors, mesh, num_rounds=BLOCK, num_calls=repeats + 1
        ).run
    matrix = timed_runs.confidences(train, alpha=ALPHA)
    options = {"num_factors": num_factors, "regularization": REGULARIZATION, "num_iterations": BLOCK}
    for name, use_cg in {"implicit_exact": False, "implicit_cg": True}.items():
        runs[name] = timed_runs.implicit_iterations(matrix, use_cg=use_cg, **options)
    timings = {name: one.per(BLOCK) for name, one in timing.measure(runs, repeats=repeats).items()}
    return {
        "num_factors": num_factors,
        "timings": {name: one.to_dict() for name, one in timings.items()},
        "ratios": {
            f"{ours} / {theirs}": timing.ratio(timings[ours], timings[theirs])._asdict()
            for ours in steps
            for theirs in ("implicit_exact", "implicit_cg")
        },
    }


def row(result: dict) -> dict:
    """Arrange one result for the eye, in milliseconds."""
    timings = {f"{name} ms": 1e3 * one["median_s"] for name, one in result["timings"].items()}
    ratios = {
        name.replace("_round", "").replace("implicit_", ""): spread["median"]
        for name, spread in result["ratios"].items()
    }
    first = {"first call s": result["timings"]["guarded_gram_round"]["first_call_s"]}
    return {"K": result["num_factors"]} | timings | ratios | first


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, nargs="+", default=[25, 64, 128])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    timed_runs.use_all_cores()
    interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    with timed_runs.single_threaded_blas():
        results = [
            compare(train, num_factors=num_factors, repeats=arguments.repeats)
            for num_factors in arguments.num_factors
        ]
    data = {"num_users": train.num_users, "num_items": train.num_items, "nnz": train.num_interactions}
    timing.publish({"data": data, "results": results}, arguments.out)
    timing.show("a round and an iteration", map(row, results))


if __name__ == "__main__":
    main()
