"""A federated round beside an iteration of centralised ALS in C++: `implicit` and `irspack`.

- rounds: a full round (guarded Gram step; the same with clients that stop at a relative error of 0.003; Adam)
  and a sweep of our ALS against an iteration of each peer, in turn. A round solves all user factors, sums all
  item gradients and takes the server's step; a sweep and an iteration solve all users and all items. Rounds
  start from item factors trained for ten rounds.
- quality: from the start to within 0.5 % of converged ALS's loss (descents.py).
- alone: peak memory and first call of each, in a process of its own without a cache of programs (alone.py).

All use all cores and the same training set (binarised, 80 %), lambda 1; the exact match of the models is
explained in peers.py. The variables OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are unset before NumPy is
imported, so that the peers' BLAS chooses its own kernels. Ratios of CPU time are for busy machines: they
count what a process spends on all cores, waiting threads that spin included.

    pip install -e '.[bench]'                # for the peers; left out where they are not installed
    python benchmarks/against_implicit.py path/to/ml-1m --num-factors 25 64 128 256 --out ml-1m.json
    python benchmarks/against_implicit.py --simulated 30000 41000 27 --alpha 4 100 --out sparse.json
    python benchmarks/against_implicit.py --table ml-1m.json sparse.json    # writes the tables of README.md
"""
# ruff: noqa: E402

import os
import sys

_OF_OPENBLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
UNSET = [name for name in _OF_OPENBLAS if "numpy" not in sys.modules and os.environ.pop(name, None)]

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from against_implicit_tables import write_tables
from common import (
    add_data_arguments,
    argument_parser,
    count_compilations,
    cpu_ratio,
    measure,
    positive,
    publish,
    ratio,
    show,
    sizes_of,
    training_set,
)
from contenders import OURS, installed, ours, task_of
from descents import race
from peers import MISSING, PEERS, single_threaded_blas
from problem import all_devices, problem_of, train_item_factors, use_all_cores

import fcf_jax as fcf
from fcf_jax.core.packing import padding_factor

PIECES = ("rounds", "quality", "alone")
LIGHT = 6e7  # interactions times K, up to which a call runs five rounds


def time_rounds(
    train: fcf.Interactions, names: list[str], *, num_factors: int, alpha: float, repeats: int
) -> dict[str, Any]:
    """Time rounds, sweeps and iterations in turn."""
    problem = problem_of(train, num_factors=num_factors, mesh=all_devices(), alpha=alpha)
    item_factors = train_item_factors(problem)
    block = 5 if train.num_interactions * num_factors <= LIGHT else 1
    mine = {
        name: ours(name, problem, train, item_factors, block=block, num_calls=repeats + 2)
        for name in OURS
        if name in names
    }
    task = task_of(train, num_factors=num_factors, alpha=alpha)
    iterations = {name: PEERS[name].prepare(task) for name in PEERS if name in names}
    theirs = {name: lambda one=one: one.run(block) for name, one in iterations.items()}
    measured = measure(mine | theirs, repeats=repeats)
    with count_compilations() as compilations:
        for run in mine.values():
            jax.block_until_ready(run())
    timings = {name: timing.per(block) for name, timing in measured.items()}
    return {
        "per_call": block,
        "padding_factor": padding_factor(problem.clients),
        "num_devices": jax.device_count(),
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "compile_s": {name: measured[name].compile_s for name in mine},
        "compilations_of_another_call": compilations.count,
        **{
            words: {
                f"{one} / {other}": divide(timings[one], timings[other])._asdict()
                for one in mine
                for other in theirs
            }
            for words, divide in (("ratios", ratio), ("cpu_ratios", cpu_ratio))
        },
    }


def run_alone(
    train: fcf.Interactions, names: list[str], *, num_factors: int, alpha: float, repeats: int
) -> dict[str, Any]:
    """Run each contender in a process of its own, and compare what it adds to its baseline."""
    del repeats  # a first call is there once
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.npz"
        csr = {name: getattr(train, name) for name in ("indptr", "item_ids", "strengths", "num_items")}
        np.savez(path, **csr)
        found = {name: _alone(name, path, num_factors, alpha) for name in names if name != "als_sweep"}
    return {"data_bytes": sum(np.asarray(part).nbytes for part in csr.values()), "processes": found}


def _alone(name: str, path: Path, num_factors: int, alpha: float) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).parent / "alone.py"), name, str(path)]
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [*command, str(num_factors), f"{alpha:g}"], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{name} failed in a process of its own:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


RUNS = {"rounds": time_rounds, "quality": race, "alone": run_alone}


def show_result(result: dict[str, Any]) -> None:
    """Print what was found with one number of factors and one alpha."""
    title = f"K = {result['num_factors']}, alpha {result['alpha']:g}"
    if "rounds" in result:
        found = result["rounds"]
        rows = [
            {"": name, **{f"{what} ms": 1e3 * one[f"{what}_s"] for what in ("median", "min", "max")}}
            | {"compiling s": found["compile_s"].get(name)}
            for name, one in found["timings"].items()
        ]
        show(f"{title}: a round or iteration, {found['num_devices']} devices", rows)
        cpu = {name: one["median"] for name, one in found["cpu_ratios"].items()}
        rows = [{"": name, **one, "of CPU time": cpu[name]} for name, one in found["ratios"].items()]
        show(f"{title}: ratios", rows)
    if "quality" in result:
        rows = [
            {name: value["median"] if isinstance(value, dict) else value for name, value in row.items()}
            for row in result["quality"]["rows"]
        ]
        show(f"{title}: to within 0.5 % of converged ALS", rows)
    if "alone" in result:
        rows = [
            {"": name, "peak MB": 1e-6 * one["peak_bytes"]}
            | {"above baseline MB": 1e-6 * (one["peak_bytes"] - one["baseline_bytes"])}
            | {"first call s": one["first_call_s"]}
            for name, one in result["alone"]["processes"].items()
        ]
        show(f"{title}: alone in a process", rows)


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__, repeats=5)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[25, 64, 128])
    parser.add_argument("--alpha", type=float, nargs="+", default=[4.0])
    parser.add_argument("--only", nargs="+", choices=PIECES, default=PIECES)
    parser.add_argument("--runs", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="FILE.json", help="only write README's tables"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.table:
        write_tables([json.loads(path.read_text()) for path in arguments.table])
        return
    use_all_cores()
    train = training_set(arguments)
    peers, missing = installed([name for name in PEERS if name in arguments.runs])
    names = [name for name in OURS if name in arguments.runs] + peers
    notes = [f"unset for the peers: {name}" for name in UNSET]
    notes += [MISSING.format(", ".join(missing))] if missing else []
    print(f"{train.num_users} users, {train.num_items} items, {train.num_interactions} interactions")
    print(*notes, f"{os.cpu_count()} threads each", sep="\n")
    name = Path(arguments.path).name if arguments.path else "simulated"
    document = {
        "data": {"name": name, **sizes_of(train)},
        "threads": os.cpu_count(),
        "notes": notes,
        "results": [],
    }
    with single_threaded_blas():
        for alpha in arguments.alpha:
            for num_factors in arguments.num_factors:
                result: dict[str, Any] = {"num_factors": num_factors, "alpha": alpha}
                document["results"].append(result)
                for piece in arguments.only:
                    start = time.perf_counter()
                    result[piece] = RUNS[piece](
                        train, names, num_factors=num_factors, alpha=alpha, repeats=arguments.repeats
                    )
                    result[piece]["took_s"] = time.perf_counter() - start
                    publish(document, arguments.out)
                show_result(result)


if __name__ == "__main__":
    main()
