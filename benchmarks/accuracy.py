"""Accuracy by published protocols: the federation, ALS and peers, with the same files and metrics.

Every method trains the same model (alpha, lambda, w0 and the exponent of the configuration) from the same
start, for as many rounds, sweeps or iterations; its item factors are scored by the same code, which solves
the users from their histories. Seeds are those of the start. Popularity is the floor. Published figures stand
beside, with their source.

    python benchmarks/accuracy.py movielens-1m-ncf --set data.path=ml-1m \
        --set data.negatives_path=ml-1m.test.negative --num-factors 64 192 --out ncf.json
    python benchmarks/accuracy.py published-split --set data.train_path=train.txt \
        --set data.test_path=test.txt --name "Last.fm (LightGCN)" --out lastfm.json
    python benchmarks/accuracy.py --table ncf.json lastfm.json    # writes the tables of docs/accuracy.md

With --num-factors, lambda and the number of rounds may be given for each: --regularization 43 60.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import argument_parser, positive, publish, show
from contenders import installed
from peers import MISSING, PEERS, Task, single_threaded_blas
from readme import README, cell, marks, with_table

import fcf_jax as fcf
from fcf_jax.experiments.build.dataset import Dataset, load_dataset
from fcf_jax.experiments.build.devices import start_devices
from fcf_jax.experiments.build.problem import PlacedProblem, place, resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError

PAGE = README.parents[1] / "docs" / "accuracy.md"
_NUMBERS = ("alpha", "unobserved_weight", "regularization", "regularization_exponent")
_SETTING = "alpha, w0, lambda, nu"
_PEERS = ("implicit_cg", "irspack_cg", "irspack_exact")


class Published(NamedTuple):
    """A published figure.

    Attributes:
        protocol: name of the configuration whose protocol it follows.
        method: as its authors call it.
        num_factors: K.
        metrics: by name.
        source: where it is published.
    """

    protocol: str
    method: str
    num_factors: int
    metrics: dict[str, float]
    source: str


PUBLISHED = tuple(
    Published(
        "movielens-1m-ncf",
        "iALS",
        num_factors,
        {"sampled_hit_rate_at_10": hit_rate, "sampled_ndcg_at_10": ndcg},
        "Rendle et al., RecSys 2022",
    )
    for num_factors, hit_rate, ndcg in ((64, 0.7217, 0.4444), (192, 0.7280, 0.4524))
)


class Protocol(NamedTuple):
    """What is measured.

    Attributes:
        source: name or path of the configuration.
        overrides: of the configuration.
        dataset: its data.
        metrics: names of the metrics that the protocol reports.
    """

    source: str
    overrides: tuple[str, ...]
    dataset: Dataset
    metrics: tuple[str, ...]


def placed_problem(protocol: Protocol, setting: dict[str, Any], seed: int) -> PlacedProblem:
    """Resolve and place the problem of one setting and seed of the start."""
    values = [f"{key}={value}" for key, value in setting.items()]
    config = load_config(protocol.source, [*protocol.overrides, *values, f"federation.seed={seed}"])
    return place(resolve(config, protocol.dataset))


def trainings(placed: PlacedProblem, seed: int, peers: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Train each method; yield its name and item factors."""
    problem, mesh = placed.problem, placed.mesh
    config, num_rounds = problem.config, problem.config.federation.num_rounds
    federation = problem.federation(mesh=mesh)
    state = federation.init(problem.key)
    if mesh is not None:
        state = fcf.parallel.place_state(state, mesh)
    state, _ = fcf.run_rounds(federation, problem.key, state, placed.clients, num_rounds=num_rounds)
    yield "federated", placed.item_factors(state.item_factors)
    items = fcf.pack_items(problem.train, num_factors=config.model.num_factors)
    items = items if mesh is None else fcf.parallel.place_clients(items, mesh)
    start = problem.first_item_factors()
    found, _ = fcf.als.run_sweeps(
        problem.model, start, placed.clients, items, num_sweeps=num_rounds, mesh=mesh
    )
    yield "ALS", fcf.parallel.fetch(found)
    from scipy.sparse import csr_matrix

    task = Task(
        csr_matrix(problem.train.to_scipy()),
        np.array(start),
        config.model.alpha,
        config.model.regularization,
        seed,
        config.model.regularization_exponent,
        config.model.unobserved_weight,
    )
    for peer in peers:
        if task.exponent and PEERS[peer].package == "implicit":
            continue  # it has one lambda for all
        with single_threaded_blas():
            iterations = PEERS[peer].prepare(task)
            iterations.run(num_rounds)
        yield peer, np.asarray(iterations.item_factors())


