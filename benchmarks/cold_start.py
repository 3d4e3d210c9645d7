"""Cold start: items and users without interactions, ranked by their features alone; and what features cost.

Over several splits, the federation trains with and without features, and ALS with them. Cold items are those
that appear last, held out whole (`data.split = "cold_items"`); their floors are a random order and the
popularity that their features predict. Cold users are a tenth of the users, held out whole: the items of the
training set are ranked for them by their features alone; their floor is popularity. For all other users and
items, equivalence with and without features is tested within 1 % (TOST, paired over the splits).

    python benchmarks/cold_start.py movielens-100k-features --set data.path=ml-100k --out cold-100k.json
    python benchmarks/cold_start.py --table cold-100k.json cold-1m.json     # writes docs/cold-start.md

--choose KEY=VALUE,VALUE tries values on the training set of the first split, which is split once more in the
same way: all other keys first, by the items that are not cold, once with features and once without; then
model.feature_regularization by the cold ones.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import argument_parser, positive, publish, show
from jax import numpy as jnp
from readme import README, with_table

import fcf_jax as fcf
from fcf_jax.data.selection import of_users
from fcf_jax.evaluation import (
    equivalence_test,
    evaluation_data,
    paired_difference,
    popularity,
    summarize,
    user_metrics_of_factors,
    user_metrics_of_scores,
)
from fcf_jax.experiments.build.dataset import Dataset, load_datasets
from fcf_jax.experiments.build.devices import start_devices
from fcf_jax.experiments.build.problem import PlacedProblem, place, resolve
from fcf_jax.experiments.build.side_features import SideFeatures
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.loop import Learned

PAGE = README.parents[1] / "docs" / "cold-start.md"
MARGIN = 0.01  # of the mean without features
_FEATURE_KEY = "model.feature_regularization"
_SWEEPS = 15  # of each trial of --choose
_FEDERATED, _PLAIN, _ALS = "federated", "federated without features", "ALS"
_POPULARITY, _OF_FEATURES = "popularity", "popularity of features"
_SHOWN = {
    "items": ("cold_recall_at_{}", "cold_ndcg_at_{}", "warm_recall_at_{}"),
    "users": ("cold_user_recall_at_{}", "cold_user_ndcg_at_{}"),
    "all": ("recall_at_{}", "ndcg_at_{}", "map_at_{}"),
}

Metrics = dict[str, float]


# Training


def train_federated(placed: PlacedProblem) -> tuple[np.ndarray, np.ndarray | None]:
    """Run the rounds of the configuration; return item factors and user map."""
    problem, mesh = placed.problem, placed.mesh
    federation = problem.federation(mesh=mesh)
    state = federation.init(problem.key)
    if mesh is not None:
        state = fcf.parallel.place_state(state, mesh)
    num_rounds = problem.config.federation.num_rounds
    state, _ = fcf.run_rounds(federation, problem.key, state, placed.clients, num_rounds=num_rounds)
    return placed.fetched(Learned.of(state))


def train_als(
    placed: PlacedProblem, *, num_sweeps: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sweep until the loss has settled, or `num_sweeps` times; return item factors and user map."""
    problem, mesh = placed.problem, placed.mesh
    features = problem.dataset.features.of_items(problem.train)
    items = fcf.pack_items(problem.train, num_factors=problem.config.model.num_factors, features=features)
    items = items if mesh is None else fcf.parallel.place_clients(items, mesh)
    task = problem.model, problem.first_item_factors(), placed.clients, items
    if num_sweeps is None:
        found, info = fcf.als.converge_als(*task, mesh=mesh)
    else:
        found, info = fcf.als.run_sweeps(*task, num_sweeps=num_sweeps, mesh=mesh)
    user_map = None if info.user_map is None else np.asarray(info.user_map[-1], np.float32)
    return fcf.parallel.fetch(found), user_map


def without_features(dataset: Dataset) -> Dataset:
    """Return the data set as if nothing was known of users and items."""
    return dataset._replace(features=SideFeatures())


# Measuring


