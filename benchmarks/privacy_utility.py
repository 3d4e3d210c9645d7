"""Cost of differential privacy: ranking quality at several epsilon, with levers tuned on other data.

Everybody takes part in every round of `running_sums`; item counts are released first, for the share of items
that is learned. The levers (K, rounds, clip norm, share of items, lambda) are chosen for each epsilon from a
grid on a *tuning set*, which must be public or synthetic, with noise scaled so that a number of the sum there
is as noisy as on the data that is measured. Then models are trained on that data with these levers, several
times with fresh noise. The reference without privacy is FCF with the guarded Gram step, and it is a strong
one: the best of 48 settings of K, alpha and lambda on the test items themselves. What is not tuned (alpha,
the clip norm of x x^T, the averaging) was set on MovieLens 100K.

`--top-items` and `--new-users` repeat the protocol of Chien et al. ("Private Alternating Least Squares",
ICML 2021) on MovieLens 20M: a tenth of the items, users that were not trained on, recall over the best
that a list of 20 can do.

    python benchmarks/privacy_utility.py movielens-1m-private --set data.path=path/to/ml-1m \
        --num-factors 16 32 --tune-on movielens-100k --tune-set data.path=path/to/ml-100k
    python benchmarks/privacy_utility.py simulated-private --tune-on simulated-private \
        --tune-set data.num_users=17085 --tune-set data.num_items=2500 --tune-set data.seed=1 \
        --tune-set evaluation.max_users=4000 --num-seeds 2
"""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import argument_parser, positive, publish, show
from jax import numpy as jnp
from problem import GUARDED_GRAM, Problem

import fcf_jax as fcf
from fcf_jax.channel import Pieces, clip_and_noise
from fcf_jax.evaluation import EvaluationData, evaluate_data, evaluation_data
from fcf_jax.experiments.build.dataset import load_dataset
from fcf_jax.experiments.config.load import load_config
from fcf_jax.privacy.accounting import Participation, calibrated_noise_multiplier, single_noise_multiplier
from fcf_jax.privacy.item_counts import clipped_item_counts, item_weights, noisy_item_counts
from fcf_jax.privacy.limits import noise_to_signal

EPSILONS = (math.inf, 20.0, 10.0, 5.0, 2.0, 1.0)
GRID = {
    "num_rounds": (4, 8),
    "clip_norm": (1.25, 2.5, 5.0),
    "head_items": (0.15, 0.4, 1.0),
    "regularization": (10.0, 100.0),
}
PLAIN_GRID = {
    "num_factors": (8, 16, 25, 50),
    "alpha": (0.5, 1.0, 4.0),
    "regularization": (10.0, 30.0, 100.0, 200.0),
}
Grid = dict[str, tuple[float, ...]]  # values of each lever
MEASURES = {10: ("ndcg_at_10",), 20: ("recall_at_20", "normalized_recall_at_20")}  # of lists of k
PLAIN_ROUNDS = 20
GRAM_CLIP_NORM = 0.5
COUNT_SHARE, COUNT_CLIP_NORM = 0.03, 8.0
RUNNING_SUMS = fcf.optimizers.running_sums(  # as in the private configurations
    1.0, confidence_factor=0.0, averaging=lambda round_index: (round_index + 1.0) ** -0.5
)
TUNING_SEEDS = 2


class Levers(NamedTuple):
    """Tuned numbers."""

    num_factors: int
    num_rounds: int
    clip_norm: float
    head_items: float
    regularization: float


class Task(NamedTuple):
    """Data that is trained on and measured.

    Attributes:
        train: interactions of the users that take part.
        clients: the same, packed.
        data: of the users that are measured.
        num_factors: K to choose from.
        alpha: of the private models.
    """

    train: fcf.Interactions
    clients: fcf.PackedClients
    data: EvaluationData
    num_factors: tuple[int, ...]
    alpha: float

    def quality(self, model: fcf.Model, item_factors: jax.Array) -> dict[str, float]:
        """Rank all items that a user has not got, for every user with test items."""
        found = {}
        for k, names in MEASURES.items():
            metrics = evaluate_data(model, item_factors, self.data, k=k)
            found |= {name: metrics[name] for name in names}
        return found


