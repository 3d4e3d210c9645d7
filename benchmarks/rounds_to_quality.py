"""Rounds and bytes until the federation is as good as ALS: the paper's Adam against our server steps.

Goals are MAP@k on held-out items, 99.5 % of converged ALS's, and the loss min_X J(X, Y) on the
training set, within some percent of converged ALS's. The server step that the configuration names
runs as it is configured. Adam is tuned: every setting of the grid below runs, and each goal is
credited to the setting that reaches it first. All begin with the item factors that ALS begins with.
Quality is looked at every few rounds (`--every`), so a figure may be too high by less than that; "-" was not
reached within `--num-rounds`. Cohorts are the same for all.

Megabytes are what one client uploads on average until the MAP goal: as the dense gradient
[items, factors], or in the rank-one form, a number for each item and the user factor, which says
the same; with the extra sums that a step asks for.

    python benchmarks/rounds_to_quality.py movielens-1m --set data.path=path/to/ml-1m
    python benchmarks/rounds_to_quality.py movielens-1m --set data.path=path/to/ml-1m \
        --set federation.cohort_size=100 --set server.step=running_sums --num-rounds 500 --every 10
"""

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

import fcf_jax as fcf
from fcf_jax.core.federation import cohort_rows
from fcf_jax.experiments import timing
from fcf_jax.experiments.build.baseline import converge_als
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.build.devices import pack_on, start_devices
from fcf_jax.experiments.build.models import configured_als, configured_federation
from fcf_jax.experiments.build.problem import Setup, set_up
from fcf_jax.experiments.config.load import load_config, with_values
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import build_optimizer, payload_bytes
from fcf_jax.parallel.mesh import fetch, place_state

LOSS_GOALS = (1.05, 1.02, 1.01, 1.005, 1.002)  # of converged ALS's loss
MAP_GOAL = 0.995  # of its MAP
FLOAT_BYTES = 4
Setting = dict[str, float]  # of Adam; none: the step as configured
Goals = dict[str, float]


def adam_grid(num_rounds: int) -> list[Setting]:
    """List what is tried of Adam."""
    grid = itertools.product((0.02, 0.05, 0.1, 0.2), (0.1, 0.5, 0.9), (num_rounds / 4, num_rounds, 1e9))
    return [{"rate": rate, "b1": b1, "decay_rounds": decay} for rate, b1, decay in grid]


def adam(setting: dict[str, jax.Array]) -> optax.GradientTransformation:
    """Make Adam whose rate falls to a fiftieth along a cosine."""

    def rate(step: jax.Array) -> jax.Array:
        share = jnp.minimum(step / setting["decay_rounds"], 1.0)
        return setting["rate"] * (0.02 + 0.98 * 0.5 * (1.0 + jnp.cos(jnp.pi * share)))

    return optax.adam(rate, b1=setting["b1"], b2=0.99)


def rounds_to_goals(
    setup: Setup, goals: Goals, settings: list[Setting], *, num_rounds: int, every: int
) -> list[dict[str, int]]:
    """Count, for every setting, the rounds to each goal that is reached."""

    def federation(setting: dict[str, jax.Array]) -> Any:
        train = setup.dataset.split.train
        sizes = {"num_users": train.num_users, "num_items": train.num_items}
        optimizer = adam(setting) if setting else build_optimizer(setup.config)
        return configured_federation(
            setup.config, setup.weighting, mesh=setup.mesh, optimizer=optimizer, **sizes
        )

    first = federation(settings[0])
    capacity = cohort_rows(first, setup.key, first.init(setup.key), setup.clients, num_rounds=num_rounds)

    @jax.jit
    def block(setting: dict[str, jax.Array], state: Any, clients: fcf.PackedClients) -> Any:
        one = federation(setting)
        step = lambda state, _: (one.round(setup.key, state, clients, row_capacity=capacity)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, length=every)[0]

    found = []
    for setting in settings:
        traced = {name: jnp.float32(value) for name, value in setting.items()}
        state = federation(traced).init(setup.key)
        state = state if setup.mesh is None else place_state(state, setup.mesh)
        reached: dict[str, int] = {}
        for done in range(every, num_rounds + 1, every):
            state = block(traced, state, setup.clients)
            for name in look(setup, setup.item_factors(state), goals):
                reached.setdefault(name, done)
            if len(reached) == len(goals):
                break
        found.append(reached)
        print(f"{setting or 'as configured'}: {reached}", flush=True)
    return found


