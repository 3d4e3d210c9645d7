"""One experiment: a federation and centralised ALS on the same data from the same start, on record."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fcf_jax.batching import batch_clients, batch_items, padding_factor
from fcf_jax.core.als import centralized_als
from fcf_jax.core.federation import Federation, federated_cf
from fcf_jax.core.server import ServerState
from fcf_jax.core.types import PackedClients, Weighting
from fcf_jax.experiments import run_directory
from fcf_jax.experiments.baseline import MAX_SWEEPS, converge_als, offsets_rmse
from fcf_jax.experiments.config import ExperimentConfig
from fcf_jax.experiments.dataset import Dataset, weighting_of
from fcf_jax.experiments.measuring import Measures, measures_of
from fcf_jax.experiments.placement import mesh_of, pack_on, runner_of
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report import write_report
from fcf_jax.experiments.steps import build_optimizer, payload_bytes
from fcf_jax.experiments.training import Divergence, Training, train
from fcf_jax.sharding import fetch


class DivergedError(RuntimeError):
    """Training was stopped because its loss rose beyond reason."""


class _Setup(NamedTuple):
    """What both sides of the comparison share."""

    config: ExperimentConfig
    dataset: Dataset
    weighting: Weighting
    clients: PackedClients
    measures: Measures
    mesh: Mesh | None
    model_options: dict[str, Any]

    @property
    def key(self):
        """The key of everything random; the same start for both sides comes from it."""
        return jax.random.key(self.config.federation.seed)

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return self.config.federation.cohort_size or self.dataset.split.train.num_users


def run_experiment(
    config: ExperimentConfig, dataset: Dataset, folder: Path, progress: ProgressLine
) -> dict[str, Any]:
    """Train, compare and write the run directory.

    Args:
        config: as `load_config` resolved it.
        dataset: what `load_dataset(config)` returned.
        folder: the run directory; it exists and is empty.
        progress: where to say how far it is.

    Returns:
        The content of `summary.json`.

    Raises:
        DivergedError: when training diverged; the last good item factors are in the run directory.
        OSError: when the run directory cannot be written.
    """
    run_directory.write_config(folder, config)
    run_directory.write_json(folder / "environment.json", run_directory.environment())
    setup = _set_up(config, dataset)
    training = _train(setup, folder, progress)
    item_factors = _item_factors(setup, training.state)
    _write_model(setup, item_factors, folder)
    if training.divergence is not None:
        raise DivergedError(_describe(training.divergence, config, folder))
    federated = _measure(setup, item_factors)
    centralized = _centralized(setup, training.records, progress) if config.evaluation.baseline else None
    run_directory.write_json_lines(folder / "metrics.jsonl", training.records)
    summary = _summarize(setup, training, federated, centralized)
    run_directory.write_json(folder / "summary.json", summary)
    write_report(folder)
    return summary


def _describe(divergence: Divergence, config: ExperimentConfig, folder: Path) -> str:
    if config.model.regularization == 0:
        remedy = "raise model.regularization"
    elif config.server.step == "guarded_gram":
        remedy = "raise server.initial_damping"
    else:
        remedy = 'lower server.learning_rate or set server.step = "guarded_gram"'
    return (
        f"diverged in round {divergence.round} (loss {divergence.loss:g}); the last good item factors are in "
        f"{folder}; {remedy}"
    )


def _set_up(config: ExperimentConfig, dataset: Dataset) -> _Setup:
    weighting = weighting_of(config, dataset.mean_rating)
    mesh, train = mesh_of(config), dataset.split.train
    clients = pack_on(mesh, partial(batch_clients, train), is_streamed=config.parallel.stream)
    model = config.model
    options = {
        "num_items": train.num_items,
        "num_factors": model.num_factors,
        "regularization": model.regularization,
        "unobserved_weight": model.unobserved_weight,
        "init_scale": model.init_scale,
        "mesh": mesh,
    }
    measures = measures_of(config, dataset, clients, weighting, mesh)
    return _Setup(config, dataset, weighting, clients, measures, mesh, options)


def _federation(setup: _Setup) -> Federation:
    cohort_size = setup.cohort_size if setup.cohort_size < setup.dataset.split.train.num_users else None
    optimizer = build_optimizer(setup.config)
    return federated_cf(optimizer, setup.weighting, cohort_size=cohort_size, **setup.model_options)


def _train(setup: _Setup, folder: Path, progress: ProgressLine) -> Training:
    num_rounds, k = setup.config.federation.num_rounds, setup.config.evaluation.k
    last_map = float("nan")

    def on_block(state: ServerState, records: list[dict[str, Any]], seconds: float, is_due: bool) -> None:
        nonlocal last_map
        latest = records[-1]
        done = latest["round"] + 1
        if is_due:
            measured = _measure(setup, _item_factors(setup, state))
            last_map = measured[f"map_at_{k}"]
            records.append({"kind": "evaluation", "round": done, **measured})
        run_directory.write_json_lines(folder / "metrics.jsonl", records)
        progress.show(
            "round",
            done,
            num_rounds,
            f"{1 / seconds:.3g} rounds/s  {setup.cohort_size / seconds:.3g} clients/s  "
            f"loss {latest['loss']:.6g}  MAP@{k} {last_map:.4f}",
        )

    runner = runner_of(_federation(setup), setup.key, setup.clients, setup.mesh, setup.config)
    training = train(runner, setup.config, on_block=on_block)
    run_directory.write_json_lines(folder / "metrics.jsonl", training.records)
    return training


def _centralized(setup: _Setup, records: list[dict[str, Any]], progress: ProgressLine) -> dict[str, float]:
    als = centralized_als(setup.weighting, **setup.model_options)
    items = pack_on(setup.mesh, partial(batch_items, setup.dataset.split.train), is_streamed=False)
    clients = setup.clients
    if setup.config.parallel.stream:  # the yardstick holds everything
        clients = pack_on(setup.mesh, partial(batch_clients, setup.dataset.split.train), is_streamed=False)
    baseline = converge_als(
        als,
        setup.key,
        clients,
        items,
        on_block=lambda done, loss: progress.show("ALS sweep", done, MAX_SWEEPS, f"loss {loss:.6g}"),
    )
    records += [
        {"kind": "als_sweep", "round": sweep, "loss": loss} for sweep, loss in enumerate(baseline.losses)
    ]
    return _measure(setup, fetch(baseline.item_factors))


def _item_factors(setup: _Setup, state: ServerState) -> np.ndarray:
    """Bring the item factors here, without the rows that fill up the last device."""
    return fetch(state.item_factors)[: setup.dataset.split.train.num_items]


def _measure(setup: _Setup, item_factors: np.ndarray) -> dict[str, float]:
    return {**setup.measures.metrics(item_factors), "loss": setup.measures.loss(item_factors)}


def _summarize(
    setup: _Setup, training: Training, federated: dict[str, float], centralized: dict[str, float] | None
) -> dict[str, Any]:
    config, split = setup.config, setup.dataset.split
    up, down = payload_bytes(config, num_items=split.train.num_items)
    seconds = training.seconds_per_round
    summary = {
        "federated": federated,
        "centralized": centralized,
        "difference_percent": None if centralized is None else difference_percent(federated, centralized),
        "num_users": split.train.num_users,
        "num_items": split.train.num_items,
        "num_interactions": split.train.num_interactions
        + split.test.num_interactions
        + (0 if split.validation is None else split.validation.num_interactions),
        "num_train_interactions": split.train.num_interactions,
        "num_test_interactions": split.test.num_interactions,
        "num_users_without_test": split.num_users_without_test,
        "num_users_without_train": split.num_users_without_train,
        "num_factors": config.model.num_factors,
        "padding_factor": padding_factor(setup.clients),
        "cohort_size": setup.cohort_size,
        "num_rounds": config.federation.num_rounds,
        "seconds_per_round": seconds,
        "clients_per_second": setup.cohort_size / seconds if seconds else None,
        "payload_bytes_up": up,
        "payload_bytes_down": down,
        "resumed_from_rounds": [],
        "data_counts": setup.dataset.counts,
        "data_fingerprint": split.train.fingerprint(),
    }
    if config.data.feedback == "explicit":
        summary["explicit_baseline_rmse"] = offsets_rmse(split.train, split.test)
    return summary


def difference_percent(federated: dict[str, float], centralized: dict[str, float]) -> dict[str, float]:
    """Compute 100 (federated - centralized) / |centralized| of every number; nan where that is 0."""
    return {
        name: 100 * (federated[name] - value) / abs(value) if value else float("nan")
        for name, value in centralized.items()
    }


def _write_model(setup: _Setup, item_factors: np.ndarray, folder: Path) -> None:
    train = setup.dataset.split.train
    labels = np.arange(train.num_items) if train.item_labels is None else train.item_labels
    run_directory.write_item_factors(folder, item_factors, labels, mean_rating=setup.dataset.mean_rating)
