"""Time a federated round against one ALS iteration of `implicit`, alternating in one process.

A round is what the federation does with everybody: all user factors solved exactly, all item
gradients summed, one Adam step. An iteration of `implicit` solves all users and all items, with
its exact solver and with its default conjugate gradients, on the same confidences.

    python benchmarks/round_vs_implicit.py path/to/ml-1m --num-factors 25 64
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit asks for it: its threads are its own

import jax
import numpy as np
import optax
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

import fcf_jax as fcf

ALPHA, REGULARIZATION, BLOCK = 4.0, 1.0, 5


def time_rounds(clients: fcf.PackedClients, num_items: int, num_factors: int):
    """Compile a block of rounds; return a function that times one, and the seconds of the first call."""
    federation = fcf.federated_cf(
        optax.adam(0.05, b1=0.1, b2=0.99),
        fcf.implicit_feedback(alpha=ALPHA),
        num_items=num_items,
        num_factors=num_factors,
        regularization=REGULARIZATION,
    )
    key = jax.random.key(0)
    state = federation.init(key)

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(fcf.run_rounds(federation, key, state, clients, num_rounds=BLOCK))
        return (time.perf_counter() - start) / BLOCK

    start = time.perf_counter()
    run()
    return run, time.perf_counter() - start


def time_implicit(confidences, num_factors: int, *, use_cg: bool):
    """Return a function that times one iteration, fitting of an initialised model continued."""
    model = AlternatingLeastSquares(
        factors=num_factors,
        regularization=REGULARIZATION,
        alpha=1.0,
        iterations=BLOCK,
        use_cg=use_cg,
        num_threads=0,
    )

    def run() -> float:
        start = time.perf_counter()
        model.fit(confidences, show_progress=False)
        return (time.perf_counter() - start) / BLOCK

    run()
    return run


def spread(seconds: list[float]) -> dict[str, float]:
    """Describe repeated timings in milliseconds."""
    return {
        "median_ms": 1e3 * float(np.median(seconds)),
        "min_ms": 1e3 * min(seconds),
        "max_ms": 1e3 * max(seconds),
    }


def main() -> None:
    """Time, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, nargs="+", default=[25, 64])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    clients = fcf.batch_clients(train)
    confidences = csr_matrix(train.to_scipy())
    confidences.data[:] = 1.0 + ALPHA * confidences.data
    results = []
    for num_factors in arguments.num_factors:
        federated, first_call = time_rounds(clients, train.num_items, num_factors)
        runs = {
            "federated_round": federated,
            "implicit_exact": time_implicit(confidences, num_factors, use_cg=False),
            "implicit_cg": time_implicit(confidences, num_factors, use_cg=True),
        }
        seconds = {name: [] for name in runs}
        for _ in range(arguments.repeats):  # in turn, so that a noisy moment hits all three
            for name, run in runs.items():
                seconds[name].append(run())
        row = {"num_factors": num_factors, "first_call_s": first_call}
        row |= {name: spread(times) for name, times in seconds.items()}
        for other in ("implicit_exact", "implicit_cg"):
            row[f"ratio_to_{other}"] = float(np.median(np.divide(seconds["federated_round"], seconds[other])))
        results.append(row)
    versions = {name: version(name) for name in ("jax", "jaxlib", "implicit", "numpy")}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    data = {"num_users": train.num_users, "num_items": train.num_items, "nnz": train.num_interactions}
    print(json.dumps({"machine": machine, "versions": versions, "data": data, "results": results}, indent=2))


if __name__ == "__main__":
    main()