def look(setup: Setup, item_factors: np.ndarray, goals: Goals) -> list[str]:
    """Name the goals that these item factors reach."""
    loss = setup.measures.loss(item_factors)
    reached = [name for name, goal in goals.items() if name != "map" and loss <= goal]
    is_near = f"loss {LOSS_GOALS[0]}" in reached  # else its MAP need not be looked at
    if is_near and mean_average_precision(setup, item_factors) >= goals["map"]:
        reached.append("map")
    return reached


def mean_average_precision(setup: Setup, item_factors: np.ndarray) -> float:
    return setup.measures.metrics(item_factors)[f"map_at_{setup.config.evaluation.k}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", help="as for `fcf run`; default: simulated data")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--num-rounds", type=int, default=150, help="at most")
    parser.add_argument("--every", type=int, default=1, help="rounds between two looks")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    start_devices(config.parallel)
    setup = set_up(config, load_dataset(config))
    train = setup.dataset.split.train
    als = configured_als(config, setup.weighting, num_items=train.num_items, mesh=setup.mesh)
    items = pack_on(setup.mesh, partial(fcf.batch_items, train), is_streamed=False)
    baseline = converge_als(als, setup.key, setup.clients, items)
    item_factors = fetch(baseline.item_factors)
    als_loss, als_map = setup.measures.loss(item_factors), mean_average_precision(setup, item_factors)
    goals = {f"loss {goal}": goal * als_loss for goal in LOSS_GOALS} | {"map": MAP_GOAL * als_map}
    sweeps = {
        name: next((sweep for sweep, loss in enumerate(baseline.losses) if loss <= goal), None)
        for name, goal in goals.items()
        if name != "map"
    }
    rows, results = [row("ALS, sweeps", sweeps, goals, setup, config)], {}
    options = {"num_rounds": arguments.num_rounds, "every": arguments.every}
    for name, settings in {config.server.step: [{}], "adam": adam_grid(arguments.num_rounds)}.items():
        found = rounds_to_goals(setup, goals, settings, **options)
        best = {goal: min((one[goal] for one in found if goal in one), default=None) for goal in goals}
        results[name] = {"settings": settings, "rounds": found, "best": best}
        rows.append(row(name, best, goals, setup, with_values(config, {"server.step": name})))
    of_als = {"loss": als_loss, "map": als_map, "sweeps": sweeps}
    timing.publish({"config": config.to_dict(), "als": of_als, "steps": results, **options}, arguments.out)
    timing.show("rounds to quality", rows)


def row(
    name: str, rounds: dict[str, int | None], goals: Goals, setup: Setup, config: ExperimentConfig
) -> dict[str, Any]:
    """Arrange for the eye; megabytes are what a client uploads on average until the MAP goal."""
    shown = {goal: "-" if rounds.get(goal) is None else rounds[goal] for goal in goals}
    num_rounds, train = rounds.get("map"), setup.dataset.split.train
    if num_rounds is None:
        return {"step": name, **shown, "MB dense": "-", "MB rank-one": "-"}
    turns = 1e-6 * num_rounds * setup.cohort_size / train.num_users
    up, down = payload_bytes(config, num_items=train.num_items)
    sends_sums = up > down  # user_gram, confidence_sum and loss
    rank_one = FLOAT_BYTES * (train.num_items + config.model.num_factors + sends_sums * (train.num_items + 1))
    return {"step": name, **shown, "MB dense": f"{turns * up:.3g}", "MB rank-one": f"{turns * rank_one:.3g}"}


if __name__ == "__main__":
    main()
