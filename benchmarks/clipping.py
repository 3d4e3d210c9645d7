"""What clipping costs a round: the norm of everything that a client sends, and the factor that goes with it.

Full rounds of the same step in turn: plain, clipped, and clipped with noise on the sum. The step is SGD
with a rate of 0, so that all rounds begin with the same trained item factors. Data as in against_implicit.py.

    python benchmarks/clipping.py path/to/ml-1m --num-factors 25 64 --out clipping.json
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import optax

import fcf_jax as fcf
from fcf_jax.core.records import SentNorms
from fcf_jax.experiments import timed_runs, timing
from fcf_jax.privacy.mechanism import gaussian_mechanism

ALPHA, REGULARIZATION, CLIP_NORM = 4.0, 1.0, 50.0
ROUNDS = 5  # in a call


def measure(train: fcf.Interactions, *, num_factors: int, repeats: int) -> dict[str, Any]:
    """Time the three kinds of rounds in turn."""
    mesh, weighting = timed_runs.local_mesh(), fcf.implicit_feedback(alpha=ALPHA)
    clients = timed_runs.placed(partial(fcf.batch_clients, train), mesh)
    sizes = {"num_items": train.num_items, "num_factors": num_factors, "mesh": mesh}
    model = {**sizes, "regularization": REGULARIZATION}
    item_factors = timed_runs.trained(weighting, clients, **model)
    clip_norms = SentNorms(CLIP_NORM, CLIP_NORM, None, None)
    options = {"clip_norms": clip_norms, "expected_cohort_size": train.num_users}
    noisy = gaussian_mechanism(noise_multiplier=1.0, **options)
    quiet = noisy._replace(release=lambda key, state, sums: (sums, state))
    runs = {}
    for name, mechanism in {"plain": None, "clipped": quiet, "clipped, with noise": noisy}.items():
        federation = fcf.federated_cf(optax.sgd(0.0), weighting, mechanism=mechanism, **model)
        rounds = timed_runs.rounds_of(
            federation, clients, item_factors, mesh, num_rounds=ROUNDS, num_calls=repeats + 1
        )
        runs[name] = rounds.run
    timings = {name: timed.per(ROUNDS) for name, timed in timing.measure(runs, repeats=repeats).items()}
    return {
        "num_factors": num_factors,
        "timings": {name: timed.to_dict() for name, timed in timings.items()},
        "ratios": {name: timing.ratio(timed, timings["plain"])._asdict() for name, timed in timings.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, nargs="+", default=[25, 64])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    timed_runs.use_all_cores()
    interactions, _ = fcf.read_interactions(arguments.path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    results = [
        measure(train, num_factors=num_factors, repeats=arguments.repeats)
        for num_factors in arguments.num_factors
    ]
    timing.publish({"results": results}, arguments.out)
    rows = [
        {
            "K": one["num_factors"],
            "round": name,
            "ms": f"{1e3 * one['timings'][name]['median_s']:.4g}",
            "to plain": f"{found['median']:.3f} ({found['min']:.3f}-{found['max']:.3f})",
        }
        for one in results
        for name, found in one["ratios"].items()
    ]
    timing.show("what clipping costs", rows)


if __name__ == "__main__":
    main()
