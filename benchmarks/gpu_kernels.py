"""Parts of a full round by kernels, each alone, in the form that is shipped and in forms near it."""

from typing import Any

import jax
from common import measure
from drawn import drawn_interactions
from gpu_pieces import Sizes, pack

from fcf_jax.core.kernels import full_round
from fcf_jax.core.kernels.items import sum_over_users
from fcf_jax.core.kernels.launch import Launch
from fcf_jax.core.kernels.plans import Plan, plan_of


def kernel_parts(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time whitening, solving and summing by item at the shape of MovieLens 20M."""
    is_interpreted = jax.default_backend() != "gpu"
    num_factors = sizes.large_factors
    plan = plan_of(num_factors, is_interpreted=is_interpreted)
    interactions = drawn_interactions(sizes.movielens_20m)
    problem = pack(interactions, num_factors, chunk_slots=sizes.chunk_slots[0], by_item=True)
    model, clients = problem.model, problem.clients
    item_factors = 0.3 * jax.random.normal(jax.random.key(0), (problem.num_items, num_factors))
    whiten = jax.jit(lambda item_factors: full_round.whiten(model, item_factors, plan))
    whitened = whiten(item_factors)

    def solve(plan: Plan) -> Any:
        run = jax.jit(lambda whitened, clients: full_round._solve(model, whitened, clients, plan))
        return lambda: run(whitened, clients)

    solved = solve(plan)()[0]

    def add(launch: Launch) -> Any:
        @jax.jit
        def run(factors: jax.Array, table: jax.Array, items: Any) -> Any:
            interactions = full_round._weigh_by_item(model, items)
            return sum_over_users(factors, table, full_round._pieces(items), interactions, launch)

        return lambda: run(solved.factors, whitened.table, clients.items)

    runs = {"whiten": lambda: whiten(item_factors)}
    runs |= {f"solve, {_words(near)}": solve(plan._replace(clients=near)) for near in _near(plan.clients)}
    runs |= {f"sum by item, {_words(near)}": add(near) for near in _near(plan.items)}
    timings = measure(runs, repeats=repeats)
    return {
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "milliseconds": {name: 1e3 * timing.median_s for name, timing in timings.items()},
        "worst_error": float(solved.error.max()),
    }


def _near(launch: Launch) -> list[Launch]:
    """Return the launch as it is, and, on a GPU, with twice and half the tile and the warps."""
    if launch.is_interpreted:
        return [launch]
    others = [(2, 1), (1, 2), (1, 0.5)]
    changed = [
        launch._replace(tile=int(tile * launch.tile), num_warps=max(int(warps * launch.num_warps), 1))
        for tile, warps in others
    ]
    return [launch, *(one for one in changed if one != launch)]


def _words(launch: Launch) -> str:
    return f"tile {launch.tile}, {launch.num_warps} warps"
