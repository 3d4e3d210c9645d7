"""Time of federations side by side against one alone: 8 seeds in one program, Adam, K = 25, everybody.

    python benchmarks/side_by_side.py path/to/ml-100k --out side_by_side.json

One federation alone runs on one device, and, with its clients split, on all: a CPU counts as one device for
each core. The 8 are split over the devices and run there in batches: 1 at a time, 4 at a time. Each of them
is compared with the same run alone. Data as in against_implicit.py.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from common import add_data_arguments, argument_parser, measure, positive, publish, ratio, show, training_set
from jax.sharding import Mesh
from problem import all_devices, problem_of, use_all_cores

import fcf_jax as fcf

ROUNDS, RATE = 20, 0.05


def compare(train: fcf.Interactions, *, num_runs: int, num_factors: int, repeats: int) -> dict[str, Any]:
    """Time all forms in turn."""
    keys = jax.random.split(jax.random.key(0), num_runs)
    shared = problem_of(train, num_factors=num_factors)

    adam = optax.adam(RATE, b1=0.1, b2=0.99)

    def make(rate):
        return shared.federation(optax.adam(rate, b1=0.1, b2=0.99))

    def alone(mesh: Mesh | None, key=keys[0]):
        problem = shared if mesh is None else problem_of(train, num_factors=num_factors, mesh=mesh)
        federation = problem.federation(adam)
        state = problem.start(federation, key)
        return partial(fcf.run_rounds, federation, key, state, problem.clients, num_rounds=ROUNDS)

    def together(at_a_time: int):
        rates = np.full(num_runs, RATE, np.float32)
        run = partial(fcf.parallel.run_side_by_side, make, keys, rates, shared.clients)
        return partial(run, num_rounds=ROUNDS, at_a_time=at_a_time, mesh=fcf.parallel.run_mesh())

    runs = {"alone, one device": alone(None), "alone, all devices": alone(all_devices())}
    runs |= {f"{num_runs} runs, {size} at a time": together(size) for size in (1, 4)}
    timings = measure(runs, repeats=repeats)
    states, _ = together(1)()
    one, every = timings["alone, one device"], timings["alone, all devices"]
    rows = [
        {
            "what": name,
            "first call s": timing.first_call_s,
            "ms a round": 1e3 * timing.median_s / ROUNDS,
            "to one alone, one device": ratio(timing, one).median,
            "to one alone, all devices": ratio(timing, every).median,
        }
        for name, timing in timings.items()
    ]
    expected = [alone(None, key)()[0].item_factors for key in keys]
    worst = max(map(relative_difference, states.item_factors, expected))
    return {"rows": rows, "largest_difference_from_alone": worst}


def relative_difference(found: jax.Array, expected: jax.Array) -> float:
    """Divide the largest difference by the largest expected number."""
    difference = np.asarray(found) - np.asarray(expected)
    return float(np.abs(difference).max() / np.abs(np.asarray(expected)).max())


def main() -> None:
    parser = argument_parser(__doc__, repeats=7)
    add_data_arguments(parser)
    parser.add_argument("--num-runs", type=positive, default=8)
    parser.add_argument("--num-factors", type=positive, default=25)
    arguments = parser.parse_args()
    use_all_cores()
    train = training_set(arguments)
    found = compare(
        train, num_runs=arguments.num_runs, num_factors=arguments.num_factors, repeats=arguments.repeats
    )
    publish(found, arguments.out)
    show("side by side", found["rows"])
    print(f"largest relative difference from a run alone: {found['largest_difference_from_alone']:.1e}")


if __name__ == "__main__":
    main()
