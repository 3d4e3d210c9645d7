"""`fcf compare`: replicates of the paper's experiment, FCF and centralised ALS side by side.

On both sides, replicate b starts from the seed `federation.seed` + b and splits the data with `data.seed`
+ b; K, alpha and lambda are the same. Both sides run until the relative decrease of the loss is below 1e-5 in
every replicate: ALS at least 40 sweeps, the federation at least `federation.num_rounds` rounds.
"""

import time
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from fcf_jax.experiments.build.dataset import Dataset, has_random_split, load_datasets
from fcf_jax.experiments.build.facts import facts_of
from fcf_jax.experiments.build.new_items import OF_NEW_ITEMS
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.cautions import cautions
from fcf_jax.experiments.compare.curves import CENTRALIZED, FEDERATED, POPULARITY
from fcf_jax.experiments.compare.replicates import (
    difference_between,
    metrics_by_replicate,
    metrics_by_user,
    prepare_replicates,
)
from fcf_jax.experiments.compare.statistics import (
    Statistics,
    compare_replicates,
    compare_users,
    headline,
    spread_of,
    unproven_metrics,
    verdict,
    worse_metrics,
)
from fcf_jax.experiments.compare.training import Trained, train_replicates
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.loop import NEVER, Stop
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report.figures import write_comparison_figures
from fcf_jax.experiments.report.tables import write_comparison_tables
from fcf_jax.experiments.store.resume import open_checkpoints
from fcf_jax.messages import count_of


def load_splits(config: ExperimentConfig) -> list[Dataset]:
    """Load the data once and split them for each replicate, or once if the split is not random.

    Raises:
        ValueError: in one line, for bad data or numbers that do not fit them.
        OSError: if the data cannot be read.
    """
    num_replicates = config.comparison.num_builds
    datasets = load_datasets(config, [config.data.seed + index for index in range(num_replicates)])
    check(config, "compare", facts_of(config, *datasets, num_replicates=num_replicates))
    return datasets


def run_comparison(
    problem: Problem,
    datasets: list[Dataset],
    folder: Path,
    progress: ProgressLine,
    *,
    mesh: Mesh | None = None,
    resume: bool = False,
    stop: Stop = NEVER,
) -> dict[str, Any]:
    """Train all replicates of both sides, starting from the latest checkpoint, and compare them.

    Args:
        problem: `resolve(config, *datasets)`.
        datasets: from `load_splits(config)`.
        folder: where to write, made by `run_directory.claimed`.
        progress: shows the progress.
        mesh: devices that share the replicates, from `replicate_mesh`; None: one device.
        resume: whether a checkpoint is expected; without one, `progress` reports that training starts anew.
        stop: entered while rounds and sweeps run; yields a function that is called after each block and
            returns True to stop.

    Returns:
        The content of `comparison.json`.

    Raises:
        DivergedError: if a replicate diverged.
        StoppedError: if a stop was requested; a checkpoint is written.
        CheckpointError: if the checkpoint belongs to another comparison.
        OSError: if the folder cannot be written.
    """
    started, k = time.perf_counter(), problem.config.evaluation.lengths
    splits = [dataset.split for dataset in datasets]
    checkpoints = open_checkpoints(folder, problem.config, *splits, on_damaged=progress.say)
    replicates = prepare_replicates(problem, datasets, mesh)
    trained = train_replicates(replicates, problem, checkpoints, folder, progress, resume=resume, stop=stop)
    assessments = {CENTRALIZED: trained.centralized, FEDERATED: trained.federated}
    sides = {side: metrics_by_replicate(assessment, k=k) for side, assessment in assessments.items()}
    users = {side: metrics_by_user(assessment) for side, assessment in assessments.items()}
    sides[POPULARITY] = replicates.popularity()
    metrics = compare_replicates(
        sides[CENTRALIZED], sides[FEDERATED], margin_percent=problem.config.comparison.margin_percent
    )
    by_user = compare_users(users[CENTRALIZED], users[FEDERATED])
    for name, statistics in metrics.items():
        statistics["per_user"] = by_user.get(name)
        statistics |= spread_of(POPULARITY, sides[POPULARITY][name])
    document = _document(problem, trained, metrics)
    document["seconds"] = time.perf_counter() - started
    write_comparison_figures(folder, document, trained.curves, users)
    write_comparison_tables(folder, document, sides)
    checkpoints.discard()
    return document


