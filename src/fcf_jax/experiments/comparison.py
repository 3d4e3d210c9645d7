"""The paper's experiment, repeated: builds of FCF and of centralised ALS side by side, and what they say.

Build b starts from the seed `federation.seed` + b and splits with `data.seed` + b, on both sides;
K, alpha and lambda are the same. ALS of every build sweeps until its loss falls by less than 1e-5
of itself, at least 40 times.
"""

import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from fcf_jax.experiments import run_directory
from fcf_jax.experiments.baseline import MAX_SWEEPS, MIN_SWEEPS, has_converged
from fcf_jax.experiments.comparison_assessment import (
    Assessment,
    difference_between,
    metrics_of_builds,
    metrics_of_users,
)
from fcf_jax.experiments.comparison_builds import Both, Builds, prepare_builds
from fcf_jax.experiments.comparison_curves import BOTH, CENTRALIZED, FEDERATED, Curves
from fcf_jax.experiments.comparison_pictures import write_pictures
from fcf_jax.experiments.comparison_statistics import (
    Values,
    compare_builds,
    compare_users,
    unproven_metrics,
    verdict,
    worse_metrics,
)
from fcf_jax.experiments.comparison_tables import write_tables
from fcf_jax.experiments.config import ConfigError, ExperimentConfig
from fcf_jax.experiments.dataset import Dataset, has_random_split, load_datasets
from fcf_jax.experiments.experiment import DivergedError, divergence_remedy
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.steps import payload_bytes
from fcf_jax.experiments.training import block_sizes, find_divergence

_BLOCK_SWEEPS = 10  # where there are no rounds to keep in step with


class Outcome(NamedTuple):
    """Both sides at their ends."""

    federated: Assessment
    centralized: Assessment
    curves: Curves
    num_sweeps: int
    num_unsettled: int  # builds whose ALS has not converged


def refuse_unfit(config: ExperimentConfig) -> None:
    """Refuse what cannot be compared side by side.

    Raises:
        ConfigError: for several processes, shards of the item factors or streamed clients.
    """
    parallel = config.parallel
    if parallel.coordinator is not None or parallel.item_shards > 1 or parallel.stream:
        raise ConfigError(
            "parallel: fcf compare runs in one process, with whole item factors and all clients on the "
            "device; leave out parallel.coordinator, parallel.item_shards and parallel.stream"
        )


def load_splits(config: ExperimentConfig) -> list[Dataset]:
    """Load the data once and split them for each build; one split for all where it is not random.

    Raises:
        ValueError: in one line, for bad data or numbers that do not fit it.
        OSError: when the data cannot be read.
    """
    return load_datasets(config, [config.data.seed + build for build in range(config.comparison.num_builds)])


