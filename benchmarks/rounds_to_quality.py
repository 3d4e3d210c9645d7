"""Rounds and bytes until the federation is as good as ALS: the paper's Adam against our server steps.

Quality is MAP@10 on held-out items, 99.5 % of what converged ALS reaches, and the loss min_X J(X, Y)
on the training set, to within some percent of converged ALS's. Every step begins with the
same item factors as ALS; the same split, alpha and lambda as in against_implicit.py. Adam is tuned: every
combination of its grid below runs, and each goal is given to the combination that reaches it first. A loss or
MAP is looked at every `every` rounds, so a figure is late by less than that; one that is not reached
within the rounds of its budget is left empty.

Bytes are those of one client's uploads in all its rounds (Theta / N of the rounds, on average), as the dense gradient [items, factors] and in
the rank-one form (a number for each item and the user factor: the same information), each with the extra
sums that the step asks for.

    python benchmarks/rounds_to_quality.py path/to/ml-1m --cohort-sizes 0 100 --out rounds.json

A cohort size of 0 is everybody.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fcf_jax as fcf
from fcf_jax.evaluation import evaluation_data
from fcf_jax.experiments import timed_runs
from fcf_jax.experiments.baseline import converge_als
from fcf_jax.sharding import fetch, place_state

ALPHA, REGULARIZATION, SEED = 4.0, 1.0, 0
LOSS_GOALS = (1.05, 1.02, 1.01, 1.005)  # of converged ALS's
MAP_GOAL = 0.995
FLOAT_BYTES = 4


class Candidate(NamedTuple):
    """A server step with its settings."""

    name: str
    settings: str
    step: Any  # an optax transformation
    num_rounds: int  # of its schedule, and at most
    every: int
    sends_sums: bool  # user_gram, confidence_sum and loss besides the gradient


class Problem(NamedTuple):
    """The data, packed, and what ALS makes of them."""

    train: fcf.Interactions
    clients: fcf.PackedClients
    evaluation: Any
    weighting: Any
    options: dict[str, Any]
    als_loss: float
    als_map: float
    als_sweeps: dict[str, int | None]  # to each goal
    map_name: str


def set_up(path: str, num_factors: int, k: int) -> Problem:
    """Read, split, and run ALS until it has converged."""
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
    baseline = converge_als(fcf.centralized_als(weighting, **options), jax.random.key(SEED), clients, items)
    evaluation = evaluation_data(split.train, split.test)
    problem = Problem(split.train, clients, evaluation, weighting, options, 0.0, 0.0, {}, f"map_at_{k}")
    factors = fetch(baseline.item_factors)
    als_loss = loss_of(problem, factors)
    sweeps = {goal_name(goal): first_at_most(baseline.losses, goal * als_loss) for goal in LOSS_GOALS}
    return problem._replace(als_loss=als_loss, als_map=map_of(problem, factors), als_sweeps=sweeps)


def adam_grid(num_rounds: int, every: int) -> Iterator[Candidate]:
    """Every setting of Adam that is tried."""
    for rate, b1, horizon in itertools.product(
        (0.01, 0.02, 0.05, 0.1, 0.2), (0.1, 0.5, 0.9), (None, num_rounds // 4, num_rounds // 2, num_rounds)
    ):
        schedule = rate if horizon is None else optax.cosine_decay_schedule(rate, horizon, alpha=0.02)
        decay = "constant" if horizon is None else f"cosine over {horizon}"
        yield Candidate(
            "adam",
            f"rate {rate}, b1 {b1}, b2 .99, {decay}",
            optax.adam(schedule, b1=b1, b2=0.99),
            num_rounds if horizon is None else horizon,
            every,
            sends_sums=False,
        )


def candidates(cohort_size: int, num_rounds: int, every: int) -> Iterator[Candidate]:
    """All steps for everybody, or for a cohort."""
    yield from adam_grid(num_rounds, every)
    if cohort_size == 0:
        step = fcf.guarded_gram(regularization=REGULARIZATION)
        yield Candidate("guarded_gram", "defaults", step, 60, 1, sends_sums=True)
    else:
        step = fcf.running_sums(regularization=REGULARIZATION)
        yield Candidate("running_sums", "defaults", step, num_rounds, every, sends_sums=True)


def run(problem: Problem, candidate: Candidate, cohort_size: int) -> dict[str, int | None]:
    """Count the rounds to each goal."""
    federation = fcf.federated_cf(
        candidate.step, problem.weighting, cohort_size=cohort_size or None, **problem.options
    )
    key, mesh = jax.random.key(SEED), problem.options["mesh"]
    state = federation.init(key)
    state = state if mesh is None else place_state(state, mesh)
    found: dict[str, int | None] = dict.fromkeys([*map(goal_name, LOSS_GOALS), "map"])
    losses: list[float] = []
    for done in range(candidate.every, candidate.num_rounds + 1, candidate.every):
        state, info = fcf.run_rounds(federation, key, state, problem.clients, num_rounds=candidate.every)
        factors = fetch(state.item_factors)
        losses.append(loss_of(problem, factors))
        if not np.isfinite(losses[-1]) or losses[-1] > 10 * problem.als_loss:
            break
        for goal in LOSS_GOALS:
            if found[goal_name(goal)] is None and losses[-1] <= goal * problem.als_loss:
                found[goal_name(goal)] = done
        if found["map"] is None and map_of(problem, factors) >= MAP_GOAL * problem.als_map:
            found["map"] = done
        if None not in found.values():
            break
    return found
