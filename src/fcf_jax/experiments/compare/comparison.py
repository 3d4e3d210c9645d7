"""`fcf compare`: the paper's experiment, repeated; builds of FCF and of centralised ALS side by side.

Build b starts from the seed `federation.seed` + b and splits with `data.seed` + b, on both sides;
K, alpha and lambda are the same. ALS of every build sweeps until its loss falls by less than 1e-5
of itself, at least 40 times.
"""

import time
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from fcf_jax.experiments.build.dataset import Dataset, has_random_split, load_datasets
from fcf_jax.experiments.build.fixed_point import facts_of
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.compare.assessment import difference_between, metrics_of_builds, metrics_of_users
from fcf_jax.experiments.compare.builds import prepare_builds
from fcf_jax.experiments.compare.curves import CENTRALIZED, FEDERATED
from fcf_jax.experiments.compare.statistics import (
    Values,
    compare_builds,
    compare_users,
    unproven_metrics,
    verdict,
    worse_metrics,
)
from fcf_jax.experiments.compare.training import Outcome, train_builds
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.recording import NEVER, Stop
from fcf_jax.experiments.report.figures import write_comparison_figures
from fcf_jax.experiments.report.tables import write_comparison_tables
from fcf_jax.experiments.store.resume import open_checkpoints


def load_splits(config: ExperimentConfig) -> list[Dataset]:
    """Load the data once and split them for each build; one split for all where it is not random.

    Raises:
        ValueError: in one line, for bad data or numbers that do not fit it.
        OSError: when the data cannot be read.
    """
    num_builds = config.comparison.num_builds
    datasets = load_datasets(config, [config.data.seed + build for build in range(num_builds)])
    check(config, "compare", facts_of(config, *datasets, num_builds=num_builds))
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
    """Train all builds of both sides, from the latest checkpoint on if there is one, and compare them.

    Args:
        problem: `resolve(config, *datasets)`.
        datasets: from `load_splits(config)`.
        folder: where to write, which `run_directory.claimed` made.
        progress: shows how far training is.
        mesh: devices that share the builds, from `mesh_of_builds`; None: one.
        resume: whether a checkpoint is expected; if there is none, `progress` says so.
        stop: entered while rounds and sweeps run; what it yields is asked after each block.

    Returns:
        The content of `comparison.json`.

    Raises:
        DivergedError: when a build diverged.
        StoppedError: when a stop was asked for; a checkpoint is written.
        CheckpointError: when the checkpoint is one of another comparison.
        OSError: when the folder cannot be written.
    """
    started = time.perf_counter()
    splits = [one.split for one in datasets]
    checkpoints = open_checkpoints(folder, problem.config, *splits, on_damaged=progress.say)
    builds = prepare_builds(problem, datasets, mesh)
    outcome = train_builds(builds, problem, checkpoints, folder, progress, resume=resume, stop=stop)
    ends, k = {CENTRALIZED: outcome.centralized, FEDERATED: outcome.federated}, problem.config.evaluation.k
    sides = {side: metrics_of_builds(end, k=k) for side, end in ends.items()}
    users = {side: metrics_of_users(end, k=k) for side, end in ends.items()}
    document = _describe(problem, outcome, sides, users)
    document["seconds"] = time.perf_counter() - started
    write_comparison_figures(folder, document, outcome.curves, users)
    write_comparison_tables(folder, document, sides)
    checkpoints.discard()
    return document


def _describe(
    problem: Problem,
    outcome: Outcome,
    sides: dict[str, dict[str, Values]],
    users: dict[str, dict[str, Values]],
) -> dict[str, Any]:
    """Build the content of `comparison.json`: metrics, the verdict on them, then circumstances."""
    config, comparison = problem.config, problem.config.comparison
    margin, tolerance = comparison.margin_percent, comparison.tolerance_percent
    metrics = compare_builds(sides[CENTRALIZED], sides[FEDERATED], margin_percent=margin)
    of_users = compare_users(users[CENTRALIZED], users[FEDERATED])
    for name, figures in metrics.items():
        figures["per_user"] = of_users.get(name)
    bounds = {"margin_percent": margin, "tolerance_percent": tolerance}
    apart = difference_between(outcome.federated, outcome.centralized)
    return {
        "num_builds": comparison.num_builds,
        "k": config.evaluation.k,
        **bounds,
        "metrics": metrics,
        "verdict": verdict(metrics, num_builds=comparison.num_builds, **bounds),
        "worse_metrics": worse_metrics(metrics, tolerance_percent=tolerance),
        "unproven_metrics": unproven_metrics(metrics),
        "notes": _notes(problem, outcome),
        **{name: float(of_builds.mean()) for name, of_builds in apart.items()},
        **_circumstances(problem, outcome),
    }


def _circumstances(problem: Problem, outcome: Outcome) -> dict[str, Any]:
    config, train = problem.config, problem.train
    federation, model = config.federation, config.model
    builds, is_random = range(config.comparison.num_builds), has_random_split(config.data)
    up, down = problem.payload_bytes
    return {
        "start_seeds": [federation.seed + build for build in builds],
        "split_seeds": [config.data.seed + build * is_random for build in builds],
        "num_rounds": federation.num_rounds,
        "num_sweeps": outcome.num_sweeps,
        "resumed_from_rounds": outcome.starts,
        "num_users": train.num_users,
        "num_items": train.num_items,
        "num_train_interactions": train.num_interactions,
        "num_test_interactions": problem.dataset.split.test.num_interactions,
        "num_factors": model.num_factors,
        "alpha": model.alpha,
        "regularization": model.regularization,
        "server_step": config.server.step,
        "cohort_size": problem.cohort_size,
        "payload_bytes_up": up,
        "payload_bytes_down": down,
        "data_counts": problem.dataset.counts,
    }


def _notes(problem: Problem, outcome: Outcome) -> list[str]:
    """Return what a reader should know besides the verdict."""
    notes, config = [], problem.config
    if not has_random_split(config.data) and config.comparison.num_builds > 1:
        notes.append(f'The split "{config.data.split}" is not random: the builds differ in their start only.')
    if outcome.num_unsettled:
        notes.append(
            f"ALS had not converged in {outcome.num_unsettled} builds after {outcome.num_sweeps} sweeps."
        )
    return notes
