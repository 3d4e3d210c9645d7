"""Time federations side by side against one alone: 8 seeds in one program, Adam, K = 25, everybody.

    python benchmarks/side_by_side.py path/to/ml-100k --out side_by_side.json

One alone runs on one device, and, its clients split, on all: a CPU counts as one for each core. The
8 are split over the devices and run there in batches: 1 at a time, 4 at a time. Each of them is compared
with the run alone. Data as in against_implicit.py.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import fcf_jax as fcf
from fcf_jax.experiments import timed_runs, timing
from fcf_jax.parallel.batch import run_mesh

ROUNDS = 20


def measure(train: fcf.Interactions, *, num_runs: int, num_factors: int, repeats: int) -> dict:
    """Time all forms in turn."""
    weighting, rates = fcf.implicit_feedback(alpha=4.0), np.full(num_runs, 0.05, np.float32)
    keys = jax.random.split(jax.random.key(0), num_runs)

    def make(rate, mesh=None):
        optimizer = optax.adam(rate, b1=0.1, b2=0.99)
        model = {"num_items": train.num_items, "num_factors": num_factors, "regularization": 1.0}
        return fcf.federated_cf(optimizer, weighting, mesh=mesh, **model)

    def alone(mesh, key=keys[0]):
        federation, clients = make(0.05, mesh), timed_runs.placed(partial(fcf.batch_clients, train), mesh)
        state = federation.init(key) if mesh is None else fcf.place_state(federation.init(key), mesh)
        return partial(fcf.run_rounds, federation, key, state, clients, num_rounds=ROUNDS)

    def together(at_a_time):
        options = {"num_rounds": ROUNDS, "at_a_time": at_a_time, "mesh": run_mesh()}
        return partial(fcf.run_side_by_side, make, keys, rates, fcf.batch_clients(train), **options)

    runs = {"alone, one device": alone(None), "alone, all devices": alone(timed_runs.local_mesh())}
    runs |= {f"{num_runs} runs, {size} at a time": together(size) for size in (1, 4)}
    timings = timing.measure(runs, repeats=repeats)
    states, _ = together(1)()
    worst = 0.0
    for run, key in enumerate(keys):
        expected = np.asarray(alone(None, key)()[0].item_factors)
        worst = max(worst, float(np.abs(states.item_factors[run] - expected).max() / np.abs(expected).max()))
    one, every = timings["alone, one device"], timings["alone, all devices"]
    rows = [
        {
            "what": name,
            "first call s": found.first_call_s,
            "ms a round": 1e3 * found.median_s / ROUNDS,
            "to one alone, one device": timing.ratio(found, one).median,
            "to one alone, all devices": timing.ratio(found, every).median,
        }
        for name, found in timings.items()
    ]
    return {"rows": rows, "largest_difference_from_alone": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-runs", type=int, default=8)
    parser.add_argument("--num-factors", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    fcf.use_cpu_devices()
    interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    options = {name: getattr(arguments, name) for name in ("num_runs", "num_factors", "repeats")}
    found = measure(train, **options)
    timing.publish(found, arguments.out)
    timing.show("side by side", found["rows"])
    print(f"largest relative difference from a run alone: {found['largest_difference_from_alone']:.1e}")


if __name__ == "__main__":
    main()
