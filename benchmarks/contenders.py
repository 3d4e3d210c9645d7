"""Rounds and sweeps of ours, and iterations of peers, prepared to run beside each other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from peers import PEERS, Task, draw_factors, is_installed
from problem import ADAM, GUARDED_GRAM, REGULARIZATION, Problem, pack_on, rounds_of, start_of

import fcf_jax as fcf

STEPS = {"guarded_round": GUARDED_GRAM, "inexact_round": GUARDED_GRAM, "adam_round": ADAM}
OURS = (*STEPS, "als_sweep")


def ours(
    name: str,
    problem: Problem,
    train: fcf.Interactions,
    item_factors: jax.Array | None,
    *,
    block: int,
    num_calls: int,
) -> Callable[[], Any]:
    """Prepare calls of `block` rounds or sweeps from these item factors, by default from those of key 0."""
    if name in STEPS:
        federation = federation_of(problem, name)
        return rounds_of(problem, federation, item_factors, num_rounds=block, num_calls=num_calls).run
    if item_factors is None:
        item_factors = start_of(problem)
    items = pack_on(problem.mesh, partial(fcf.pack_items, num_factors=problem.num_factors), train)
    return partial(
        fcf.als.run_sweeps, problem.model, item_factors, problem.clients, items, num_sweeps=block,
        mesh=problem.mesh,
    )  # fmt: skip


def federation_of(problem: Problem, name: str) -> fcf.Federation:
    """Set up the federation of these rounds; inexact ones share the compiled program."""
    if name == "inexact_round":
        problem = problem.inexact()
    return problem.federation(STEPS[name])


def task_of(
    train: fcf.Interactions,
    item_factors: np.ndarray | None = None,
    *,
    num_factors: int,
    alpha: float,
    seed: int = 0,
) -> Task:
    """Set the task of a peer; item factors are by default drawn as `implicit` does."""
    from scipy.sparse import csr_matrix

    start = (
        draw_factors(train.num_items, num_factors, seed=seed + 1) if item_factors is None else item_factors
    )
    return Task(csr_matrix(train.to_scipy()), np.asarray(start), alpha, REGULARIZATION, seed)


def installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Divide names of peers into those that are installed and the packages that are missing."""
    found = [name for name in names if is_installed(name)]
    return found, sorted({PEERS[name].package for name in names if name not in found})
