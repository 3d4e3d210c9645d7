"""One GPU, one call, a few minutes: time of rounds, and how far it is from what the card can do.

- rates: measured copy bandwidth, and the rate of float32 products with precision "highest" (roofline.py);
- agreement: the summed gradient F on this device, on the CPU and in float64 NumPy;
- determinism: the same rounds twice, bit by bit; once more in a process of its own under
  --xla_gpu_deterministic_ops=true;
- cohort: rounds a second with 1000 of MovieLens-1M-shaped clients, K = 25, Adam;
- side_by_side: 8 seeds of MovieLens-100K-shaped data against one, K = 25;
- movielens_20m: a full round of MovieLens-20M-shaped data (138 k x 27 k x 20 M, simulated, binarised),
  K = 64, at several chunk sizes;
- billion: a full round of 10 M clients x 100 k items x 1 G interactions, K = 32 (billion.py).

Full rounds end with the guarded Gram step and start from item factors trained for a few rounds. Roofline
ratios are explained in roofline.py. What XLA's cost_analysis counts is reported beside them; it counts the
body of a loop once, so it covers one chunk and one step.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --small              # every step, on any machine, under a minute
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from billion import BILLION, BLOCK, full_round, time_billion, time_round
from common import (
    MOVIELENS_1M,
    MOVIELENS_20M,
    MOVIELENS_100K,
    Shape,
    argument_parser,
    measure,
    publish,
    ratio,
    simulated,
)
from jax import numpy as jnp
from problem import (
    ADAM,
    ALPHA,
    GUARDED_GRAM,
    REGULARIZATION,
    Problem,
    default_model,
    problem_of,
    rounds_of,
    train_item_factors,
)
from roofline import against_roof, least_work, rates

import fcf_jax as fcf
from fcf_jax.core.packing import padding_factor

Pieces = dict[str, dict[str, Any]]


class Sizes(NamedTuple):
    """Sizes of all pieces."""

    movielens_20m: Shape = MOVIELENS_20M
    movielens_1m: Shape = MOVIELENS_1M
    movielens_100k: Shape = MOVIELENS_100K
    billion: Shape = BILLION
    large_factors: int = 64
    billion_factors: int = 32
    small_factors: int = 25
    cohort_size: int = 1000
    cohort_rounds: int = 200
    chunk_slots: tuple[int, ...] = (2**16, 2**18, 2**20)
    num_copied: int = 2**28
    matrix_size: int = 8192


SMALL = Sizes(
    movielens_20m=Shape(300, 100, 12.0),
    movielens_1m=Shape(200, 80, 10.0),
    movielens_100k=Shape(100, 60, 10.0),
    billion=Shape(2000, 200, 32.0),
    large_factors=8,
    billion_factors=8,
    small_factors=8,
    cohort_size=20,
    cohort_rounds=5,
    chunk_slots=(2**11,),
    num_copied=2**20,
    matrix_size=256,
)


def packed(shape: Shape, num_factors: int, *, chunk_slots: int, chunk_clients: int | None = None) -> Problem:
    """Simulate data of this shape and pack it into few large chunks, as suits a GPU."""
    return pack(
        simulated(shape).binarized(), num_factors, chunk_slots=chunk_slots, chunk_clients=chunk_clients
    )


def pack(
    interactions: fcf.Interactions, num_factors: int, *, chunk_slots: int, chunk_clients: int | None = None
) -> Problem:
    """Pack into chunks of this size."""
    chunk_clients = chunk_clients or max(chunk_slots // 16, 1)
    clients = fcf.pack_clients(interactions, chunk_slots=chunk_slots, chunk_clients=chunk_clients)
    return Problem(default_model(), clients, interactions.num_items, num_factors)


def time_rates(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Measure what the device can do at best."""
    return rates(num_copied=sizes.num_copied, matrix_size=sizes.matrix_size, repeats=repeats)


