"""Training of a comparison: rounds and sweeps in step, recorded, resumed from the latest checkpoint."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fcf_jax.als import MAX_SWEEPS, MIN_SWEEPS, has_converged
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.compare.assessment import Assessment, difference_between, metrics_of_builds
from fcf_jax.experiments.compare.builds import Both, Builds
from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED, Curves, read_curves
from fcf_jax.experiments.errors import CheckpointError, DivergedError, StoppedError
from fcf_jax.experiments.loop import find_divergence
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.recording import NEVER, Stop
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.experiments.store.run_directory import ENVIRONMENT, write_environment

CURVES = "curves.csv"
_BLOCK_SWEEPS = 10  # where there are no rounds to keep in step with


class Outcome(NamedTuple):
    """Both sides at their ends.

    Attributes:
        federated: of the federations.
        centralized: of ALS.
        curves: of both over rounds and sweeps.
        num_sweeps: of ALS.
        num_unsettled: builds whose ALS has not converged.
        starts: rounds, or sweeps, at which a process took over from another.
    """

    federated: Assessment
    centralized: Assessment
    curves: Curves
    num_sweeps: int
    num_unsettled: int
    starts: list[int]


class _Begun(NamedTuple):
    """State of an earlier training that is resumed."""

    done: int  # rounds, or sweeps where there were more of them
    both: Both
    curves: Curves
    starts: list[int]


class _Task(NamedTuple):
    """What all steps of the training share."""

    builds: Builds
    problem: Problem
    curves: Curves

    def note_metrics(self, side: str, assessment: Assessment, done: int) -> None:
        """Add the metrics of one side to the curves."""
        k = self.problem.config.evaluation.k
        for name, of_builds in metrics_of_builds(assessment, k=k).items():
            self.curves.put(side, name, done, of_builds)

    def assess(self, both: Both, done: int) -> None:
        """Add all metrics of both sides to the curves, and how far apart the sides are."""
        federated = self.builds.assess(both.federated.item_factors)
        centralized = self.builds.assess(both.centralized)
        self.note_metrics(FEDERATED, federated, done)
        self.note_metrics(CENTRALIZED, centralized, done)
        for name, of_builds in difference_between(federated, centralized).items():
            self.curves.put(BOTH, name, done, of_builds)


def train_builds(
    builds: Builds,
    problem: Problem,
    checkpoints: Checkpoints,
    folder: Path,
    progress: ProgressLine,
    *,
    resume: bool = False,
    stop: Stop = NEVER,
) -> Outcome:
    """Run rounds and sweeps in step, then sweeps alone until ALS has converged in every build.

    Args:
        builds: from `prepare_builds`.
        problem: of the first build.
        checkpoints: where to resume, if there is one.
        folder: where the curves are written.
        progress: shows how far training is.
        resume: whether a checkpoint is expected; if there is none, `progress` says so.
        stop: entered while blocks run; what it yields is asked after each of them.

    Raises:
        DivergedError: when a build diverged.
        StoppedError: when a stop was asked for; a checkpoint is written.
        CheckpointError: when the checkpoint is one of another comparison.
        OSError: when something cannot be written.
    """
    done, both, curves, starts = _begin(builds, problem, checkpoints, folder, progress, resume=resume)
    task, schedule = _Task(builds, problem, curves), problem.schedule
    write_environment(folder, resumed_from_rounds=starts)
    with stop as is_asked_for:
        for _, size in schedule.blocks(done=done, then_of=0 if schedule.num_rounds else _BLOCK_SWEEPS):
            if _is_over(curves, done, num_rounds=schedule.num_rounds):
                break
            both = _advance(task, both, done, size)
            done += size
            if done <= schedule.num_rounds and schedule.is_evaluation_due(done):
                task.assess(both, done)
            curves.write(folder / CURVES)
            _show(progress, task, done)
            stops = is_asked_for()
            if stops or schedule.is_checkpoint_due(done, size):
                checkpoints.save(done, both)
            if stops:
                raise StoppedError(f"after {done} rounds or sweeps of each build")
    num_unsettled = int(np.sum(~_is_settled(curves, done)))
    federated, centralized = builds.assess(both.federated.item_factors), builds.assess(both.centralized)
    task.note_metrics(FEDERATED, federated, schedule.num_rounds)
    task.note_metrics(CENTRALIZED, centralized, done)
    curves.write(folder / CURVES)
    return Outcome(federated, centralized, curves, done, num_unsettled, starts)


def _begin(
    builds: Builds,
    problem: Problem,
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
        done, both = restored.done, restored.state
        progress.say(f"resuming after {done} rounds or sweeps of each build")
        starts = [*ENVIRONMENT.read(folder)["resumed_from_rounds"], done]
        return _Begun(done, builds.place(both), _read_curves(folder / CURVES, done=done), starts)
    if resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    curves = Curves()
    _Task(builds, problem, curves).assess(start, 0)
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


def _is_over(curves: Curves, done: int, *, num_rounds: int) -> bool:
    """Return whether all rounds are done, and ALS has converged in every build or never will."""
    if done < max(num_rounds, MIN_SWEEPS):
        return False
    is_broken = ~np.isfinite(curves.get(CENTRALIZED, "loss").values[done - 1])
    return done >= MAX_SWEEPS or bool(np.all(_is_settled(curves, done) | is_broken))


def _is_settled(curves: Curves, done: int) -> np.bool_ | npt.NDArray[np.bool_]:
    """Return whether ALS has converged, for every build."""
    before, after = curves.get(CENTRALIZED, "loss").values[done - 2 : done]
    return has_converged(before, after)


def _advance(task: _Task, both: Both, done: int, size: int) -> Both:
    """Add sweeps, and rounds as long as there are any left."""
    federated, centralized = both
    if done < task.problem.schedule.num_rounds:
        federated, info = task.builds.run(federated, size)
        _note_losses(task.curves, FEDERATED, done, info.loss)
        _refuse_divergence(task)
    centralized, losses = task.builds.sweep(centralized, size)
    _note_losses(task.curves, CENTRALIZED, done, losses)
    return Both(federated, centralized)


def _note_losses(curves: Curves, side: str, done: int, losses: jax.Array) -> None:
    """Add the losses before each of these rounds, [builds, rounds]; of a cohort they are estimates."""
    for index, of_builds in enumerate(np.asarray(losses).T):
        curves.put(side, "loss", done + index, of_builds)


def _refuse_divergence(task: _Task) -> None:
    is_guarded = task.problem.config.server.row.is_guarded
    for build, losses in enumerate(task.curves.get(FEDERATED, "loss").values.T.tolist()):
        divergence = find_divergence(losses, is_guarded=is_guarded)
        if divergence is not None:
            raise DivergedError(
                f"build {build} diverged in round {divergence.round} (loss {divergence.loss:g}); "
                f"{task.problem.divergence_remedy}"
            )


def _show(progress: ProgressLine, task: _Task, done: int) -> None:
    config, num_rounds = task.problem.config, task.problem.schedule.num_rounds
    losses, maps = (
        [task.curves.get(side, name).values[-1].mean() for side in (FEDERATED, CENTRALIZED)]
        for name in ("loss", task.problem.map_name)
    )
    status = (
        f"{config.comparison.num_builds} builds, FCF / ALS: loss {losses[0]:.6g} / {losses[1]:.6g}  "
        f"MAP@{config.evaluation.k} {maps[0]:.4f} / {maps[1]:.4f}"
    )
    if done <= num_rounds:
        progress.show("round", done, num_rounds, status)
    else:
        progress.show("ALS sweep", done, None, status)
