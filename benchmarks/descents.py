"""Descents from the start to within 0.5 % of converged ALS's loss, ours and those of peers.

The loss of item factors Y is min_X J(X, Y) on the training set, computed for all by the same function,
outside the clock. The goal comes from our ALS, run until its loss falls by less than 1e-5 a sweep, at least
40 sweeps. The federation takes the guarded Gram step, everybody in every round, one round a call; peers run
one iteration a call. Each repeat begins anew, all in turn: peers from the federation's item factors, which
suit them better than their own, and `implicit` with conjugate gradients from its own start too. Exact peers
take too long and are left out. Compiling, packing and transposing are not counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from common import seconds_of, spread
from contenders import federation_of, task_of
from peers import PEERS, draw_factors
from problem import GUARDED_GRAM, Problem, all_devices, converge_als, problem_of

import fcf_jax as fcf

WITHIN, MOST_STEPS = 1.005, 200
OWN_START = "implicit_cg, own start"

Curve = list[tuple[float, float]]  # seconds since the start, loss


class Descent(NamedTuple):
    """A training from its start: one step, and the item factors after the steps so far."""

    step: Callable[[], Any]
    item_factors: Callable[[], Any]


def descend(descent: Descent, loss: Callable[[Any], float], bound: float) -> Curve:
    """Step until the loss is at most the bound, adding up the seconds of the steps."""
    curve, seconds = [], 0.0
    while len(curve) < MOST_STEPS:
        seconds += seconds_of(descent.step)
        curve.append((seconds, loss(descent.item_factors())))
        if curve[-1][1] <= bound:
            break
    return curve


def federated(problem: Problem, federation: fcf.Federation, *, seed: int) -> Descent:
    """Prepare rounds from the start of this seed."""
    key = jax.random.key(seed)
    carried = [problem.start(federation, key)]

    def step() -> Any:
        carried[0], _ = fcf.run_rounds(federation, key, carried[0], problem.clients, num_rounds=1)
        return carried[0]

    return Descent(step, lambda: carried[0].item_factors)


def race(
    train: fcf.Interactions, names: list[str], *, num_factors: int, alpha: float, repeats: int
) -> dict[str, Any]:
    """Time the descents of the federation and of the peers among `names`, in turn."""
    problem = problem_of(train, num_factors=num_factors, mesh=all_devices(), alpha=alpha)
    loss = problem.loss()
    converged, losses = converge_als(problem, train)
    bound = WITHIN * loss(converged)
    mine = {
        name: federation_of(problem, name) for name in ("guarded_round", "inexact_round") if name in names
    }
    for federation in mine.values():
        seconds_of(federated(problem, federation, seed=0).step)  # compiles
    peers = [name for name in PEERS if name in names and "exact" not in name]
    peers += [OWN_START] if "implicit_cg" in peers else []
    curves: dict[str, list[Curve]] = {name: [] for name in (*mine, *peers)}
    for seed in range(repeats):
        start = np.asarray(problem.federation(GUARDED_GRAM).init(jax.random.key(seed)).item_factors)
        for name, federation in mine.items():
            curves[name].append(descend(federated(problem, federation, seed=seed), loss, bound))
        for name in peers:
            theirs = start if name != OWN_START else draw_factors(*start.shape, seed=seed + repeats)
            task = task_of(train, theirs, num_factors=num_factors, alpha=alpha, seed=seed)
            iterations = PEERS[name.split(",")[0]].prepare(task)
            one = Descent(lambda run=iterations.run: run(1), iterations.item_factors)
            curves[name].append(descend(one, loss, bound))
    return {
        "als_sweeps": len(losses),
        "bound": bound,
        "rows": [summarize(name, list(mine), curves, bound) for name in curves],
        "curves": curves,
    }


def summarize(name: str, mine: list[str], curves: dict[str, list[Curve]], bound: float) -> dict[str, Any]:
    """Compute seconds and steps of one contender, and the seconds of ours divided by its."""
    seconds = {one: np.array([curve[-1][0] for curve in curves[one]]) for one in {*mine, name}}
    return {
        "": name,
        "seconds": float(np.median(seconds[name])),
        "steps": float(np.median([len(curve) for curve in curves[name]])),
        "reached": all(curve[-1][1] <= bound for curve in curves[name]),
        **{f"{one} / it": spread(seconds[one] / seconds[name])._asdict() for one in mine},
    }
