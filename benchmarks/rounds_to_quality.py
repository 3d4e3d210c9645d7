"""Rounds and bytes until the federation is as good as ALS: the paper's Adam against our server steps.

Goals are MAP@10 on held-out items, 99.5 % of converged ALS's, and the loss min_X J(X, Y) on the
training set, within some percent of converged ALS's. All begin with the item factors that ALS
begins with; data as in against_implicit.py. Adam is tuned: every setting of the grid below runs,
and each goal is credited to the setting that reaches it first. Quality is looked at every few
rounds (`--every`), so a figure may be too high by less than that; "-" was not reached within
`--num-rounds`. Cohorts are drawn in the same way for all, by default shuffled.

Megabytes are what one client uploads on average until the MAP goal: as the dense gradient
[items, factors], or in the rank-one form, a number for each item and the user factor, which says
the same; with the extra sums that a step asks for.

    python benchmarks/rounds_to_quality.py path/to/ml-1m --cohort-size 100 --out rounds.json

Without --cohort-size everybody takes part in every round.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import optax
from jax import numpy as jnp

import fcf_jax as fcf
from fcf_jax.core.cohort import Sampling
from fcf_jax.core.federation import cohort_rows
from fcf_jax.evaluation import evaluate_data, evaluation_data
from fcf_jax.experiments import timed_runs, timing
from fcf_jax.experiments.baseline import converge_als
from fcf_jax.sharding import fetch, place_state, replicate

ALPHA, REGULARIZATION, SEED, K = 4.0, 1.0, 0, 10
LOSS_GOALS = (1.05, 1.02, 1.01, 1.005)  # of converged ALS's loss
MAP_GOAL = 0.995  # of its MAP
FLOAT_BYTES = 4


class Family(NamedTuple):
    """A server step, and the settings that are tried; they are traced, so all are one program."""

    make: Callable[[dict[str, jax.Array]], Any]
    settings: list[dict[str, float]]
    sends_sums: bool  # user_gram, confidence_sum and loss besides the gradient


class Problem(NamedTuple):
    """The data, packed, and what is measured of item factors."""

    train: fcf.Interactions
    clients: fcf.PackedClients
    federated: dict[str, Any]  # options of federated_cf
    loss: Callable[[jax.Array], float]
    mean_average_precision: Callable[[jax.Array], float]


def set_up(path: str, num_factors: int, sampling: Sampling) -> tuple[Problem, fcf.PackedClients]:
    """Read and split; the items packed for ALS come second."""
    interactions, _ = fcf.read_interactions(path)
    split = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=SEED)
    mesh, weighting = timed_runs.local_mesh(), fcf.implicit_feedback(alpha=ALPHA)
    clients = timed_runs.placed(partial(fcf.batch_clients, split.train), mesh)
    items = timed_runs.placed(partial(fcf.batch_items, split.train), mesh)
    options = {
        "num_items": split.train.num_items,
        "num_factors": num_factors,
        "regularization": REGULARIZATION,
        "mesh": mesh,
    }
    data = evaluation_data(split.train, split.test)

    @jax.jit
    def loss(item_factors: jax.Array) -> jax.Array:
        sums, _ = fcf.cohort_sum(item_factors, clients, weighting, regularization=REGULARIZATION, mesh=mesh)
        return sums.loss + REGULARIZATION * jnp.sum(item_factors**2)

    def placed_loss(item_factors: jax.Array) -> float:
        return float(loss(item_factors if mesh is None else replicate(item_factors, mesh)))

    def mean_average_precision(item_factors: jax.Array) -> float:
        on_one_device = jnp.asarray(fetch(item_factors))
        return evaluate_data(on_one_device, data, weighting, regularization=REGULARIZATION, k=K)[
            f"map_at_{K}"
        ]

    federated = {"weighting": weighting, "sampling": sampling, **options}
    return Problem(split.train, clients, federated, placed_loss, mean_average_precision), items


def families(num_rounds: int, *, is_everybody: bool) -> dict[str, Family]:
    """Adam over its grid, and the step that the shipped configs use."""

    def adam(setting: dict[str, jax.Array]) -> Any:
        def rate(step: jax.Array) -> jax.Array:
            share = jnp.minimum(step / setting["decay_rounds"], 1.0)
            return setting["rate"] * (0.02 + 0.98 * 0.5 * (1.0 + jnp.cos(jnp.pi * share)))

        return optax.adam(rate, b1=setting["b1"], b2=0.99)

    grid = itertools.product((0.02, 0.05, 0.1, 0.2), (0.1, 0.9), (num_rounds / 4, num_rounds, 1e9))
    adams = [{"rate": rate, "b1": b1, "decay_rounds": decay} for rate, b1, decay in grid]
    own = fcf.guarded_gram if is_everybody else fcf.running_sums
    return {
        own.__name__: Family(lambda setting: own(regularization=REGULARIZATION), [{}], True),
        "adam": Family(adam, adams, False),
    }


def run_family(
    problem: Problem, family: Family, goals: dict[str, float], *, cohort_size: int | None, num_rounds: int,
    every: int,
) -> list[dict[str, int]]:  # fmt: skip
    """Count, for every setting, the rounds to each goal that is reached."""
    key, mesh = jax.random.key(SEED), problem.federated["mesh"]

    def federation(setting: dict[str, jax.Array]) -> Any:
        return fcf.federated_cf(family.make(setting), cohort_size=cohort_size, **problem.federated)

    first = federation(family.settings[0])
    start = first.init(key)
    capacity = None
    if cohort_size is not None:
        capacity = cohort_rows(first, key, start, problem.clients, num_rounds=num_rounds)

    @jax.jit
    def block(setting: dict[str, jax.Array], state: Any, clients: fcf.PackedClients) -> Any:
        one = federation(setting)
        step = lambda state, _: (one.round(key, state, clients, row_capacity=capacity)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, length=every)[0]

    found = []
    for setting in family.settings:
        traced = {name: jnp.float32(value) for name, value in setting.items()}
        state = federation(traced).init(key)
        state = state if mesh is None else place_state(state, mesh)
        reached: dict[str, int] = {}
        for done in range(every, num_rounds + 1, every):
            state = block(traced, state, problem.clients)
            for name in look(problem, state.item_factors, goals):
                reached.setdefault(name, done)
            if len(reached) == len(goals):
                break
        found.append(reached)
        print(f"{setting or 'defaults'}: {reached}", flush=True)
    return found


def look(problem: Problem, item_factors: jax.Array, goals: dict[str, float]) -> list[str]:
    """Name the goals that these item factors reach."""
    loss = problem.loss(item_factors)
    reached = [name for name, goal in goals.items() if name != "map" and loss <= goal]
    is_near = f"loss {LOSS_GOALS[0]}" in reached  # else its MAP need not be looked at
    if is_near and problem.mean_average_precision(item_factors) >= goals["map"]:
        reached.append("map")
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--num-factors", type=int, default=25)
    parser.add_argument("--cohort-size", type=int, help="default: everybody")
    parser.add_argument("--sampling", choices=get_args(Sampling), default="shuffled", help="of cohorts")
    parser.add_argument("--num-rounds", type=int, default=200, help="at most")
    parser.add_argument("--every", type=int, default=1, help="rounds between two looks")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    timed_runs.use_all_cores()
    problem, items = set_up(arguments.path, arguments.num_factors, arguments.sampling)
    of_als = {name: value for name, value in problem.federated.items() if name != "sampling"}
    als = fcf.centralized_als(**of_als)
    baseline = converge_als(als, jax.random.key(SEED), problem.clients, items)
    als_loss, als_map = (measure(baseline.item_factors) for measure in problem[-2:])
    goals = {f"loss {goal}": goal * als_loss for goal in LOSS_GOALS} | {"map": MAP_GOAL * als_map}
    sweeps = {
        name: next((sweep for sweep, loss in enumerate(baseline.losses) if loss <= goal), None)
        for name, goal in goals.items()
        if name != "map"
    }
    no_uploads = megabytes(problem, None, None, arguments)
    rows, results = [{"step": "ALS, sweeps", **shown(sweeps, goals), **no_uploads}], {}
    options = {key: getattr(arguments, key) for key in ("cohort_size", "num_rounds", "every")}
    for name, family in families(arguments.num_rounds, is_everybody=arguments.cohort_size is None).items():
        found = run_family(problem, family, goals, **options)
        best = {goal: min((one[goal] for one in found if goal in one), default=None) for goal in goals}
        results[name] = {"settings": family.settings, "rounds": found, "best": best}
        rows.append(
            {"step": name, **shown(best, goals), **megabytes(problem, family, best["map"], arguments)}
        )
    options["sampling"] = arguments.sampling
    document = {"als": {"loss": als_loss, "map": als_map, "sweeps": sweeps}, "steps": results, **options}
    timing.publish(document, arguments.out)
    timing.show("rounds to quality", rows)


def shown(rounds: dict[str, int | None], goals: dict[str, float]) -> dict[str, Any]:
    """Arrange for the eye."""
    return {name: "-" if rounds.get(name) is None else rounds[name] for name in goals}


def megabytes(
    problem: Problem, family: Family | None, num_rounds: int | None, arguments: argparse.Namespace
) -> dict[str, str]:
    """Compute what a client uploads in so many rounds, on average."""
    if family is None or num_rounds is None:
        return {"MB dense": "-", "MB rank-one": "-"}
    num_items, num_factors = problem.train.num_items, arguments.num_factors
    num_users = problem.train.num_users
    turns = num_rounds * (arguments.cohort_size or num_users) / num_users
    dense, rank_one = num_items * num_factors, num_items + num_factors
    if family.sends_sums:
        dense += num_factors**2 + num_items + 1
        rank_one += num_items + 1  # x x^T follows from x
    return {
        "MB dense": f"{1e-6 * FLOAT_BYTES * turns * dense:.3g}",
        "MB rank-one": f"{1e-6 * FLOAT_BYTES * turns * rank_one:.3g}",
    }


if __name__ == "__main__":
    main()
