"""Cost of privacy where item factors are computed from second moments that are released with noise.

Item counts, second moments over a head of the catalogue and projections over a larger head are released
once each (`fcf_jax.privacy.second_moments`); no rounds follow. The levers are tuned on other data, with noise
scaled as in `privacy_utility.py`, whose reference without privacy is measured here, too. Each setting of
epsilon is saved when it is done, and read again by the next call.

    python benchmarks/second_moments.py movielens-1m-private --set data.path=path/to/ml-1m \
        --tune-on movielens-100k --tune-set data.path=path/to/ml-100k --num-seeds 5 --json moments.json
    python benchmarks/second_moments.py --table moments.json                 # writes docs/privacy.md
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import argument_parser, positive, publish, show
from privacy_utility import PLAIN_GRID, Task, first_of, noise_scale, points, reference, task_of
from readme import README, with_table

import fcf_jax as fcf
from fcf_jax.privacy.accounting import single_noise_multiplier
from fcf_jax.privacy.item_counts import clipped_item_counts, noisy_item_counts
from fcf_jax.privacy.second_moments import Releases, second_moment_factors

PAGE = README.parents[1] / "docs" / "privacy.md"
EPSILONS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.25)
COUNT_CLIP_NORM, ALPHA, REGULARIZATION = 8.0, 0.5, 0.03
GRID = {
    "num_factors": (25, 49),
    "moment_items": (100, 200, 400, 600),
    "head_items": (0.15, 0.25, 0.4),
    "count_share": (0.08,),
    "moment_share": (0.25, 0.4),
}
TUNING_SEEDS = 2


class Levers(NamedTuple):
    """Tuned numbers; the shares are those of the budget (1 / sigma^2), of counts and of second moments."""

    num_factors: int
    moment_items: int
    head_items: float
    count_share: float
    moment_share: float


def factors(task: Task, levers: Levers, sigma: float, *, seed: int) -> np.ndarray:
    """Release everything with the noise multiplier sigma in all, and compute item factors."""
    key_counts, key_sums = jax.random.split(jax.random.key(seed))
    train, counts = task.train, clipped_item_counts(task.train, clip_norm=COUNT_CLIP_NORM)
    if sigma > 0:
        counts = noisy_item_counts(
            key_counts,
            train,
            clip_norm=COUNT_CLIP_NORM,
            noise_multiplier=sigma / math.sqrt(levers.count_share),
        )
    num_items = max(round(levers.head_items * train.num_items), levers.num_factors)
    rest = 1 - levers.count_share - levers.moment_share
    releases = Releases(
        num_moment_items=min(levers.moment_items, num_items),
        num_items=num_items,
        moment_noise_multiplier=sigma / math.sqrt(levers.moment_share),
        projection_noise_multiplier=sigma / math.sqrt(rest),
    )
    return second_moment_factors(key_sums, train, counts, num_factors=levers.num_factors, releases=releases)


def quality(task: Task, levers: Levers, sigma: float, *, seed: int) -> dict[str, float]:
    """Measure the ranking of users that fold in at the released item factors."""
    model = fcf.Model(fcf.implicit_feedback(alpha=ALPHA), REGULARIZATION)
    return task.quality(model, jax.numpy.asarray(factors(task, levers, sigma, seed=seed)))


def tuned(tuning: Task, sigma: float, grid: dict[str, tuple[Any, ...]]) -> Levers:
    """Return the levers with the best NDCG@10 on the tuning set."""
    found = {}
    for point in points(grid):
        levers = Levers(**point)
        runs = [quality(tuning, levers, sigma, seed=seed)["ndcg_at_10"] for seed in range(TUNING_SEEDS)]
        found[levers] = float(np.mean(runs))
    return max(found, key=found.__getitem__)


def measure(
    task: Task, tuning: Task, epsilon: float, *, grid: dict[str, tuple[Any, ...]], num_seeds: int
) -> dict[str, Any]:
    sigma = single_noise_multiplier(epsilon, delta=1 / (10 * task.train.num_users))
    levers = tuned(tuning, noise_scale(task, tuning) * sigma, grid)
    runs = [quality(task, levers, sigma, seed=100 + seed) for seed in range(num_seeds)]
    directions = factors(task, levers, sigma, seed=100)[:, 1:]
    return {
        "epsilon": epsilon,
        "levers": levers._asdict(),
        "noise_multiplier": sigma,
        "directions_found": int(directions.any(axis=0).sum()),
        "runs": runs,
        "same_without_noise": quality(task, levers, 0.0, seed=100),
        **{name: float(np.mean([run[name] for run in runs])) for name in runs[0]},
    }


def row(result: dict[str, Any], plain: dict[str, float]) -> dict[str, Any]:
    levers, silent = result["levers"], result["same_without_noise"]["ndcg_at_10"]
    return {
        "epsilon": result["epsilon"],
        "NDCG@10": result["ndcg_at_10"],
        "+-": float(np.std([run["ndcg_at_10"] for run in result["runs"]])),
        "of plain, %": 100 * (result["ndcg_at_10"] / plain["ndcg_at_10"] - 1),
        "of itself without noise, %": 100 * (result["ndcg_at_10"] / silent - 1),
        "Recall@20": result["recall_at_20"],
        "K": levers["num_factors"],
        "directions": result["directions_found"],
        "items of moments": levers["moment_items"],
        "items": levers["head_items"],
        "share of counts": levers["count_share"],
        "share of moments": levers["moment_share"],
        "sigma": result["noise_multiplier"],
    }


def shown(cells: dict[str, Any]) -> dict[str, Any]:
    """Format a row for the page: metrics with four digits, percentages with a sign."""
    percents = {name: f"{cells[name]:+.1f} %" for name in cells if name.endswith(", %")}
    metrics = {name: f"{cells[name]:.4f}".lstrip("0") for name in ("NDCG@10", "+-", "Recall@20")}
    return {**cells, **percents, **metrics}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("config", nargs="?", help="of the data that is measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--tune-on", metavar="CONFIG", help="public or synthetic data")
    parser.add_argument("--tune-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epsilons", type=float, nargs="*", default=EPSILONS)
    parser.add_argument("--num-factors", type=positive, nargs="*", help="to choose from")
    parser.add_argument("--num-seeds", type=positive, default=3)
    parser.add_argument("--small-grids", action="store_true", help="one value of each lever")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="saved after every epsilon, and read")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="write docs/privacy.md")
    arguments = parser.parse_args()
    if arguments.table is not None:
        found = json.loads(arguments.table.read_text())
        rows = [shown(row(one, found["plain"])) for one in found["results"]]
        PAGE.write_text(with_table(PAGE.read_text(), "second_moments.py", rows))
        return
    if arguments.config is None or arguments.tune_on is None:
        parser.error("expected CONFIG and --tune-on, or --table")
    task = task_of(arguments.config, arguments.overrides)
    tuning = task_of(arguments.tune_on, arguments.tune_set)
    grid, plain_grid = (first_of(GRID), first_of(PLAIN_GRID)) if arguments.small_grids else (GRID, PLAIN_GRID)
    if arguments.num_factors:
        grid = {**grid, "num_factors": tuple(arguments.num_factors)}
    path = arguments.json
    done: dict[str, Any] = {"results": []}
    if path is not None and path.exists():
        done = json.loads(path.read_text())
    if "plain" not in done:
        done |= reference(task, plain_grid)
    for epsilon in arguments.epsilons:
        if epsilon not in [one["epsilon"] for one in done["results"]]:
            done["results"].append(measure(task, tuning, epsilon, grid=grid, num_seeds=arguments.num_seeds))
            print(row(done["results"][-1], done["plain"]), flush=True)
        if path is not None:
            path.write_text(json.dumps(done))
    show(f"{arguments.config}: second moments", [row(one, done["plain"]) for one in done["results"]])
    publish(done, arguments.out)


if __name__ == "__main__":
    main()
