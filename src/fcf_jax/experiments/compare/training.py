"""Training of a comparison: rounds of FCF and sweeps of ALS in step, recorded and resumable."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fcf_jax.als import MAX_SWEEPS, MIN_SWEEPS, TOLERANCE, has_converged
from fcf_jax.experiments.build.problem import Problem
from fcf_jax.experiments.compare.curves import BOTH, CENTRALIZED, FEDERATED, Curves, read_curves
from fcf_jax.experiments.compare.replicates import (
    Assessment,
    Replicates,
    States,
    difference_between,
    metrics_by_replicate,
)
from fcf_jax.experiments.endings import remedy_of_divergence
from fcf_jax.experiments.errors import CheckpointError, DivergedError, StoppedError
from fcf_jax.experiments.loop import NEVER, Learned, Stop, find_divergence
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.store.checkpoint import Checkpoints
from fcf_jax.experiments.store.run_directory import CURVES, ENVIRONMENT, write_environment
from fcf_jax.messages import count_of

_SETTLED_ROUNDS = 10  # judged together: an accelerated step that is taken back costs a round
_BLOCK_SWEEPS = 10  # if there are no rounds, whose blocks sweeps follow otherwise
_CHECKED_SWEEPS = 10  # after the rounds, from one test of convergence to the next


class Trained(NamedTuple):
    """Both sides at the end of training.

    Attributes:
        federated: assessment of FCF.
        centralized: assessment of ALS.
        curves: losses, metrics and model differences over rounds and sweeps.
        num_rounds: rounds of FCF.
        num_sweeps: sweeps of ALS.
        num_unsettled: replicates whose ALS has not converged.
        is_settled: whether the loss of FCF has settled in every replicate.
        starts: rounds, or sweeps, at which a process took over from another.
    """

    federated: Assessment
    centralized: Assessment
    curves: Curves
    num_rounds: int
    num_sweeps: int
    num_unsettled: int
    is_settled: bool
    starts: list[int]


class _Start(NamedTuple):
    """State that training starts from: the first one, or that of a checkpoint.

    Attributes:
        done: rounds done, or sweeps if there were more of them.
        states: state of both sides.
        curves: values before.
        starts: rounds, or sweeps, at which a process took over from another.
    """

    done: int
    states: States
    curves: Curves
    starts: list[int]


class _Task(NamedTuple):
    """Constants of the training, and the curves that it extends."""

    replicates: Replicates
    problem: Problem
    curves: Curves

    @property
    def num_rounds_at_most(self) -> int:
        """Cap of the rounds; the rounds asked for, where a loss is not exact or rates follow a schedule."""
        problem, config = self.problem, self.problem.config
        is_exact = problem.cohort_size == problem.train.num_users and not config.privacy.has_noise
        has_end = not is_exact or config.server.decay != "constant" or not problem.schedule.num_rounds
        return 0 if has_end else config.comparison.max_rounds

    def put_metrics(self, side: str, assessment: Assessment, done: int) -> None:
        """Add the metrics of one side to the curves."""
        k = self.problem.config.evaluation.lengths
        for name, values in metrics_by_replicate(assessment, k=k).items():
            self.curves.put(side, name, done, values)

    def put_losses(self, side: str, done: int, losses: jax.Array) -> None:
        """Add the losses before each of these rounds, [replicates, rounds]; estimates if from cohorts."""
        for index, values in enumerate(np.asarray(losses).T):
            self.curves.put(side, "loss", done + index, values)

    def assess(self, states: States, done: int) -> None:
        """Add the metrics of both sides, and the differences of their models, to the curves."""
        federated = self.replicates.assess(Learned.of(states.federated))
        centralized = self.replicates.assess(states.centralized)
        self.put_metrics(FEDERATED, federated, done)
        self.put_metrics(CENTRALIZED, centralized, done)
        for name, values in difference_between(federated, centralized).items():
            self.curves.put(BOTH, name, done, values)


def train_replicates(
    replicates: Replicates,
    problem: Problem,
    checkpoints: Checkpoints,
    folder: Path,
    progress: ProgressLine,
    *,
    resume: bool = False,
    stop: Stop = NEVER,
) -> Trained:
    """Run rounds and sweeps in step until FCF and then ALS have settled in every replicate.

    Args:
        replicates: from `prepare_replicates`.
        problem: of the first replicate.
        checkpoints: where to resume from, if there is a checkpoint.
        folder: where the curves are written.
        progress: shows the progress.
        resume: whether a checkpoint is expected; without one, `progress` reports that training starts anew.
        stop: entered while blocks run; yields a function that is called after each of them and returns True
            to stop.

    Raises:
        DivergedError: if a replicate diverged.
        StoppedError: if a stop was requested; a checkpoint is written.
        CheckpointError: if the checkpoint belongs to another comparison.
        OSError: if a file cannot be written.
    """
    progress.compiling("evaluation")
    start = _start(replicates, problem, checkpoints, folder, progress, resume=resume)
    done, states, curves = start.done, start.states, start.curves
    task, schedule = _Task(replicates, problem, curves), problem.schedule
    if note := write_environment(folder, resumed_from_rounds=start.starts):
        progress.say(note)
    compiled: set[int] = set()
    with stop as is_stop_requested:
        for _, size in schedule.blocks(done=done, endless_size=0 if schedule.num_rounds else _BLOCK_SWEEPS):
            if not _has_rounds_left(task, states, done) and _is_finished(curves, done, schedule.num_rounds):
                break
            if size not in compiled:
                progress.compiling("round")
                compiled.add(size)
            states = _advance(task, states, done, size)
            done += size
            if done == _num_rounds(states) and schedule.is_evaluation_due(done):
                task.assess(states, done)
            _show(progress, task, states, done)
            stops = is_stop_requested()
            if stops or schedule.is_checkpoint_due(done, size):
                curves.write(folder / CURVES)  # whole: a checkpoint is of no use without them
                checkpoints.save(done, states)
            if stops:
                raise StoppedError(f"after {done} rounds or sweeps of each replicate")
    num_unsettled = int(np.sum(~_is_settled(curves, done)))
    federated = replicates.assess(Learned.of(states.federated))
    centralized = replicates.assess(states.centralized)
    num_rounds, is_settled = _num_rounds(states), have_settled(curves.get(FEDERATED, "loss").values)
    task.put_metrics(FEDERATED, federated, num_rounds)
    task.put_metrics(CENTRALIZED, centralized, done)
    curves.write(folder / CURVES)
    return Trained(federated, centralized, curves, num_rounds, done, num_unsettled, is_settled, start.starts)


def have_settled(losses: npt.NDArray[np.float64]) -> bool:
    """Return whether the least loss of each replicate fell by less than 1e-5 a round in the last ten rounds.

    Args:
        losses: before each round, [rounds, replicates].
    """
    if len(losses) <= _SETTLED_ROUNDS:
        return False
    before = losses[:-_SETTLED_ROUNDS].min(axis=0)
    gained = before - np.minimum(before, losses[-_SETTLED_ROUNDS:].min(axis=0))
    return bool(np.all(gained < _SETTLED_ROUNDS * TOLERANCE * np.abs(before)))


def _num_rounds(states: States) -> int:
    """Return the rounds of FCF, the same in every replicate."""
    return int(np.max(states.federated.round_index))


def _has_rounds_left(task: _Task, states: States, done: int) -> bool:
    """Return whether FCF goes on: to the rounds asked for, then until its loss has settled or to the cap."""
    if done < task.problem.schedule.num_rounds:
        return True
    can_go_on = done < task.num_rounds_at_most and _num_rounds(states) == done
    return can_go_on and not have_settled(task.curves.get(FEDERATED, "loss").values[:done])


def _start(
    replicates: Replicates,
    problem: Problem,
    checkpoints: Checkpoints,
    folder: Path,
    progress: ProgressLine,
    *,
    resume: bool,
) -> _Start:
    """Restore the latest checkpoint, otherwise assess the first state."""
    first = replicates.start()
    restored = checkpoints.latest(first)
    if restored is not None:
        done, states = restored.done, restored.state
        progress.say(f"resuming after {done} rounds or sweeps of each replicate")
        starts = [*ENVIRONMENT.read_or(folder, {}).get("resumed_from_rounds", []), done]
        return _Start(done, replicates.place(states), _read_curves(folder / CURVES, done=done), starts)
    if resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    curves = Curves()
    _Task(replicates, problem, curves).assess(first, 0)
    return _Start(0, first, curves, [])


def _read_curves(path: Path, *, done: int) -> Curves:
    """Read the curves up to a checkpoint; a killed process may have written more."""
    try:
        curves = read_curves(path, until=done)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}; the checkpoint needs it: choose another --out") from error
    sweeps = curves.get(CENTRALIZED, "loss").rounds[:done].tolist()
    if len(sweeps) != done or sweeps != list(range(done)):
        raise CheckpointError(
            f"{path}: expected the losses of {count_of(done, 'sweep')}, as the checkpoint has; "
            "choose another --out"
        )
    return curves


def _is_finished(curves: Curves, done: int, num_rounds: int) -> bool:
    """Return True if all rounds are done and ALS has converged, or never will, in every replicate."""
    if done < max(num_rounds, MIN_SWEEPS) or (done - num_rounds) % _CHECKED_SWEEPS:
        return False
    is_broken = ~np.isfinite(curves.get(CENTRALIZED, "loss").values[done - 1])
    return done >= MAX_SWEEPS or bool(np.all(_is_settled(curves, done) | is_broken))


def _is_settled(curves: Curves, done: int) -> np.bool_ | npt.NDArray[np.bool_]:
    """Return for each replicate whether ALS has converged."""
    before, after = curves.get(CENTRALIZED, "loss").values[done - 2 : done]
    return has_converged(before, after)


def _advance(task: _Task, states: States, done: int, size: int) -> States:
    """Run a block of sweeps, and of rounds if any are left."""
    federated, centralized = states.federated, states.centralized
    if _has_rounds_left(task, states, done):
        federated, info = task.replicates.run(federated, size)
        task.put_losses(FEDERATED, done, info.loss)
        _refuse_divergence(task)
    centralized, losses = task.replicates.sweep(centralized, size)
    task.put_losses(CENTRALIZED, done, losses)
    return States(federated, centralized)


def _refuse_divergence(task: _Task) -> None:
    is_guarded = task.problem.config.server.spec.is_guarded
    for replicate, losses in enumerate(task.curves.get(FEDERATED, "loss").values.T.tolist()):
        divergence = find_divergence(losses, is_guarded=is_guarded)
        if divergence is not None:
            raise DivergedError(
                f"replicate {replicate} diverged in round {divergence.round} (loss {divergence.loss:g}); "
                f"{remedy_of_divergence(task.problem, divergence)}"
            )


def _show(progress: ProgressLine, task: _Task, states: States, done: int) -> None:
    config, num_rounds = task.problem.config, task.problem.schedule.num_rounds
    losses, maps = (
        [task.curves.get(side, name).values[-1].mean() for side in (FEDERATED, CENTRALIZED)]
        for name in ("loss", task.problem.map_name)
    )
    status = (
        f"{count_of(config.comparison.num_builds, 'replicate')}, FCF / ALS: loss "
        f"{losses[0]:.6g} / {losses[1]:.6g}"
    )
    if np.isfinite(maps).all():
        status += f"  MAP@{config.evaluation.leading_k} {maps[0]:.4f} / {maps[1]:.4f}"
    if done == _num_rounds(states):
        is_due = task.problem.schedule.is_evaluation_due(done)
        at_most = num_rounds if done <= num_rounds else None
        progress.show("round", done, at_most, status, is_kept=is_due)
    else:
        is_checked = (done - num_rounds) % _CHECKED_SWEEPS == 0
        progress.show("ALS sweep", done, None, status, is_kept=is_checked)
