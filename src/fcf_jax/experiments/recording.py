"""A recorded training: resumed from the latest checkpoint, with metrics, checkpoints and progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax

from fcf_jax.experiments.build.devices import any_process, chunks_of_a_block, runner_of
from fcf_jax.experiments.build.problem import Setup, rounds_key
from fcf_jax.experiments.errors import CheckpointError, StoppedError
from fcf_jax.experiments.loop import Block, Training, train
from fcf_jax.experiments.progress import ProgressLine, short
from fcf_jax.experiments.store.budget import Budget, budget_of, released_item_weights
from fcf_jax.experiments.store.resume import Snapshot, open_checkpoints, read_begun
from fcf_jax.experiments.store.run_directory import BUDGET, METRICS, write_environment

Stop = AbstractContextManager[Callable[[], bool]]  # entered while rounds run; yields a flag that asks to stop
NEVER: Stop = nullcontext(lambda: False)


def train_on_record(
    setup: Setup, folder: Path, progress: ProgressLine, *, resume: bool, stop: Stop
) -> Training:
    """Train the federation of a problem, or resume it.

    Args:
        setup: the problem on its devices.
        folder: the run directory.
        progress: shows how far training is.
        resume: whether a checkpoint is expected; if there is none, `progress` says so.
        stop: entered while rounds run.

    Raises:
        StoppedError: when a stop was asked for.
        CheckpointError: when the latest checkpoint is one of another run, or what it cost is not on record.
        OSError: when something cannot be written; the last checkpoint is intact.
    """
    problem, schedule = setup.problem, setup.problem.schedule
    num_rounds = schedule.num_rounds
    budget = budget_of(problem, folder)
    federation = problem.federation(
        item_weights=released_item_weights(problem, folder, budget), mesh=setup.mesh
    )
    checkpoints = open_checkpoints(folder, problem.config, problem.dataset.split, on_damaged=progress.say)
    like = jax.eval_shape(lambda: Snapshot(federation.init(problem.key), problem.key))
    begun = read_begun(folder, checkpoints, like)
    if begun is not None and budget is not None and begun.done > budget.rounds_spent():
        path = folder / BUDGET.name
        raise CheckpointError(f"{path}: expected {begun.done} rounds charged; choose another --out")
    if begun is not None:
        progress.say(f"resuming after {begun.done} of {num_rounds} rounds")
    elif resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    write_environment(folder, resumed_from_rounds=begun.starts if begun else [])
    key, parallel = begun.key if begun else problem.key, problem.config.parallel
    runner = runner_of(
        federation,
        key,
        rounds_key(problem.config.privacy, key),
        setup.clients,
        setup.mesh,
        num_rounds=num_rounds,
        block_chunks=chunks_of_a_block(setup.clients, parallel.block_megabytes) if parallel.stream else None,
    )
    with stop as is_asked_for:

        def on_block(block: Block) -> bool:
            _record(block, setup, folder, progress, budget)
            stops = any_process(is_asked_for())
            if stops or schedule.is_checkpoint_due(block.done, block.size):
                is_evaluated = schedule.is_evaluation_due(block.done)
                score = _latest(block, problem.map_name) if is_evaluated else None
                checkpoints.save(block.done, Snapshot(block.state, key), score=score)
            return stops

        training = train(
            runner,
            schedule,
            on_block=on_block,
            watched="loss" if budget is None else "gradient_norm",  # under noise no client sends its loss
            is_guarded=problem.config.server.row.is_guarded,
            may_run=(lambda num_rounds: True) if budget is None else budget.charge,
            begun=begun,
        )
    METRICS.write(folder, training.records)
    if training.divergence is None and any_process(is_asked_for()):
        raise StoppedError(f"after {training.done} of {num_rounds} rounds")
    if training.divergence is None and training.done < num_rounds:
        progress.say(
            f"the privacy budget is spent: training ends after {training.done} of {num_rounds} rounds"
        )
    return training


def _record(block: Block, setup: Setup, folder: Path, progress: ProgressLine, budget: Budget | None) -> None:
    problem, seconds = setup.problem, block.seconds
    if problem.schedule.is_evaluation_due(block.done):
        metrics = setup.measure(setup.item_factors(block.state))
        spent = {} if budget is None else {"epsilon": budget.epsilon()}
        block.records.append({"kind": "evaluation", "round": block.done, **metrics, **spent})
    METRICS.write(folder, block.records)
    progress.show(
        "round",
        block.done,
        problem.schedule.num_rounds,
        f"{1 / seconds:.3g} rounds/s  {_shown_loss(block, budget)}  "
        f"MAP@{problem.config.evaluation.k} {_latest(block, problem.map_name):.4f}  "
        f"{short(problem.cohort_size / seconds)} clients/s",
    )


def latest_measures(training: Training) -> dict[str, float] | None:
    """Return the measures after the last round; None if no evaluation was due then."""
    last = training.records[-1] if training.records else {}
    if last.get("kind") != "evaluation" or last["round"] != training.done:
        return None
    return {name: value for name, value in last.items() if name not in ("kind", "round", "epsilon")}


def _shown_loss(block: Block, budget: Budget | None) -> str:
    """Format the loss that the clients sent, or under noise the epsilon spent."""
    if budget is None:
        return f"loss {block.loss:.6g}"
    return f"epsilon {budget.epsilon():.3g}"


def _latest(block: Block, measure: str) -> float:
    evaluations = [one for one in block.records if one["kind"] == "evaluation"]
    return evaluations[-1][measure] if evaluations else float("nan")