def task_of(name: str, overrides: list[str], *, top_items: float = 1.0, new_users: int = 0) -> Task:
    """Load and split, optionally with the most popular items only, or tested on users not trained on."""
    config = load_config(name, overrides)
    split = load_dataset(config).split
    train, test = split.train, split.test
    if top_items < 1:
        kept = np.argsort(-(train.item_counts + test.item_counts), kind="stable")
        kept = kept[: round(top_items * train.num_items)]
        train, test = (fcf.Interactions.from_scipy(part.to_scipy()[:, kept]) for part in (train, test))
    trained = train
    if new_users:
        is_new = np.random.default_rng(0).permutation(train.num_users) < new_users
        trained, train, test = rows(train, ~is_new), rows(train, is_new), rows(test, is_new)
    data = evaluation_data(train, test, max_users=config.evaluation.max_users)
    model = config.model
    return Task(trained, fcf.pack_clients(trained), data, (model.num_factors,), model.alpha)


def rows(interactions: fcf.Interactions, is_kept: np.ndarray) -> fcf.Interactions:
    return fcf.Interactions.from_scipy(interactions.to_scipy()[is_kept])


def private_quality(task: Task, levers: Levers, epsilon: float, *, delta: float, scale: float, seed: int):
    """Train with noise for epsilon of `1 / delta`'s users, `scale` times as much, and measure."""
    train, (noise, count_noise) = task.train, noises(levers, epsilon, delta=delta)
    key_start, key_noise, key_counts = jax.random.split(jax.random.key(seed), 3)
    counts = clipped_item_counts(train, clip_norm=COUNT_CLIP_NORM)
    if count_noise > 0:
        counts = noisy_item_counts(
            key_counts, train, clip_norm=COUNT_CLIP_NORM, noise_multiplier=scale * count_noise
        )
    channel = clip_and_noise(
        clip_norms=Pieces(upload=levers.clip_norm, user_gram=GRAM_CLIP_NORM, confidence_sum=None, loss=None),
        noise_multiplier=float(scale * noise),
        expected_cohort_size=train.num_users,
        item_weights=jnp.asarray(item_weights(counts, head_share=levers.head_items)),
    )
    model = fcf.Model(fcf.implicit_feedback(alpha=task.alpha), levers.regularization)
    problem = Problem(model, task.clients, train.num_items, levers.num_factors)
    federation = problem.federation(RUNNING_SUMS, channel=channel)
    state, _ = fcf.run_rounds(
        federation, key_noise, federation.init(key_start), task.clients, num_rounds=levers.num_rounds
    )
    return task.quality(model, state.item_factors)


def noises(levers: Levers, epsilon: float, *, delta: float) -> tuple[float, float]:
    """Calibrate the noise multipliers of rounds and of item counts."""
    if epsilon == math.inf:
        return 0.0, 0.0
    counts = single_noise_multiplier(epsilon, delta=delta) / math.sqrt(COUNT_SHARE)
    everybody, num_rounds = Participation("everybody", 1, 1, counts), levers.num_rounds
    rounds = calibrated_noise_multiplier(everybody, epsilon=epsilon, delta=delta, num_rounds=num_rounds)
    return rounds, counts


def plain_quality(task: Task, *, num_factors: int, alpha: float, regularization: float, seed: int = 0):
    """Train without any protection, and measure."""
    model, key = fcf.Model(fcf.implicit_feedback(alpha=alpha), regularization), jax.random.key(seed)
    problem = Problem(model, task.clients, task.train.num_items, num_factors)
    federation = problem.federation(GUARDED_GRAM)
    state, _ = fcf.run_rounds(federation, key, federation.init(key), task.clients, num_rounds=PLAIN_ROUNDS)
    return task.quality(model, state.item_factors)


