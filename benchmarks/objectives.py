"""Objectives side by side: squared errors with and without biases, logistic loss and BPR.

lambda of each is the best on a validation set, by NDCG@10 of the federation. Then the federation is trained
without the validation set from several starts, beside joint training of users and items by L-BFGS from the
same start, and both are ranked on the test set. The excess loss is that of the federation over the lower of
the two: what federating costs.

    python benchmarks/objectives.py ml-100k --out objectives.json
    python benchmarks/objectives.py --table objectives.json    # writes the table of docs/objectives.md
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import add_data_arguments, argument_parser, positive, publish, read_data, show
from readme import README, cell, with_table

import fcf_jax as fcf
from fcf_jax.core.objective import for_items, total_loss

PAGE = README.parents[1] / "docs" / "objectives.md"
_METRICS = ("ndcg_at_10", "map_at_10", "recall_at_10", "auc")
_LEAST_GAIN = 1e-5  # of the loss in a round, below which training ends
_BLOCK = 10  # rounds of a program


class Kind(NamedTuple):
    """What is compared.

    Attributes:
        objective: of the clients; None: squared errors over all items.
        biases: None without.
        lambdas: from which one is chosen.
    """

    objective: fcf.objectives.Objective | None
    biases: fcf.objectives.Biases | None
    lambdas: tuple[float, ...]


_BIASES = fcf.objectives.biases()
_OF_ALL, _OF_SAMPLES = (10.0, 30.0, 60.0, 100.0), (5.0, 10.0, 20.0)
KINDS = {
    "squared errors": Kind(None, None, _OF_ALL),
    "squared errors, biases": Kind(None, _BIASES, _OF_ALL),
    "logistic": Kind(fcf.objectives.logistic(), None, _OF_SAMPLES),
    "logistic, biases": Kind(fcf.objectives.logistic(), _BIASES, _OF_SAMPLES),
    "BPR": Kind(fcf.objectives.bpr(), None, _OF_SAMPLES),
}


class Setting(NamedTuple):
    """What all kinds share."""

    num_factors: int
    alpha: float
    num_negatives: int
    num_rounds: int
    num_steps: int


def model_of(kind: Kind, setting: Setting, regularization: float) -> fcf.Model:
    """Build the model; alpha counts for squared errors only."""
    is_squared = kind.objective is None
    weigh = fcf.objectives.sampled_feedback if kind.objective == _LOGISTIC else fcf.implicit_feedback
    return fcf.Model(
        weigh(alpha=setting.alpha if is_squared else 0.0),
        regularization,
        1.0 if is_squared else 0.0,
        solve_tolerance=0.003,
        objective=kind.objective,
        biases=kind.biases,
    )


_LOGISTIC = fcf.objectives.logistic()


def compared(kind: Kind, setting: Setting, histories: fcf.Interactions, seed: int) -> Any:
    """Add the negatives that the objective compares with."""
    if kind.objective is None:
        return histories
    sample = fcf.data.with_pairs if kind.objective.is_pairwise else fcf.data.with_negatives
    return sample(histories, num_negatives=setting.num_negatives, seed=seed)


def federated(model: fcf.Model, clients: fcf.PackedClients, setting: Setting, seed: int) -> tuple[Any, int]:
    """Train until the loss has settled; return the item factors and the number of rounds."""
    federation = fcf.federated_cf(
        model,
        fcf.guarded_gram(),
        num_items=clients.item_counts.shape[0],
        num_factors=setting.num_factors,
    )
    key = jax.random.key(seed)
    state, before, done = federation.init(key), np.inf, 0
    while done < setting.num_rounds:
        state, info = fcf.run_rounds(federation, key, state, clients, num_rounds=_BLOCK)
        done, after = done + _BLOCK, float(np.min(info.loss))
        if before - after < _BLOCK * _LEAST_GAIN * after:
            break
        before = after
    return state.item_factors, done


def loss_of(model: fcf.Model, item_factors: Any, clients: fcf.PackedClients) -> float:
    """Compute min_X J(X, Y), solved to rounding."""
    return float(_losses(model._replace(solve_tolerance=0.0), item_factors, clients))


@jax.jit
def _losses(model: fcf.Model, item_factors: Any, clients: fcf.PackedClients) -> Any:
    sums, _ = fcf.cohort_sum(model, item_factors, clients)
    of_items = for_items(model, clients.item_counts, clients.row_counts.shape[0])
    return total_loss(of_items, item_factors, sums.loss)


def choose(kind: Kind, setting: Setting, train: Any, validation: Any) -> tuple[float, dict[float, float]]:
    """Return the lambda with the best NDCG@10 on the validation set, and that of all."""
    histories = compared(kind, setting, train, 0)
    clients, found = fcf.pack_clients(histories, num_factors=setting.num_factors), {}
    for regularization in kind.lambdas:
        model = model_of(kind, setting, regularization)
        item_factors, _ = federated(model, clients, setting, 0)
        found[regularization] = fcf.evaluate(model, item_factors, histories, validation)["ndcg_at_10"]
    return max(found, key=lambda one: found[one]), found


def measure_kind(kind: Kind, setting: Setting, data: fcf.Interactions, seeds: int) -> dict[str, Any]:
    """Choose lambda, then train from several starts on several splits."""
    split = fcf.split_per_user(data, test_fraction=0.2, validation_fraction=0.1, seed=0)
    chosen, by_lambda = choose(kind, setting, split.train, split.validation)
    model, runs = model_of(kind, setting, chosen), []
    for seed in range(seeds):
        split = fcf.split_per_user(data, test_fraction=0.2, seed=seed)
        histories = compared(kind, setting, split.train, seed)
        clients = fcf.pack_clients(histories, num_factors=setting.num_factors)
        ours, num_rounds = federated(model, clients, setting, seed)
        federation = fcf.federated_cf(
            model, fcf.guarded_gram(), num_items=data.num_items, num_factors=setting.num_factors
        )
        start = federation.init(jax.random.key(seed)).item_factors
        theirs, _ = fcf.joint.fit_jointly(model, start, clients, num_steps=setting.num_steps)
        losses = [loss_of(model, factors, clients) for factors in (ours, theirs)]
        runs.append(
            {
                "num_rounds": num_rounds,
                "loss": losses[0],
                "joint_loss": losses[1],
                "federated": fcf.evaluate(model, ours, histories, split.test),
                "joint": fcf.evaluate(model, theirs, histories, split.test),
            }
        )
    return {"regularization": chosen, "validation_ndcg": by_lambda, "runs": runs}


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in document["kinds"].items():
        runs = found["runs"]
        excess = [100 * (run["loss"] / run["joint_loss"] - 1) for run in runs]
        cells = {}
        for side in ("federated", "joint"):
            for metric in _METRICS[: 2 if side == "joint" else None]:
                values = np.array([run[side][metric] for run in runs])
                spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
                cells[f"{metric}, {side}"] = f"{values.mean():.4f}{spread}"
        yield {
            "objective": name,
            "lambda": cell(found["regularization"]),
            "rounds": cell(float(np.median([run["num_rounds"] for run in runs]))),
            "loss above joint training, %": f"{np.mean(excess):+.3f} (worst {max(excess):+.3f})",
            **cells,
        }


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--alpha", type=float, default=4.0, help="of squared errors")
    parser.add_argument("--num-negatives", type=positive, default=10)
    parser.add_argument("--num-rounds", type=positive, default=200, help="at most")
    parser.add_argument("--num-steps", type=positive, default=400, help="of L-BFGS")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="write docs/objectives.md")
    arguments = parser.parse_args()
    if arguments.table:
        document = json.loads(arguments.table.read_text())
        PAGE.write_text(with_table(PAGE.read_text(), "objectives.py", _rows(document)))
        return
    setting = Setting(**{name: getattr(arguments, name) for name in Setting._fields})
    data, kinds = read_data(arguments).binarized(), {}
    for name in arguments.kinds:
        kinds[name] = measure_kind(KINDS[name], setting, data, arguments.seeds)
        show(name, _rows({"kinds": {name: kinds[name]}}))
    publish({"setting": setting._asdict(), "kinds": kinds}, arguments.out)


if __name__ == "__main__":
    main()