def run_comparison(
    config: ExperimentConfig,
    datasets: list[Dataset],
    folder: Path,
    progress: ProgressLine,
    *,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Train all builds of both sides, compare them and write the folder.

    Args:
        config: as `load_config` resolved it, and `refuse_unfit` let it pass.
        datasets: what `load_splits(config)` returned.
        folder: where to write; it exists and is empty.
        progress: where to say how far it is.
        mesh: devices that share the builds, from `mesh_of_builds`; None: one.

    Returns:
        The content of `comparison.json`.

    Raises:
        DivergedError: when the training of a build diverged.
        OSError: when the folder cannot be written.
    """
    started = time.perf_counter()
    run_directory.write_config(folder, config)
    run_directory.write_json(folder / "environment.json", run_directory.environment())
    builds = prepare_builds(config, datasets, mesh)
    outcome = _train(builds, config, folder, progress)
    ends, k = {CENTRALIZED: outcome.centralized, FEDERATED: outcome.federated}, config.evaluation.k
    sides = {side: metrics_of_builds(end, k=k) for side, end in ends.items()}
    users = {side: metrics_of_users(end, k=k) for side, end in ends.items()}
    document = _describe(config, datasets[0], outcome, sides, users)
    document["seconds"] = time.perf_counter() - started
    write_tables(folder, document, sides)
    write_pictures(folder, document, outcome.curves, users)
    return document


def _train(builds: Builds, config: ExperimentConfig, folder: Path, progress: ProgressLine) -> Outcome:
    """Run rounds and sweeps in step, then sweeps alone until ALS has converged in every build."""
    num_rounds, every = config.federation.num_rounds, config.evaluation.every
    sizes = block_sizes(num_rounds, every)
    both, curves, done = builds.start(), Curves(), 0
    _assess(builds, config, both, curves, done)
    for size in itertools.chain(sizes, itertools.repeat(sizes[0] if sizes else _BLOCK_SWEEPS)):
        if done >= num_rounds and _is_over(curves, done):
            break
        both = _advance(builds, config, both, curves, done, size)
        done += size
        if done <= num_rounds and (done % every == 0 or done == num_rounds):
            _assess(builds, config, both, curves, done)
        curves.write(folder / "curves.csv")
        _tell(progress, config, curves, done)
    num_unsettled = int(np.sum(~_is_settled(curves)))
    federated, centralized = builds.assess(both.federated.item_factors), builds.assess(both.centralized)
    for side, assessment, at in ((FEDERATED, federated, num_rounds), (CENTRALIZED, centralized, done)):
        for name, of_builds in metrics_of_builds(assessment, k=config.evaluation.k).items():
            curves.put(side, name, at, of_builds)
    curves.write(folder / "curves.csv")
    return Outcome(federated, centralized, curves, done, num_unsettled)


def _advance(
    builds: Builds, config: ExperimentConfig, both: Both, curves: Curves, done: int, size: int
) -> Both:
    """Add sweeps, and rounds as long as there are any left."""
    federated, centralized = both
    if done < config.federation.num_rounds:
        federated, info = builds.run(federated, size)
        _note_losses(curves, FEDERATED, done, info.loss)
        _refuse_divergence(config, curves)
    centralized, losses = builds.sweep(centralized, size)
    _note_losses(curves, CENTRALIZED, done, losses)
    return Both(federated, centralized)


def _note_losses(curves: Curves, side: str, done: int, losses: jax.Array) -> None:
    """Note the losses before each of these rounds, [builds, rounds]; of a cohort they are estimates."""
    for index, of_builds in enumerate(np.asarray(losses).T):
        curves.put(side, "loss", done + index, of_builds)


def _refuse_divergence(config: ExperimentConfig, curves: Curves) -> None:
    for build, losses in enumerate(curves.get(FEDERATED, "loss").values.T.tolist()):
        divergence = find_divergence(losses, is_guarded=config.server.step == "guarded_gram")
        if divergence is not None:
            raise DivergedError(
                f"build {build} diverged in round {divergence.round} (loss {divergence.loss:g}); "
                f"{divergence_remedy(config)}"
            )


def _is_over(curves: Curves, done: int) -> bool:
    """Say whether ALS has converged in every build, or will not."""
    if done < MIN_SWEEPS:
        return False
    is_broken = ~np.isfinite(curves.get(CENTRALIZED, "loss").values[-1])
    return done >= MAX_SWEEPS or bool(np.all(_is_settled(curves) | is_broken))


def _is_settled(curves: Curves) -> npt.NDArray[np.bool_]:
    """Say of every build whether its ALS has converged."""
    losses = curves.get(CENTRALIZED, "loss").values
    return has_converged(losses[-2], losses[-1])


def _assess(builds: Builds, config: ExperimentConfig, both: Both, curves: Curves, done: int) -> None:
    """Note all metrics of both sides, and how far apart the sides are."""
    federated, centralized = builds.assess(both.federated.item_factors), builds.assess(both.centralized)
    for side, assessment in ((FEDERATED, federated), (CENTRALIZED, centralized)):
        for name, of_builds in metrics_of_builds(assessment, k=config.evaluation.k).items():
            curves.put(side, name, done, of_builds)
    for name, of_builds in difference_between(federated, centralized).items():
        curves.put(BOTH, name, done, of_builds)


def _tell(progress: ProgressLine, config: ExperimentConfig, curves: Curves, done: int) -> None:
    name = f"map_at_{config.evaluation.k}"
    latest = {
        what: [curves.get(side, what).values[-1].mean() for side in (FEDERATED, CENTRALIZED)]
        for what in ("loss", name)
    }
    losses, maps = latest["loss"], latest[name]
    status = (
        f"{config.comparison.num_builds} builds, FCF / ALS: loss {losses[0]:.6g} / {losses[1]:.6g}  "
        f"MAP@{config.evaluation.k} {maps[0]:.4f} / {maps[1]:.4f}"
    )
    if done <= config.federation.num_rounds:
        progress.show("round", done, config.federation.num_rounds, status)
    else:
        progress.show("ALS sweep", done, MAX_SWEEPS, status)


def _describe(
    config: ExperimentConfig,
    dataset: Dataset,
    outcome: Outcome,
    sides: dict[str, dict[str, Values]],
    users: dict[str, dict[str, Values]],
) -> dict[str, Any]:
    """Put together what `comparison.json` says."""
    comparison, train, test = config.comparison, dataset.split.train, dataset.split.test
    bounds = {
        "margin_percent": comparison.margin_percent,
        "tolerance_percent": comparison.tolerance_percent,
    }
    metrics = compare_builds(sides[CENTRALIZED], sides[FEDERATED], margin_percent=comparison.margin_percent)
    of_users = compare_users(users[CENTRALIZED], users[FEDERATED])
    for name, figures in metrics.items():
        figures["per_user"] = of_users.get(name)
    apart = difference_between(outcome.federated, outcome.centralized)
    up, down = payload_bytes(config, num_items=train.num_items)
    seeds = range(comparison.num_builds)
    is_random = has_random_split(config.data)
    return {
        "num_builds": comparison.num_builds,
        "k": config.evaluation.k,
        **bounds,
        "metrics": metrics,
        "verdict": verdict(metrics, num_builds=comparison.num_builds, **bounds),
        "worse_metrics": worse_metrics(metrics, tolerance_percent=comparison.tolerance_percent),
        "unproven_metrics": unproven_metrics(metrics),
        "notes": _notes(config, outcome),
        "model_difference": {name: float(of_builds.mean()) for name, of_builds in apart.items()},
        "start_seeds": [config.federation.seed + build for build in seeds],
        "split_seeds": [config.data.seed + build * is_random for build in seeds],
        "num_rounds": config.federation.num_rounds,
        "num_sweeps": outcome.num_sweeps,
        "num_users": train.num_users,
        "num_items": train.num_items,
        "num_train_interactions": train.num_interactions,
        "num_test_interactions": test.num_interactions,
        "num_factors": config.model.num_factors,
        "alpha": config.model.alpha,
        "regularization": config.model.regularization,
        "server_step": config.server.step,
        "cohort_size": min(config.federation.cohort_size or train.num_users, train.num_users),
        "payload_bytes_up": up,
        "payload_bytes_down": down,
        "data_counts": dataset.counts,
    }


def _notes(config: ExperimentConfig, outcome: Outcome) -> list[str]:
    """Say what a reader should know beside the verdict."""
    notes = []
    if not has_random_split(config.data) and config.comparison.num_builds > 1:
        notes.append(f'The split "{config.data.split}" is not random: the builds differ in their start only.')
    if outcome.num_unsettled:
        notes.append(
            f"ALS had not converged in {outcome.num_unsettled} builds after {outcome.num_sweeps} sweeps."
        )
    return notes
