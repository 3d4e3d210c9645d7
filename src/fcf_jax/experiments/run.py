"""`fcf run`: a federation and centralised ALS on the same data from the same start, recorded."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from fcf_jax.als import converge_als
from fcf_jax.core.packing import pack_clients, pack_items, padding_factor
from fcf_jax.experiments.build.devices import pack_on
from fcf_jax.experiments.build.measuring import offsets_rmse
from fcf_jax.experiments.build.problem import Problem, Setup, described_sums, set_up
from fcf_jax.experiments.errors import DivergedError
from fcf_jax.experiments.loop import Training, seconds_per_round
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.recording import NEVER, Stop, latest_measures, train_on_record
from fcf_jax.experiments.report.page import write_report
from fcf_jax.experiments.store.budget import budget_of
from fcf_jax.experiments.store.run_directory import METRICS, SUMMARY, write_item_factors
from fcf_jax.experiments.store.summary import Summary
from fcf_jax.parallel.mesh import fetch


def run_experiment(
    problem: Problem, folder: Path, progress: ProgressLine, *, resume: bool = False, stop: Stop = NEVER
) -> Summary:
    """Train, from the latest checkpoint on if there is one, compare with ALS and write the run directory.

    Args:
        problem: from `resolve`.
        folder: the run directory, which `run_directory.claimed` made.
        progress: shows how far training is.
        resume: whether a checkpoint is expected; if there is none, `progress` says so.
        stop: entered while rounds run; what it yields is asked after each block of rounds.

    Returns:
        The content of `summary.json`.

    Raises:
        DivergedError: when training diverged; the last good item factors are in the run directory.
        StoppedError: when a stop was asked for while rounds ran; a checkpoint is written.
        CheckpointError: when the checkpoint is one of another run.
        OSError: when the run directory cannot be written.
    """
    setup = set_up(problem)
    training = train_on_record(setup, folder, progress, resume=resume, stop=stop)
    item_factors = setup.item_factors(training.state)
    _write_model(problem, item_factors, folder)
    if training.divergence is not None:
        raise DivergedError(
            f"diverged in round {training.divergence.round} (loss {training.divergence.loss:g}); "
            f"the last good item factors are in {folder}; {problem.divergence_remedy}"
        )
    federated = latest_measures(training) or setup.measure(item_factors)
    has_baseline = problem.config.evaluation.baseline
    centralized = _centralized(setup, training.records, progress) if has_baseline else None
    METRICS.write(folder, training.records)
    summary = _summarize(setup, training, federated, centralized)
    if (budget := budget_of(problem, folder)) is not None:
        summary["privacy"] = budget.stated()
    SUMMARY.write(folder, summary)
    write_report(folder)
    return summary


def _centralized(setup: Setup, records: list[dict[str, Any]], progress: ProgressLine) -> dict[str, float]:
    problem, mesh = setup.problem, setup.mesh
    items = pack_on(mesh, partial(pack_items, problem.train), is_streamed=False)
    clients = setup.clients
    if problem.config.parallel.stream:  # the baseline holds everything
        clients = pack_on(mesh, partial(pack_clients, problem.train), is_streamed=False)
    item_factors, losses = converge_als(
        problem.model,
        problem.first_item_factors(),
        clients,
        items,
        mesh=mesh,
        on_block=lambda done, loss: progress.show("ALS sweep", done, None, f"loss {loss:.6g}"),
    )
    records += [{"kind": "als_sweep", "round": sweep, "loss": loss} for sweep, loss in enumerate(losses)]
    return setup.measure(fetch(item_factors))


def _summarize(
    setup: Setup, training: Training, federated: dict[str, float], centralized: dict[str, float] | None
) -> Summary:
    problem, config, split = setup.problem, setup.problem.config, setup.problem.dataset.split
    up, down = problem.payload_bytes
    seconds = seconds_per_round(training, problem.schedule)
    summary: Summary = {
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
        "cohort_size": problem.cohort_size,
        "num_rounds": config.federation.num_rounds,
        "seconds_per_round": seconds,
        "clients_per_second": problem.cohort_size / seconds if seconds else None,
        "payload_bytes_up": up,
        "payload_bytes_down": down,
        "resumed_from_rounds": training.starts,
        "data_counts": problem.dataset.counts,
        "data_fingerprint": split.train.fingerprint(),
    }
    if config.data.feedback == "explicit":
        summary["explicit_baseline_rmse"] = offsets_rmse(split.train, split.test)
    return cast(Summary, {**summary, **described_sums(problem, training.records)})


def difference_percent(federated: dict[str, float], centralized: dict[str, float]) -> dict[str, float]:
    """Compute 100 (federated - centralized) / |centralized| of every number; nan where that is 0."""
    return {
        name: 100 * (federated[name] - value) / abs(value) if value else float("nan")
        for name, value in centralized.items()
    }


def _write_model(problem: Problem, item_factors: np.ndarray, folder: Path) -> None:
    train = problem.train
    labels = np.arange(train.num_items) if train.item_labels is None else train.item_labels
    write_item_factors(folder, item_factors, labels, mean_rating=problem.dataset.mean_rating)