def first_of(grid: Grid) -> Grid:
    """Return the grid of one point, the first."""
    return {name: values[:1] for name, values in grid.items()}


def points(grid: Grid) -> Iterator[dict[str, Any]]:
    """Generate all points of a grid."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def noise_scale(measured: Task, tuned: Task) -> float:
    """Match noise over signal of one number of the sum, N sqrt(mean history) / M, of both data sets."""

    def signal(train: fcf.Interactions) -> float:
        return train.num_users * math.sqrt(train.num_interactions / train.num_users) / train.num_items

    return signal(tuned.train) / signal(measured.train)


def tuned_levers(
    task: Task, epsilon: float, *, delta: float, scale: float, grid: Grid
) -> tuple[Levers, float]:
    """Return the levers that are best on the tuning set, by NDCG@10, and their NDCG@10."""
    trained, found = partial(private_quality, task, epsilon=epsilon, delta=delta, scale=scale), {}
    for point in points({"num_factors": task.num_factors, **grid}):
        levers = Levers(**point)
        runs = [trained(levers, seed=seed)["ndcg_at_10"] for seed in range(TUNING_SEEDS)]
        found[levers] = float(np.mean(runs))
    best = max(found, key=found.__getitem__)
    return best, found[best]


def reference(task: Task, grid: Grid) -> dict[str, Any]:
    """Measure the best of the plain grid, and the ranking by popularity."""
    found = [(plain_quality(task, **point), point) for point in points(grid)]
    plain, best = max(found, key=lambda one: one[0]["ndcg_at_10"])
    counts = jnp.asarray(task.train.item_counts, jnp.float32)
    any_model = fcf.Model(fcf.implicit_feedback(alpha=1.0), 1.0)  # one factor: only the counts order items
    popularity = task.quality(any_model, (counts / counts.max())[:, None])
    return {
        "plain": plain,
        "plain_setting": best,
        "plain_grid": [{**point, **quality} for quality, point in found],
        "popularity": popularity,
    }


def measure(
    task: Task, tuning: Task, epsilon: float, *, delta: float, grid: Grid, num_seeds: int
) -> dict[str, Any]:
    scale = noise_scale(task, tuning)
    levers, ndcg = tuned_levers(tuning, epsilon, delta=delta, scale=scale, grid=grid)
    trained = partial(private_quality, task, levers, delta=delta, scale=1.0)
    runs = [trained(epsilon=epsilon, seed=100 + seed) for seed in range(num_seeds)]
    silent = trained(epsilon=math.inf, seed=100)
    noise, count_noise = noises(levers, epsilon, delta=delta)
    num_items = max(1, round(levers.head_items * task.train.num_items))
    return {
        "epsilon": epsilon,
        "noise_to_signal": noise_to_signal(
            noise_multiplier=noise,
            num_items=num_items,
            num_factors=levers.num_factors,
            cohort_size=task.train.num_users,
            num_rounds=levers.num_rounds,
        ),
        "levers": levers._asdict(),
        "noise_multiplier": noise,
        "count_noise_multiplier": count_noise,
        "ndcg_on_tuning_set": ndcg,
        "runs": runs,
        "same_without_noise": silent,
        **{name: float(np.mean([run[name] for run in runs])) for name in runs[0]},
    }


def row(result: dict[str, Any], plain: dict[str, float]) -> dict[str, Any]:
    levers, silent = result["levers"], result["same_without_noise"]
    return {
        "epsilon": result["epsilon"],
        "NDCG@10": result["ndcg_at_10"],
        "+-": float(np.std([run["ndcg_at_10"] for run in result["runs"]])),
        "of plain, %": 100 * (result["ndcg_at_10"] / plain["ndcg_at_10"] - 1),
        "of itself without noise, %": 100 * (result["ndcg_at_10"] / silent["ndcg_at_10"] - 1),
        "Recall@20": result["recall_at_20"],
        "of the best possible": result["normalized_recall_at_20"],
        "K": levers["num_factors"],
        "rounds": levers["num_rounds"],
        "lambda": levers["regularization"],
        "clip norm": levers["clip_norm"],
        "items": levers["head_items"],
        "sigma": result["noise_multiplier"],
        "noise / signal": result["noise_to_signal"],
    }


def draw(title: str, results: list[dict[str, Any]], found: dict[str, Any], path: Path) -> None:
    """Draw NDCG@10 against epsilon, with all runs and the two references."""
    from matplotlib.figure import Figure

    noisy = [one for one in results if one["epsilon"] < math.inf]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    epsilons = [one["epsilon"] for one in noisy]
    axes.plot(epsilons, [one["ndcg_at_10"] for one in noisy], "o-", label="differentially private FCF")
    axes.plot(
        epsilons, [one["same_without_noise"]["ndcg_at_10"] for one in noisy], "--", color="C0", alpha=0.6,
        label="the same without noise",
    )  # fmt: skip
    for one in noisy:
        axes.scatter([one["epsilon"]] * len(one["runs"]), [run["ndcg_at_10"] for run in one["runs"]], 8, "C0")
    axes.axhline(found["plain"]["ndcg_at_10"], color="black", label="plain FCF, the best setting")
    axes.axhline(found["popularity"]["ndcg_at_10"], color="gray", linestyle=":", label="popularity alone")
    axes.set(xscale="log", xlabel="epsilon (one user's data, whole run)", ylabel="NDCG@10", title=title)
    axes.set_xticks(epsilons, [f"{one:g}" for one in epsilons])
    axes.minorticks_off()
    axes.set_ylim(0)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("config", help="of the data that is measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--tune-on", required=True, metavar="CONFIG", help="public or synthetic data")
    parser.add_argument("--tune-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epsilons", type=float, nargs="*", default=EPSILONS)
    parser.add_argument(
        "--num-factors", type=positive, nargs="*", help="to choose from; default: as configured"
    )
    parser.add_argument("--top-items", type=float, default=1.0, help="share of the most popular to keep")
    parser.add_argument("--new-users", type=int, default=0, help="to test on, and not to train on")
    parser.add_argument("--num-seeds", type=positive, default=3)
    parser.add_argument(
        "--small-grids", action="store_true", help="one value of each lever, to try the script"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="where to draw the results")
    arguments = parser.parse_args()
    top_items = arguments.top_items
    task = task_of(arguments.config, arguments.overrides, top_items=top_items, new_users=arguments.new_users)
    tuning = task_of(arguments.tune_on, arguments.tune_set, top_items=top_items)
    if arguments.num_factors:
        task = task._replace(num_factors=tuple(arguments.num_factors))
    tuning = tuning._replace(num_factors=task.num_factors, alpha=task.alpha)
    grid, plain_grid = (first_of(GRID), first_of(PLAIN_GRID)) if arguments.small_grids else (GRID, PLAIN_GRID)
    train, delta = task.train, 1 / (10 * task.train.num_users)
    found = reference(task, plain_grid)
    print(
        f"plain {found['plain']} with {found['plain_setting']}; popularity {found['popularity']}", flush=True
    )
    results = []
    for epsilon in arguments.epsilons:
        results.append(measure(task, tuning, epsilon, delta=delta, grid=grid, num_seeds=arguments.num_seeds))
        print(row(results[-1], found["plain"]), flush=True)
    title = f"{arguments.config}: {train.num_users} users, {train.num_items} items, delta = {delta:.2g}"
    show(title, [row(one, found["plain"]) for one in results])
    if arguments.picture is not None:
        draw(title, results, found, arguments.picture)
    publish({"title": title, "delta": delta, "results": results, **found}, arguments.out)


if __name__ == "__main__":
    main()
