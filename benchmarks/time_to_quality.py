"""Time from the start until within 0.5 % of ALS's converged loss, for the federation and `implicit`.

The loss of item factors Y is min_X J(X, Y) on the training set, computed for both by the same
function, outside the clock. The goal comes from our ALS, run until its loss falls by less than
1e-5 a sweep, at least 40 times. The federation steps with the guarded Gram step, everybody in
every round, one round a call; `implicit` runs its default, three conjugate gradient steps, and its
exact solver, one iteration a call. Each repeat begins anew, all in turn, each from a start as it
draws it itself; `implicit_cg_same_start` begins with the federation's item factors, which suit it
better than its own. Compiling is not counted and told apart; so is what each prepares of the data (packing,
transposing), which is counted in `ratios_with_preparation` only.

    python benchmarks/time_to_quality.py path/to/ml-1m --num-factors 64 --out quality.json
"""

import argparse
import importlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fcf_jax as fcf
from fcf_jax.experiments import timed_runs, timing
from fcf_jax.experiments.build.baseline import converge_als
from fcf_jax.parallel.mesh import place_state

ALPHA, REGULARIZATION, WITHIN = 4.0, 1.0, 1.005
MOST_STEPS = 200
PEERS = ("implicit_cg", "implicit_cg_same_start", "implicit_exact")

Curve = list[tuple[float, float]]  # seconds since the start, loss


def descend(step: Callable[[], Any], loss: Callable[[], float], bound: float) -> Curve:
    """Step, adding up the seconds, until the loss is below the bound."""
    curve, seconds = [], 0.0
    while len(curve) < MOST_STEPS:
        seconds += timing.seconds_of(step)
        curve.append((seconds, loss()))
        if curve[-1][1] <= bound:
            break
    return curve


def federated(federation, clients, mesh, *, seed: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Prepare rounds from the start of this seed; the second function tells the item factors."""
    key = jax.random.key(seed)
    start = federation.init(key)
    carried = [start if mesh is None else place_state(start, mesh)]

    def step() -> Any:
        carried[0], _ = fcf.run_rounds(federation, key, carried[0], clients, num_rounds=1)
        return carried[0]

    return step, lambda: carried[0].item_factors


def implicit(matrix, transposed, item_factors, *, use_cg: bool, seed: int) -> tuple[Callable, Callable]:
    """Prepare iterations from these item factors; users begin as `implicit` draws them."""
    als = importlib.import_module("implicit.cpu.als")
    model = als.AlternatingLeastSquares(use_cg=use_cg)  # only its solver is used
    items = np.array(item_factors)
    users = drawn(matrix.shape[0], items.shape[1], seed=seed)

    def step() -> None:
        model.solver(matrix, users, items, REGULARIZATION, num_threads=0)
        model.solver(transposed, items, users, REGULARIZATION, num_threads=0)

    return step, lambda: items


def drawn(size: int, num_factors: int, *, seed: int) -> np.ndarray:
    """Draw factors as `implicit` does: uniform in [0, 0.01)."""
    return 0.01 * np.random.default_rng(seed).random((size, num_factors), dtype=np.float32)


def compare(train: fcf.Interactions, *, num_factors: int, repeats: int) -> dict:
    """Let both descend, in turn."""
    mesh, weighting = timed_runs.local_mesh(), fcf.implicit_feedback(alpha=ALPHA)
    start = time.perf_counter()
    clients = jax.block_until_ready(timed_runs.placed(partial(fcf.batch_clients, train), mesh))
    packing_s = time.perf_counter() - start
    matrix = timed_runs.confidences(train, alpha=ALPHA)
    start = time.perf_counter()
    transposed = matrix.T.tocsr()
    transposing_s = time.perf_counter() - start

    model: dict[str, Any] = {"regularization": REGULARIZATION, "mesh": mesh}
    sizes = {"num_items": train.num_items, "num_factors": num_factors}

    @jax.jit
    def profiled_loss(item_factors, clients):
        _, loss = fcf.solve_clients(item_factors, clients, weighting, **model)
        return loss + REGULARIZATION * (item_factors**2).sum()

    def loss_of(item_factors) -> float:
        return float(profiled_loss(np.asarray(item_factors), clients))

    als = fcf.centralized_als(weighting, **sizes, **model)
    items = timed_runs.placed(partial(fcf.batch_items, train), mesh)
    converged = converge_als(als, jax.random.key(0), clients, items)
    bound = WITHIN * loss_of(converged.item_factors)

    federation = fcf.federated_cf(
        fcf.guarded_gram(regularization=REGULARIZATION), weighting, **sizes, **model
    )
    step, _ = federated(federation, clients, mesh, seed=0)
    first, second = timing.seconds_of(step), timing.seconds_of(step)
    curves: dict[str, list[Curve]] = {"federated": [], **{name: [] for name in PEERS}}
    for seed in range(repeats):
        step, factors = federated(federation, clients, mesh, seed=seed)
        factors_of_start = np.asarray(factors())
        curves["federated"].append(descend(step, lambda factors=factors: loss_of(factors()), bound))
        own_start = drawn(train.num_items, num_factors, seed=seed + repeats)
        for name in PEERS:
            start = factors_of_start if "same_start" in name else own_start
            step, factors = implicit(matrix, transposed, start, use_cg="exact" not in name, seed=seed)
            curves[name].append(descend(step, lambda factors=factors: loss_of(factors()), bound))
    return {
        "num_factors": num_factors,
        "als_sweeps": len(converged.losses),
        "bound": bound,
        "compile_s": first - second,
        "packing_s": packing_s,
        "transposing_s": transposing_s,
        **summarize(curves, bound, {"federated": packing_s, **dict.fromkeys(PEERS, transposing_s)}),
        "curves": curves,
    }


def summarize(curves: dict[str, list[Curve]], bound: float, preparation_s: dict[str, float]) -> dict:
    """Tell seconds and steps of both, and the ratios of the pairs."""
    seconds = {name: np.array([one[-1][0] for one in all_of]) for name, all_of in curves.items()}
    reached = {name: all(one[-1][1] <= bound for one in all_of) for name, all_of in curves.items()}
    prepared = {name: seconds[name] + preparation_s[name] for name in seconds}
    return {
        "seconds": {name: float(np.median(all_s)) for name, all_s in seconds.items()},
        "steps": {name: float(np.median([len(one) for one in all_of])) for name, all_of in curves.items()},
        "reached": reached,
        "ratios": {name: spread(seconds["federated"] / seconds[name]) for name in PEERS},
        "ratios_with_preparation": {name: spread(prepared["federated"] / prepared[name]) for name in PEERS},
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Describe repeated figures."""
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=5)
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
    timing.show("to within 0.5 % of converged ALS", [one for result in results for one in rows(result)])
    for result in results:
        print(f"K = {result['num_factors']}: compiling took {result['compile_s']:.2f} s more, once")


def rows(result: dict) -> list[dict]:
    """Arrange one result for the eye."""
    return [
        {
            "K": result["num_factors"],
            "": name,
            "seconds": seconds,
            "steps": result["steps"][name],
            "reached": str(result["reached"][name]),
            "federated / it": result["ratios"].get(name, {"median": 1.0})["median"],
            "with preparation": result["ratios_with_preparation"].get(name, {"median": 1.0})["median"],
        }
        for name, seconds in result["seconds"].items()
    ]


if __name__ == "__main__":
    main()
