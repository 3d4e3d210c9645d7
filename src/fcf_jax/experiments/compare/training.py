"""The training of a comparison: rounds and sweeps in step, on record, from the latest checkpoint on."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fcf_jax.experiments.build.baseline import MAX_SWEEPS, MIN_SWEEPS, has_converged
from fcf_jax.experiments.compare.assessment import Assessment, difference_between, metrics_of_builds
from fcf_jax.experiments.compare.builds import Both, Builds
from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED, Curves, read_curves
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import step_of
from fcf_jax.experiments.errors import CheckpointError, DivergedError, StoppedError
from fcf_jax.experiments.loop import block_sizes, find_divergence
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.recording import NEVER, Stop
from fcf_jax.experiments.run import divergence_remedy
from fcf_jax.experiments.store import run_directory
from fcf_jax.experiments.store.checkpoint import Checkpoints

CURVES = "curves.csv"
_BLOCK_SWEEPS = 10  # where there are no rounds to keep in step with


class Outcome(NamedTuple):
    """Both sides at their ends."""

    federated: Assessment
    centralized: Assessment
    curves: Curves
    num_sweeps: int
    num_unsettled: int  # builds whose ALS has not converged
    starts: list[int]  # rounds, or sweeps, at which a process took over from another


class _Begun(NamedTuple):
    """How far all builds came."""

    done: int  # rounds, or sweeps where there were more of them
    both: Both
    curves: Curves
    starts: list[int]


def train_builds(
    builds: Builds,
    config: ExperimentConfig,
    checkpoints: Checkpoints,
    folder: Path,
    progress: ProgressLine,
    *,
    resume: bool = False,
    stop: Stop = NEVER,
) -> Outcome:
    """Run rounds and sweeps in step, then sweeps alone until ALS has converged in every build.

    Args:
        builds: what is trained.
        config: how many rounds, and when assessments and checkpoints are due.
        checkpoints: where to go on, if there is one.
        folder: where the curves are written.
        progress: where to say how far it is.
        resume: whether a checkpoint is expected; if there is none, that is said.
        stop: entered while blocks are under way; what it gives is asked after each of them.

    Raises:
        DivergedError: when a build diverged.
        StoppedError: when a stop was asked for; a checkpoint is written.
        CheckpointError: when the checkpoint is one of another comparison.
        OSError: when something cannot be written.
    """
    begun = _begin(builds, config, checkpoints, folder, progress, resume=resume)
    done, both, curves, starts = begun
    run_directory.write_environment(folder, resumed_from_rounds=starts)
    with stop as is_asked_for:
        for first, size in _blocks(config):
            if first < done:
                continue
            if _is_over(config, curves, done):
                break
            both = _advance(builds, config, both, curves, done, size)
            done += size
            if done <= config.federation.num_rounds and _is_due(config, done):
                _assess(builds, config, both, curves, done)
            curves.write(folder / CURVES)
            _tell(progress, config, curves, done)
            stops = is_asked_for()
            if stops or _is_checkpoint_due(config, done, size):
                checkpoints.save(done, both)
            if stops:
                raise StoppedError(f"after {done} rounds or sweeps of each build")
    num_unsettled = int(np.sum(~_is_settled(curves, done)))
    federated, centralized = builds.assess(both.federated.item_factors), builds.assess(both.centralized)
    _note_metrics(curves, config, FEDERATED, federated, config.federation.num_rounds)
    _note_metrics(curves, config, CENTRALIZED, centralized, done)
    curves.write(folder / CURVES)
    return Outcome(federated, centralized, curves, done, num_unsettled, starts)


def _begin(
    builds: Builds,
    config: ExperimentConfig,
    checkpoints: Checkpoints,
    folder: Path,
    progress: ProgressLine,
    *,
    resume: bool,
) -> _Begun:
    """Read where an earlier process stopped, or assess the start."""
    start = builds.start()
    restored = checkpoints.latest(start)
    if restored is not None:
        done, both = restored
        progress.say(f"going on after {done} rounds or sweeps of each build")
        starts = [*run_directory.read_environment(folder)["resumed_from_rounds"], done]
        return _Begun(done, builds.place(both), _read_curves(folder / CURVES, done=done), starts)
    if resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    curves = Curves()
    _assess(builds, config, start, curves, 0)
    return _Begun(0, start, curves, [])


def _read_curves(path: Path, *, done: int) -> Curves:
    """Read what belongs to a checkpoint; a process that was killed may have left more."""
    try:
        curves = read_curves(path, until=done)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}; the checkpoint needs it: choose another --out") from error
    if curves.get(CENTRALIZED, "loss").rounds[:done].tolist() != list(range(done)):
        raise CheckpointError(
            f"{path}: expected the losses of {done} sweeps, as the checkpoint has; choose another --out"
        )
    return curves


def _blocks(config: ExperimentConfig) -> Iterator[tuple[int, int]]:
    """Yield the first round and the size of each block without end, sizes few: each is to be compiled."""
    sizes = block_sizes(config.federation.num_rounds, config.evaluation.every)
    first = 0
    for size in itertools.chain(sizes, itertools.repeat(sizes[0] if sizes else _BLOCK_SWEEPS)):
        yield first, size
        first += size


def _is_over(config: ExperimentConfig, curves: Curves, done: int) -> bool:
    """Say whether all rounds are done, and ALS has converged in every build, or will not."""
    if done < max(config.federation.num_rounds, MIN_SWEEPS):
        return False
    is_broken = ~np.isfinite(curves.get(CENTRALIZED, "loss").values[done - 1])
    return done >= MAX_SWEEPS or bool(np.all(_is_settled(curves, done) | is_broken))


def _is_settled(curves: Curves, done: int) -> npt.NDArray[np.bool_]:
    """Say of every build whether its ALS has converged."""
    before, after = curves.get(CENTRALIZED, "loss").values[done - 2 : done]
    return has_converged(before, after)


def _is_due(config: ExperimentConfig, done: int) -> bool:
    return done % config.evaluation.every == 0 or done == config.federation.num_rounds


def _is_checkpoint_due(config: ExperimentConfig, done: int, size: int) -> bool:
    every = config.checkpoint.every or config.evaluation.every
    return done // every > (done - size) // every


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
        divergence = find_divergence(losses, is_guarded=step_of(config).is_guarded)
        if divergence is not None:
            raise DivergedError(
                f"build {build} diverged in round {divergence.round} (loss {divergence.loss:g}); "
                f"{divergence_remedy(config)}"
            )


def _assess(builds: Builds, config: ExperimentConfig, both: Both, curves: Curves, done: int) -> None:
    """Note all metrics of both sides, and how far apart the sides are."""
    federated, centralized = builds.assess(both.federated.item_factors), builds.assess(both.centralized)
    _note_metrics(curves, config, FEDERATED, federated, done)
    _note_metrics(curves, config, CENTRALIZED, centralized, done)
    for name, of_builds in difference_between(federated, centralized).items():
        curves.put(BOTH, name, done, of_builds)


def _note_metrics(
    curves: Curves, config: ExperimentConfig, side: str, assessment: Assessment, done: int
) -> None:
    for name, of_builds in metrics_of_builds(assessment, k=config.evaluation.k).items():
        curves.put(side, name, done, of_builds)


def _tell(progress: ProgressLine, config: ExperimentConfig, curves: Curves, done: int) -> None:
    k, num_rounds = config.evaluation.k, config.federation.num_rounds
    losses, maps = (
        [curves.get(side, name).values[-1].mean() for side in (FEDERATED, CENTRALIZED)]
        for name in ("loss", f"map_at_{k}")
    )
    status = (
        f"{config.comparison.num_builds} builds, FCF / ALS: loss {losses[0]:.6g} / {losses[1]:.6g}  "
        f"MAP@{k} {maps[0]:.4f} / {maps[1]:.4f}"
    )
    if done <= num_rounds:
        progress.show("round", done, num_rounds, status)
    else:
        progress.show("ALS sweep", done, None, status)