def _document(problem: Problem, trained: Trained, metrics: dict[str, Statistics]) -> dict[str, Any]:
    """Return the content of `comparison.json`: metrics, the verdict on them, then circumstances.

    The verdict is on the whole catalogue: cold and warm items are few, and so are their users.
    """
    config, comparison = problem.config, problem.config.comparison
    differences = difference_between(trained.federated, trained.centralized)
    judged = {name: one for name, one in metrics.items() if not name.startswith(OF_NEW_ITEMS)}
    return {
        "num_builds": comparison.num_builds,
        "k": config.evaluation.leading_k,
        "margin_percent": comparison.margin_percent,
        "tolerance_percent": comparison.tolerance_percent,
        "metrics": metrics,
        "popularity": {name: one["popularity_mean"] for name, one in metrics.items()},
        "headline": headline(judged, margin_percent=comparison.margin_percent),
        "verdict": verdict(
            judged,
            num_replicates=comparison.num_builds,
            margin_percent=comparison.margin_percent,
            tolerance_percent=comparison.tolerance_percent,
        ),
        "worse_metrics": worse_metrics(judged, tolerance_percent=comparison.tolerance_percent),
        "unproven_metrics": unproven_metrics(judged),
        "notes": _notes(problem, trained, metrics),
        **{name: float(values.mean()) for name, values in differences.items()},
        **_circumstances(problem, trained),
    }


def _circumstances(problem: Problem, trained: Trained) -> dict[str, Any]:
    config, train = problem.config, problem.train
    federation, model = config.federation, config.model
    replicates, is_random = range(config.comparison.num_builds), has_random_split(config.data)
    ledger = problem.ledger
    return {
        "start_seeds": [federation.seed + index for index in replicates],
        "split_seeds": [config.data.seed + index * is_random for index in replicates],
        "num_rounds": trained.num_rounds,
        "num_sweeps": trained.num_sweeps,
        "resumed_from_rounds": trained.starts,
        "num_users": train.num_users,
        "num_items": train.num_items,
        "num_train_interactions": train.num_interactions,
        "num_test_interactions": problem.dataset.split.test.num_interactions,
        "num_factors": model.num_factors,
        "alpha": model.alpha,
        "regularization": model.regularization,
        "server_step": config.server.step,
        "cohort_size": problem.cohort_size,
        "payload_bytes_up": round(ledger["bytes_up"]["mean"]),
        "payload_bytes_down": round(ledger["bytes_down"]["mean"]),
        "data_counts": problem.dataset.counts,
    }


def _notes(problem: Problem, trained: Trained, metrics: dict[str, Statistics]) -> list[str]:
    """Return notes that go beside the verdict."""
    notes, config = [], problem.config
    if not has_random_split(config.data) and config.comparison.num_builds > 1:
        notes.append(
            f'The split "{config.data.split}" is not random: replicates differ in their starting point only.'
        )
    if trained.num_rounds >= problem.config.comparison.max_rounds > 0 and not trained.is_settled:
        notes.append(f"The loss of the federation has not settled after {trained.num_rounds} rounds.")
    if trained.num_unsettled:
        notes.append(
            f"ALS has not converged in {count_of(trained.num_unsettled, 'replicate')} after "
            f"{count_of(trained.num_sweeps, 'sweep')}."
        )
    return notes + _cautions(problem, metrics)


def _cautions(problem: Problem, metrics: dict[str, Statistics]) -> list[str]:
    """Return warnings about strengths, and about sides that rank below popularity on average."""
    config = problem.config
    if config.data.feedback == "explicit":
        return []
    means = {
        side: {name: one[f"{side}_mean"] for name, one in metrics.items()}
        for side in (FEDERATED, CENTRALIZED, POPULARITY)
    }
    popularity = means.pop(POPULARITY)
    if None in popularity.values():  # no test items
        return []
    return cautions(config, problem.train, means, popularity)