def measure_split(
    config: ExperimentConfig, plain_config: ExperimentConfig, dataset: Dataset, *, seed: int
) -> dict[str, Metrics]:
    """Train on one split with and without features; return the metrics by method."""
    placed = place(resolve(config, dataset))
    plain = place(resolve(plain_config, without_features(dataset)))
    found = {
        _FEDERATED: placed.measure(*train_federated(placed)),
        _ALS: placed.measure(*train_als(placed)),
        _PLAIN: plain.measure(*train_federated(plain)),
        _POPULARITY: placed.measure_popularity(),
        _OF_FEATURES: placed.measures.feature_popularity(),
    }
    for method, metrics in measure_cold_users(config, dataset, seed=seed).items():
        found.setdefault(method, {}).update(metrics)
    return found


def measure_cold_users(config: ExperimentConfig, dataset: Dataset, *, seed: int) -> dict[str, Metrics]:
    """Hold out a tenth of the users whole, train on the others, and rank by features alone."""
    whole = dataset.split.train
    order = np.random.default_rng(seed).permutation(whole.num_users)
    cold, others = np.split(order, [max(whole.num_users // 10, 1)])
    train, wanted = (of_users(whole, np.sort(users)) for users in (others, cold))
    split = dataclasses.replace(dataset.split, train=train, validation=None, test=train, cold=None)
    placed = place(resolve(config, dataset._replace(split=split)))
    item_factors, user_map = train_federated(placed)
    features = dataset.features.of_users(wanted)
    if user_map is None or features is None:
        return {}
    nothing = fcf.Interactions.from_arrays([], [], num_users=wanted.num_users, num_items=wanted.num_items)
    data, k, model = evaluation_data(nothing, wanted), config.evaluation.lengths, placed.problem.model
    factors = jnp.asarray(features @ user_map)
    ranked = {
        _FEDERATED: user_metrics_of_factors(model, factors, jnp.asarray(item_factors), data, k=k),
        _POPULARITY: user_metrics_of_scores(model, popularity(train), data, k=k),
    }
    return {
        method: {f"cold_user_{name}": value for name, value in summarize(metrics).items()}
        for method, metrics in ranked.items()
    }


def compared(with_features: list[Metrics], without: list[Metrics], names: list[str]) -> dict[str, Any]:
    """Compare both over the splits: difference of the means in percent, and p of the equivalence test.

    Empty for a single split.
    """
    result = {}
    if len(with_features) < 2:
        return result
    for name in names:
        ours, theirs = (np.array([one[name] for one in side]) for side in (with_features, without))
        result[name] = {
            "difference_percent": 100 * float(np.mean(ours - theirs)) / float(theirs.mean()),
            "tost_p": equivalence_test(ours, theirs, margin=MARGIN * float(theirs.mean())),
            "sd": paired_difference(ours, theirs).sd,
        }
    return result


# Choice of values


class Chosen(NamedTuple):
    """Overrides with chosen values, and all trials.

    Attributes:
        with_features: of the model with features.
        without: of the model without.
        trials: values that were tried, with their metric.
    """

    with_features: list[str]
    without: list[str]
    trials: list[dict[str, Any]]


def choose(source: str, overrides: list[str], dataset: Dataset, grid: dict[str, list[str]]) -> Chosen:
    """Choose values on the training set, split once more.

    Keys of the model are chosen by recall of the items that are not cold, for the model with features and for
    that without; the weight of the maps by recall of the cold items.
    """
    config = load_config(source, overrides)
    inner = dataset._replace(
        split=fcf.data.split_cold_items(
            dataset.split.train,
            cold_fraction=config.data.cold_fraction or 0.1,
            test_fraction=config.data.test_fraction,
            seed=config.data.seed,
        )
    )
    k, trials = config.evaluation.leading_k, []

    def best(given: list[str], keys: list[str], data: Dataset, metric: str) -> list[str]:
        of_stage = []
        for values in itertools.product(*(grid[key] for key in keys)) if keys else ():
            setting = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
            placed = place(resolve(load_config(source, [*given, *setting]), data))
            value = placed.measure(*train_als(placed, num_sweeps=_SWEEPS))[metric]
            of_stage.append({"setting": setting, "metric": metric, "value": value})
            print(f"{metric} {value:.4f}  {' '.join(setting)}", flush=True)
        trials.extend(of_stage)
        return max(of_stage, key=lambda trial: trial["value"])["setting"] if of_stage else []

    of_model = [key for key in grid if key != _FEATURE_KEY]
    of_maps = [key for key in grid if key == _FEATURE_KEY]
    without = [*overrides, *best(overrides, of_model, without_features(inner), f"recall_at_{k}")]
    chosen = [*overrides, *best(overrides, of_model, inner, f"recall_at_{k}")]
    chosen += best(chosen, of_maps, inner, f"cold_recall_at_{k}")
    return Chosen(chosen, without, trials)


# Page


def rows_of(document: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each method that has metrics of a part: "items", "users" or "all"."""
    names = [name.format(document["k"]) for name in _SHOWN[part]]
    for method, runs in document["methods"].items():
        cells = {}
        for name in names:
            values = np.array([run[name] for run in runs if run.get(name) is not None])
            cells[name] = (
                f"{values.mean():.4f} ± {values.std(ddof=1) if values.size > 1 else 0:.4f}"
                if values.size
                else None
            )
        if not any(cells.values()):
            continue
        row = {"data": document["name"], "method": method, **cells}
        if part == "all":
            losses = [run["loss"] for run in runs]
            row["loss"] = f"{np.mean(losses):.6g}" if method in (_FEDERATED, _ALS) else None
        yield row
    if part == "all" and (found := document["comparison"]):
        yield {
            "data": document["name"],
            "method": "features against none",
            **{name: "{difference_percent:+.2f} %, p = {tost_p:.4f}".format(**found[name]) for name in names},
            "loss": f"ALS {document['loss_difference']:+.1e}",
        }


def write_page(documents: list[dict[str, Any]]) -> None:
    """Write the tables of docs/cold-start.md."""
    text = PAGE.read_text()
    for part in _SHOWN:
        rows = [row for document in documents for row in rows_of(document, part)]
        text = with_table(text, f"cold_start.py, {part}", rows)
    PAGE.write_text(text)


def _grid(texts: list[str]) -> dict[str, list[str]]:
    pairs = (text.partition("=") for text in texts)
    return {key: values.split(",") for key, _, values in pairs}


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "source", nargs="?", metavar="CONFIG", help="a configuration with cold items and features"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--choose", action="append", default=[], metavar="SECTION.KEY=VALUE,VALUE")
    parser.add_argument("--name", help="name of the data in the tables; default: CONFIG")
    parser.add_argument("--num-splits", type=positive, default=5)
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE.json", help="write docs/cold-start.md")
    arguments = parser.parse_args()
    if arguments.table:
        write_page([json.loads(path.read_text()) for path in arguments.table])
    elif arguments.source is None:
        parser.error("expected CONFIG, or --table")
    else:
        publish(_measured(arguments), arguments.out)


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    source, overrides = arguments.source, arguments.overrides
    try:
        config = load_config(source, overrides)
        if config.data.split != "cold_items":
            raise ConfigError(f'data.split: expected "cold_items", got "{config.data.split}"; set it')
        start_devices(config.parallel)
        seeds = range(config.data.seed, config.data.seed + arguments.num_splits)
        datasets = load_datasets(config, list(seeds))
    except (ConfigError, OSError, ValueError) as error:
        sys.exit(str(error))
    chosen = choose(source, overrides, datasets[0], _grid(arguments.choose))
    methods: dict[str, list[Metrics]] = {}
    for seed, dataset in zip(seeds, datasets, strict=True):
        start = f"federation.seed={seed}"
        config = load_config(source, [*chosen.with_features, start])
        plain = load_config(source, [*chosen.without, start])
        for method, metrics in measure_split(config, plain, dataset, seed=seed).items():
            methods.setdefault(method, []).append(metrics)
        print(f"split {seed} done", flush=True)
    k = config.evaluation.leading_k
    losses = [np.mean([run["loss"] for run in methods[method]]) for method in (_FEDERATED, _ALS)]
    names = [name.format(k) for name in _SHOWN["all"]]
    document = {
        "name": arguments.name or source,
        "k": k,
        **chosen._asdict(),
        "methods": methods,
        "comparison": compared(methods[_FEDERATED], methods[_PLAIN], names),
        "loss_difference": float(losses[0] / losses[1] - 1),
    }
    for part in _SHOWN:
        show(f"{document['name']}, {part}, {arguments.num_splits} splits", rows_of(document, part))
    return document


if __name__ == "__main__":
    main()
