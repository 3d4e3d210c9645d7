"""Rounds and bytes until the federation is as good as ALS: the paper's Adam against our server steps.

Goals are MAP@10 on held-out items, 99.5 % of converged ALS's, and the loss min_X J(X, Y) on the training set,
within some percent of converged ALS's. Our step is the guarded Gram step, with cohorts running sums. Adam is
tuned: every setting of the grid below runs, and each goal is credited to the setting that reaches it first.
All start from the item factors that ALS starts from. Quality is measured every few rounds (`--every`), so a
figure may be too high by less than that; "-" was not reached within `--num-rounds`. Cohorts are the same for
all.

Megabytes are what one client uploads on average until the MAP goal: as the dense gradient [items, factors],
or in the rank-one form, a number for each item and the user factor, which carries the same information; with
the extra sums that a step asks for.

    python benchmarks/rounds_to_quality.py path/to/ml-1m
    python benchmarks/rounds_to_quality.py path/to/ml-1m --cohort-size 100 --num-rounds 500 --every 10
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from common import add_data_arguments, argument_parser, positive, publish, read_data, show
from jax import numpy as jnp
from problem import Problem, all_devices, converge_als, problem_of, use_all_cores

import fcf_jax as fcf
from fcf_jax.core.federation import cohort_rows
from fcf_jax.evaluation import evaluate_data, evaluation_data

LOSS_GOALS = (1.05, 1.02, 1.01, 1.005, 1.002)  # of converged ALS's loss
MAP_GOAL = 0.995  # of its MAP
FLOAT_BYTES = 4
CLIENTS_WORTH_A_DEVICE = 200  # of a cohort; fewer, and devices wait for each other
Setting = dict[str, float]  # of Adam; none: our own step
Goals = dict[str, float]


class Quality(NamedTuple):
    """Loss on the training set and MAP on the test set, as functions of the item factors."""

    loss: Callable[[Any], float]
    mean_average_precision: Callable[[Any], float]

    def reached(self, item_factors: jax.Array, goals: Goals) -> list[str]:
        """Return the names of the goals that these item factors reach."""
        loss = self.loss(item_factors)
        found = [name for name, goal in goals.items() if name != "map" and loss <= goal]
        is_near = f"loss {LOSS_GOALS[0]}" in found  # else its MAP is not worth computing
        if is_near and self.mean_average_precision(item_factors) >= goals["map"]:
            found.append("map")
        return found


def adam_grid(num_rounds: int) -> list[Setting]:
    """List the settings of Adam that are tried."""
    grid = itertools.product((0.02, 0.05, 0.1, 0.2), (0.1, 0.5, 0.9), (num_rounds / 4, num_rounds, 1e9))
    return [{"rate": rate, "b1": b1, "decay_rounds": decay} for rate, b1, decay in grid]


def adam(setting: dict[str, jax.Array]) -> optax.GradientTransformation:
    """Create Adam whose rate falls to a fiftieth along a cosine."""

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        share = jnp.minimum(jnp.asarray(step) / setting["decay_rounds"], 1.0)
        return setting["rate"] * (0.02 + 0.98 * 0.5 * (1.0 + jnp.cos(jnp.pi * share)))

    return optax.adam(rate, b1=setting["b1"], b2=0.99)


def own_step(arguments: argparse.Namespace) -> optax.GradientTransformation:
    """Create our step: guarded for everybody, running sums for cohorts."""
    given = arguments.confidence_factor
    if arguments.cohort_size is None:
        return fcf.optimizers.guarded_gram(confidence_factor=1.0 if given is None else given)
    return fcf.optimizers.running_sums(confidence_factor=3.0 if given is None else given)


def rounds_to_goals(
    problem: Problem,
    federation_of: Callable[[dict[str, jax.Array]], fcf.Federation],
    quality: Quality,
    goals: Goals,
    settings: list[Setting],
    *,
    num_rounds: int,
    every: int,
) -> list[dict[str, int]]:
    """Count, for every setting, the rounds to each goal that is reached."""
    key, first = jax.random.key(0), federation_of(_traced(settings[0]))
    capacity = cohort_rows(first, key, first.init(key), problem.clients, num_rounds=num_rounds)

    @jax.jit
    def block(
        setting: dict[str, jax.Array], state: fcf.ServerState, clients: fcf.PackedClients
    ) -> fcf.ServerState:
        federation = federation_of(setting)

        def step(state: fcf.ServerState, _: None) -> tuple[fcf.ServerState, None]:
            return federation.round(key, state, clients, row_capacity=capacity)[0], None

        return jax.lax.scan(step, state, length=every)[0]

    found = []
    for setting in settings:
        state = problem.start(federation_of(_traced(setting)), key)
        reached: dict[str, int] = {}
        for done in range(every, num_rounds + 1, every):
            state = block(_traced(setting), state, problem.clients)
            for name in quality.reached(state.item_factors, goals):
                reached.setdefault(name, done)
            if len(reached) == len(goals):
                break
        found.append(reached)
        print(f"{setting or 'our step'}: {reached}", flush=True)
    return found


def _traced(setting: Setting) -> dict[str, jax.Array]:
    return {name: jnp.float32(value) for name, value in setting.items()}


def row(
    name: str,
    rounds: dict[str, int | None],
    goals: Goals,
    *,
    problem: Problem,
    share: float,
    sends_sums: bool,
) -> dict[str, Any]:
    """Arrange one step as a row of the table.

    Args:
        name: of the step.
        rounds: to each goal.
        goals: by name, in the order of the columns.
        problem: whose sizes decide about the bytes.
        share: of the users that take part in a round.
        sends_sums: whether clients also send x x^T, their confidences and their loss.
    """
    shown = {goal: "-" if rounds.get(goal) is None else rounds[goal] for goal in goals}
    num_rounds, num_items, num_factors = rounds.get("map"), problem.num_items, problem.num_factors
    if num_rounds is None:
        return {"step": name, **shown, "MB dense": "-", "MB rank-one": "-"}
    megabytes = 1e-6 * FLOAT_BYTES * num_rounds * share
    dense = num_items * num_factors + sends_sums * (num_factors**2 + num_items + 1)
    rank_one = num_items + num_factors + sends_sums * (num_items + 1)
    shown |= {"MB dense": f"{megabytes * dense:.3g}", "MB rank-one": f"{megabytes * rank_one:.3g}"}
    return {"step": name, **shown}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argument_parser(__doc__)
    add_data_arguments(parser)
    parser.add_argument(
        "--strengths", choices=("binary", "log", "keep"), help="default: binary, simulated keep"
    )
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--cohort-size", type=positive, help="default: everybody")
    parser.add_argument("--sampling", choices=("shuffled", "independent"), default="shuffled")
    parser.add_argument("--confidence-factor", type=float, help="of our step; default: 1, running sums 3")
    parser.add_argument("--num-rounds", type=positive, default=150, help="at most")
    parser.add_argument("--every", type=positive, default=1, help="rounds between two measurements")
    parser.add_argument(
        "--num-settings", type=positive, help="of Adam's 36, the first ones; to try the script"
    )
    return parser.parse_args()


def split_data(arguments: argparse.Namespace) -> tuple[fcf.Interactions, fcf.Interactions]:
    """Read or simulate, transform the strengths, and split into training and test set."""
    interactions = read_data(arguments)
    strengths = arguments.strengths or ("keep" if arguments.path is None else "binary")
    if strengths == "binary":
        interactions = interactions.binarized()
    elif strengths == "log":
        interactions = interactions.log_scaled()
    split = fcf.split_per_user(interactions, test_fraction=0.2, seed=0)
    return split.train, split.test


def main() -> None:
    arguments = parse_arguments()
    use_all_cores()
    train, test = split_data(arguments)
    is_small = arguments.cohort_size is not None and arguments.cohort_size < 2 * CLIENTS_WORTH_A_DEVICE
    mesh = None if is_small else all_devices()
    problem = problem_of(train, num_factors=arguments.num_factors, mesh=mesh)
    data = evaluation_data(train, test)

    def mean_average_precision(item_factors: jax.Array) -> float:
        return evaluate_data(problem.model, jnp.asarray(np.asarray(item_factors)), data, k=10)["map_at_10"]

    quality = Quality(problem.loss(), mean_average_precision)
    item_factors, losses = converge_als(problem, train)
    als_loss, als_map = quality.loss(item_factors), quality.mean_average_precision(item_factors)
    loss_goals = {f"loss {goal}": goal * als_loss for goal in LOSS_GOALS}
    goals = loss_goals | {"map": MAP_GOAL * als_map}
    sweeps = {
        name: next((sweep for sweep, loss in enumerate(losses) if loss <= goal), None)
        for name, goal in loss_goals.items()
    }

    def federation_of(setting: dict[str, jax.Array]) -> fcf.Federation:
        step = adam(setting) if setting else own_step(arguments)
        return problem.federation(step, cohort_size=arguments.cohort_size, sampling=arguments.sampling)

    share = (arguments.cohort_size or train.num_users) / train.num_users
    as_row = partial(row, goals=goals, problem=problem, share=share)
    rows, results = [as_row("ALS, sweeps", sweeps, sends_sums=False)], {}
    own_name = "guarded_gram" if arguments.cohort_size is None else "running_sums"
    grid = adam_grid(arguments.num_rounds)[: arguments.num_settings]
    counted = partial(rounds_to_goals, problem, federation_of, quality, goals)
    for name, settings in {own_name: [{}], "adam": grid}.items():
        found = counted(settings, num_rounds=arguments.num_rounds, every=arguments.every)
        best = {goal: min((one[goal] for one in found if goal in one), default=None) for goal in goals}
        results[name] = {"settings": settings, "rounds": found, "best": best}
        rows.append(as_row(name, best, sends_sums=name != "adam"))
    document = {
        "arguments": vars(arguments) | {"out": str(arguments.out)},
        "als": {"loss": als_loss, "map": als_map, "sweeps": sweeps},
        "steps": results,
    }
    publish(document, arguments.out)
    show("rounds to quality", rows)


if __name__ == "__main__":
    main()