def measure_setting(
    protocol: Protocol, setting: dict[str, Any], *, num_seeds: int, peers: list[str]
) -> dict[str, Any]:
    """Measure all methods at one setting, over seeds of the start."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(num_seeds):
        placed = placed_problem(protocol, setting, seed)
        for name, item_factors in trainings(placed, seed, peers):
            found.setdefault(name, []).append(placed.measure(item_factors))
            print(f"seed {seed}  {name:14}{_in_words(protocol.metrics, found[name][-1])}", flush=True)
    popularity = placed.measure_popularity()
    model = placed.problem.config.model
    return {
        "setting": {
            "num_factors": model.num_factors,
            "alpha": model.alpha,
            "regularization": model.regularization,
            "regularization_exponent": model.regularization_exponent,
            "unobserved_weight": model.unobserved_weight,
            "num_rounds": placed.problem.config.federation.num_rounds,
        },
        "seeds": num_seeds,
        "methods": {name: _spread(runs) for name, runs in found.items()},
        "popularity": {name: popularity[name] for name in protocol.metrics},
    }


def _spread(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    of_metric = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    return {
        name: {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if values.size > 1 else 0.0}
        for name, values in of_metric.items()
    }


def _in_words(metrics: tuple[str, ...], found: dict[str, float]) -> str:
    return "  ".join(f"{name} {found[name]:.4f}" for name in metrics)


def _metrics_of(source: str, overrides: list[str], dataset: Dataset) -> tuple[str, ...]:
    config = load_config(source, overrides)
    if dataset.split.negatives is not None:
        return tuple(f"sampled_{name}_at_{config.evaluation.leading_k}" for name in ("hit_rate", "ndcg"))
    if config.data.split == "strong":
        return ("normalized_recall_at_20", "normalized_recall_at_50", "ndcg_at_100")
    return tuple(f"{name}_at_{config.evaluation.leading_k}" for name in ("recall", "ndcg"))


# Page


def write_page(documents: list[dict[str, Any]]) -> None:
    """Write a table for each protocol into docs/accuracy.md; the page names those it has a place for."""
    text = PAGE.read_text()
    for protocol in {document["protocol"]: None for document in documents}:
        begin, _ = marks(f"accuracy.py, {protocol}")
        if begin not in text:
            raise ValueError(f"{PAGE.name}: expected {begin}; put the two marks where the table shall stand")
        rows = [row for document in documents if document["protocol"] == protocol for row in _rows(document)]
        text = with_table(text, f"accuracy.py, {protocol}", sorted(rows, key=lambda row: row["K"]))
    PAGE.write_text(text)


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    metrics = document["metrics"]
    for result in document["results"]:
        setting = result["setting"]
        head = {
            "K": setting["num_factors"],
            _SETTING: ", ".join(cell(setting[key]) for key in _NUMBERS),
            "rounds": setting["num_rounds"],
        }
        for name, found in result["methods"].items():
            cells = {key: f"{found[key]['mean']:.4f} ± {found[key]['sd']:.4f}" for key in metrics}
            yield {"method": name.replace("_", " "), **head, **cells, "from": f"{result['seeds']} starts"}
        floor = {key: f"{result['popularity'][key]:.4f}" for key in metrics}
        yield {
            "method": "popularity",
            **head,
            _SETTING: None,
            "rounds": None,
            **floor,
            "from": None,
        }
    for one in PUBLISHED:
        if one.protocol == document["source"]:
            cells = {key: f"{one.metrics[key]:.4f}" if key in one.metrics else None for key in metrics}
            yield {
                "method": f"published {one.method}", "K": one.num_factors, _SETTING: None,
                "rounds": None, **cells, "from": one.source,
            }  # fmt: skip


def _settings(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Combine the K with what is given for each."""
    columns = {
        "model.num_factors": arguments.num_factors,
        "model.regularization": arguments.regularization,
        "federation.num_rounds": arguments.num_rounds,
    }
    given = {key: values for key, values in columns.items() if values}
    lengths = {len(values) for values in given.values()}
    if len(lengths) > 1:
        sys.exit(f"expected as many values of each, got {', '.join(map(str, lengths))}")
    for values in zip(*given.values(), strict=True) if given else [()]:
        yield dict(zip(given, values, strict=True))


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument("source", nargs="?", metavar="CONFIG", help="a configuration with its protocol")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--name", help="name of the table in the page; default: CONFIG")
    parser.add_argument("--num-factors", type=positive, nargs="+", default=[])
    parser.add_argument("--regularization", type=float, nargs="+", default=[], help="one for each K")
    parser.add_argument("--num-rounds", type=positive, nargs="+", default=[], help="one for each K")
    parser.add_argument("--num-seeds", type=positive, default=5)
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=list(_PEERS))
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE.json", help="write docs/accuracy.md")
    arguments = parser.parse_args()
    if arguments.table:
        write_page([json.loads(path.read_text()) for path in arguments.table])
        return
    if arguments.source is None:
        parser.error("expected CONFIG, or --table")
    try:
        config = load_config(arguments.source, arguments.overrides)
    except ConfigError as error:
        sys.exit(str(error))
    start_devices(config.parallel)
    dataset = load_dataset(config)
    protocol = Protocol(
        arguments.source,
        tuple(arguments.overrides),
        dataset,
        _metrics_of(arguments.source, arguments.overrides, dataset),
    )
    peers, missing = installed(arguments.peers)
    if missing:
        print(MISSING.format(", ".join(missing)))
    results = [
        measure_setting(protocol, setting, num_seeds=arguments.num_seeds, peers=peers)
        for setting in _settings(arguments)
    ]
    document = {
        "protocol": arguments.name or arguments.source,
        "source": arguments.source,
        "metrics": protocol.metrics,
        "results": results,
    }
    show(f"{document['protocol']}, mean over {arguments.num_seeds} starts", _rows(document))
    publish(document, arguments.out)


if __name__ == "__main__":
    main()
