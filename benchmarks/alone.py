"""One contender in a process of its own: what its first call takes, and its peak memory.

    python benchmarks/alone.py implicit_cg train.npz 64 4

against_implicit.py calls it. Peers run without JAX. The baseline is the resident size with everything
imported, the devices started and the training set read; the peak includes packing or transposing,
compiling and three rounds or iterations.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from memory import peak_memory_bytes, resident_bytes
from peers import PEERS, Task, draw_factors, single_threaded_blas

CALLS = 3
Prepare = Callable[[], Callable[[], Any]]


def prepare_ours(name: str, csr: Any, *, num_factors: int, alpha: float) -> Prepare:
    """Import JAX, start the devices, and return what packs the data and returns a run."""
    import jax
    from contenders import ours
    from problem import all_devices, problem_of, use_all_cores

    import fcf_jax as fcf

    use_all_cores()
    train = fcf.Interactions(csr["indptr"], csr["item_ids"], csr["strengths"], int(csr["num_items"]))
    mesh = all_devices()

    def prepare() -> Callable[[], Any]:
        problem = problem_of(train, num_factors=num_factors, mesh=mesh, alpha=alpha)
        run = ours(name, problem, train, None, block=1, num_calls=CALLS)
        return lambda: jax.block_until_ready(run())

    return prepare


def prepare_peer(name: str, csr: Any, *, num_factors: int, alpha: float) -> Prepare:
    """Import the package, and return what prepares its matrices and returns a run."""
    from scipy.sparse import csr_matrix

    num_users, num_items = len(csr["indptr"]) - 1, int(csr["num_items"])
    matrix = csr_matrix((csr["strengths"], csr["item_ids"], csr["indptr"]), (num_users, num_items))
    tiny = csr_matrix(np.eye(2, dtype=np.float32))
    PEERS[name].prepare(Task(tiny, np.ones((2, 2), np.float32), alpha, 1.0)).run(1)  # imports

    def prepare() -> Callable[[], Any]:
        start = draw_factors(num_items, num_factors, seed=1)
        iterations = PEERS[name].prepare(Task(matrix, start, alpha, 1.0))
        return lambda: iterations.run(1)

    return prepare


def main() -> None:
    name, path, num_factors, alpha = sys.argv[1:]
    with np.load(path) as stored:
        csr = dict(stored)
    set_up = prepare_peer if name in PEERS else prepare_ours
    with single_threaded_blas():
        prepare = set_up(name, csr, num_factors=int(num_factors), alpha=float(alpha))
        baseline, seconds = resident_bytes(), [time.perf_counter()]
        run = prepare()
        seconds.append(time.perf_counter())
        for _ in range(CALLS):
            run()
            seconds.append(time.perf_counter())
    prepare_s, first_call_s, *later_s = np.diff(seconds).tolist()
    found = {
        "baseline_bytes": baseline,
        "peak_bytes": peak_memory_bytes(),
        "prepare_s": prepare_s,
        "first_call_s": first_call_s,
        "later_s": later_s,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