def movielens_20m(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Time a full round at several chunk sizes, and compare the best with the roofline."""
    shape, start = sizes.movielens_20m, time.perf_counter()
    interactions = simulated(shape).binarized()
    generating_s, found = time.perf_counter() - start, []
    for chunk_slots in sizes.chunk_slots:
        problem = pack(interactions, sizes.large_factors, chunk_slots=chunk_slots)
        one = full_round(problem)
        found.append(
            {
                "chunk_slots": chunk_slots,
                "padding_factor": padding_factor(problem.clients),
                "compile_s": one.compile_s,
                "round_s": time_round(one, repeats=repeats).to_dict(),
                "counted_by_xla": one.cost,
            }
        )
    best = min(found, key=lambda one: one["round_s"]["median_s"])
    seconds = best["round_s"]["median_s"]
    work = least_work(
        num_users=shape.num_users,
        num_items=shape.num_items,
        num_factors=sizes.large_factors,
        num_interactions=interactions.num_interactions,
    )
    return {
        "num_interactions": interactions.num_interactions,
        "generating_s": generating_s,
        "round_s": seconds,
        "clients_per_s": shape.num_users / seconds,
        "best_chunk_slots": best["chunk_slots"],
        "least_work": work,
        **against_roof(seconds, work, earlier["rates"]),
        "all": found,
    }


def billion(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Time a full round of the largest data, and one streamed."""
    return time_billion(
        sizes.billion,
        num_factors=sizes.billion_factors,
        chunk_slots=sizes.chunk_slots[-1],
        rates=earlier["rates"],
        repeats=repeats,
    )


def cohort(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Time rounds of sampled clients, many in one program."""
    problem = packed(
        sizes.movielens_1m, sizes.small_factors, chunk_slots=2**18, chunk_clients=sizes.cohort_size
    )
    rounds = rounds_of(
        problem,
        problem.federation(ADAM, cohort_size=sizes.cohort_size),
        train_item_factors(problem),
        num_rounds=sizes.cohort_rounds,
        num_calls=repeats + 1,
    )
    warm = measure({"rounds": rounds.run}, repeats=repeats)["rounds"].per(sizes.cohort_rounds)
    seconds = warm.median_s + rounds.plan_s
    return {
        "cohort_size": sizes.cohort_size,
        "rounds_per_s": 1 / seconds,
        "clients_per_s": sizes.cohort_size / seconds,
        "round_s": warm.to_dict(),
        "plan_s": rounds.plan_s,
    }


def side_by_side(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Time 8 federations in one program against one."""
    problem = packed(sizes.movielens_100k, sizes.small_factors, chunk_slots=2**18)
    keys, unused = jax.random.split(jax.random.key(0), 8), jnp.zeros(8)

    def make(unused: jax.Array) -> fcf.Federation:
        del unused
        return problem.federation(GUARDED_GRAM)

    def run(num_runs: int) -> Any:
        return fcf.parallel.run_side_by_side(
            make, keys[:num_runs], unused[:num_runs], problem.clients, num_rounds=10
        )

    timings = measure({"one": lambda: run(1), "eight": lambda: run(8)}, repeats=repeats)
    return {
        "eight / one": ratio(timings["eight"], timings["one"])._asdict(),
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
    }


def agreement(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Compare F of this device with that of the CPU and of float64."""
    interactions = simulated(Shape(300, 120, 15.0)).binarized()
    problem = problem_of(interactions, num_factors=16)
    item_factors = problem.federation(optax.sgd(0.1)).init(jax.random.key(0)).item_factors
    arguments = item_factors, problem.clients

    def upload_on(device: Any) -> np.ndarray:
        upload = jax.jit(lambda item_factors, clients: problem.cohort_sum(item_factors, clients).upload)
        return np.asarray(upload(*jax.device_put(arguments, device)), np.float64)

    exact = dense_upload(np.asarray(item_factors, np.float64), interactions)
    devices = {"here": jax.local_devices()[0], "cpu": jax.local_devices(backend="cpu")[0]}
    found, size = {name: upload_on(device) for name, device in devices.items()}, np.linalg.norm(exact)
    return {
        "here_to_cpu": float(np.linalg.norm(found["here"] - found["cpu"]) / size),
        **{f"{name}_to_float64": float(np.linalg.norm(one - exact) / size) for name, one in found.items()},
    }


def dense_upload(item_factors: np.ndarray, interactions: fcf.Interactions) -> np.ndarray:
    """Compute F = sum_u e_u x_u^T from dense matrices."""
    strengths = interactions.to_scipy().toarray().astype(np.float64)
    confidence, preference = 1.0 + ALPHA * strengths, (strengths > 0).astype(np.float64)
    ridge = REGULARIZATION * np.eye(item_factors.shape[1])
    matrices = np.einsum("ui,ik,il->ukl", confidence, item_factors, item_factors) + ridge
    right = (confidence * preference) @ item_factors
    users = np.linalg.solve(matrices, right[..., None])[..., 0]
    return (confidence * (preference - users @ item_factors.T)).T @ users


def determinism(sizes: Sizes, repeats: int, earlier: Pieces) -> dict[str, Any]:
    """Run the same rounds twice and compare bit by bit; time a round."""
    problem = packed(sizes.movielens_1m, sizes.small_factors, chunk_slots=2**18)
    federation, key = problem.federation(GUARDED_GRAM), jax.random.key(0)
    start = problem.start(federation, key)

    def run() -> fcf.ServerState:
        return fcf.run_rounds(federation, key, start, problem.clients, num_rounds=BLOCK)[0]

    first, second = np.asarray(run().item_factors), np.asarray(run().item_factors)
    return {
        "is_identical": bool((first == second).all()),
        "elements_that_differ": int((first != second).sum()),
        "largest_difference": float(np.abs(first - second).max() / np.abs(first).max()),
        "round_s": measure({"rounds": run}, repeats=repeats)["rounds"].per(BLOCK).to_dict(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


PIECES: dict[str, Callable[[Sizes, int, Pieces], dict[str, Any]]] = {
    "rates": time_rates,
    "agreement": agreement,
    "determinism": determinism,
    "cohort": cohort,
    "side_by_side": side_by_side,
    "movielens_20m": movielens_20m,
    "billion": billion,
}


def deterministic_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Repeat `determinism` under the flag, in a process of its own: XLA reads it when it starts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "deterministic.json"
        command = [sys.executable, __file__, "--only", "determinism", "--out", str(out)]
        command += ["--repeats", str(arguments.repeats), *(["--small"] if arguments.small else [])]
        subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, check=True, capture_output=True)
        return json.loads(out.read_text())["pieces"]["determinism"]


def headlines(piece: dict[str, Any]) -> dict[str, Any]:
    """Select what fits on a line."""
    medians = {
        name: value.get("median_s", value.get("median")) if isinstance(value, dict) else value
        for name, value in piece.items()
        if not isinstance(value, list)
    }
    return {name: value for name, value in medians.items() if value is not None}


def main() -> None:
    parser = argument_parser(__doc__, repeats=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--only", nargs="+", choices=list(PIECES), help="some pieces; rates come with them")
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else Sizes()
    wanted = list(PIECES) if arguments.only is None else arguments.only
    if arguments.only is not None and {"movielens_20m", "billion"} & set(wanted):
        wanted = ["rates", *(name for name in wanted if name != "rates")]
    pieces: Pieces = {}
    runs = {name: lambda name=name: PIECES[name](sizes, arguments.repeats, pieces) for name in wanted}
    if arguments.only is None:  # before this process takes the device
        runs = {"deterministic": lambda: deterministic_run(arguments)} | runs
    for name, run in runs.items():
        start = time.perf_counter()
        try:
            pieces[name] = run()
        except Exception as error:  # a piece that does not fit must not cost the others
            traceback.print_exc()
            pieces[name] = {"error": f"{type(error).__name__}: {error}"}
        pieces[name]["took_s"] = time.perf_counter() - start
        publish({"is_small": arguments.small, "pieces": pieces}, arguments.out)
        print(f"{name}: {json.dumps(headlines(pieces[name]))}", flush=True)
    if any("error" in piece for piece in pieces.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
