"""A training on record: from the latest checkpoint on, with metrics, checkpoints and progress as it goes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax

from fcf_jax.experiments.build.devices import runner_of
from fcf_jax.experiments.build.privacy import rounds_key
from fcf_jax.experiments.build.problem import Setup
from fcf_jax.experiments.build.processes import any_process
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.errors import CheckpointError, StoppedError
from fcf_jax.experiments.loop import Block, Training, train
from fcf_jax.experiments.progress import ProgressLine, short
from fcf_jax.experiments.store.budget import Budget, budget_of, released_item_weights
from fcf_jax.experiments.store.resume import Snapshot, open_checkpoints, read_begun
from fcf_jax.experiments.store.run_directory import BUDGET, METRICS, write_environment

Stop = AbstractContextManager[Callable[[], bool]]  # entered while rounds run; tells whether to stop
NEVER: Stop = nullcontext(lambda: False)


def train_on_record(
    setup: Setup, folder: Path, progress: ProgressLine, *, resume: bool, stop: Stop
) -> Training:
    """Train the federation of this experiment, or what is left of it.

    Raises:
        StoppedError: when a stop was asked for.
        CheckpointError: when the latest checkpoint is one of another run, or what it cost is not on record.
        OSError: when something cannot be written; the last checkpoint is intact.
    """
    config, train_set = setup.config, setup.dataset.split.train
    num_rounds = config.federation.num_rounds
    budget = budget_of(config, folder, num_users=train_set.num_users)
    federation = setup.federation(released_item_weights(config, train_set, folder, budget))
    checkpoints = open_checkpoints(folder, config, setup.dataset.split, on_damaged=progress.say)
    like = jax.eval_shape(lambda: Snapshot(federation.init(setup.key), setup.key))
    begun = read_begun(folder, checkpoints, like)
    if begun is not None and budget is not None and begun.done > budget.rounds_spent():
        path = folder / BUDGET.name
        raise CheckpointError(f"{path}: expected {begun.done} rounds charged; choose another --out")
    if begun is not None:
        progress.say(f"going on after {begun.done} of {num_rounds} rounds")
    elif resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    write_environment(folder, resumed_from_rounds=begun.starts if begun else [])
    key = begun.key if begun else setup.key
    runner = runner_of(federation, key, rounds_key(config, key), setup.clients, setup.mesh, config)
    with stop as is_asked_for:

        def on_block(block: Block) -> bool:
            _record(block, setup, folder, progress, budget)
            stops = any_process(is_asked_for())
            if stops or _is_checkpoint_due(block, config):
                score = _latest(block, setup.map_name) if block.is_due else None
                checkpoints.save(block.done, Snapshot(block.state, key), score=score)
            return stops

        may_run = {} if budget is None else {"may_run": budget.charge}
        training = train(runner, config, on_block=on_block, begun=begun, **may_run)
    METRICS.write(folder, training.records)
    if training.divergence is None and any_process(is_asked_for()):
        raise StoppedError(f"after {training.done} of {num_rounds} rounds")
    if training.divergence is None and training.done < num_rounds:
        progress.say(
            f"the privacy budget is spent: training ends after {training.done} of {num_rounds} rounds"
        )
    return training


def _record(block: Block, setup: Setup, folder: Path, progress: ProgressLine, budget: Budget | None) -> None:
    config, seconds = setup.config, block.seconds
    if block.is_due:
        metrics = setup.measure(setup.item_factors(block.state))
        spent = {} if budget is None else {"epsilon": budget.epsilon()}
        block.records.append({"kind": "evaluation", "round": block.done, **metrics, **spent})
    METRICS.write(folder, block.records)
    progress.show(
        "round",
        block.done,
        config.federation.num_rounds,
        f"{1 / seconds:.3g} rounds/s  {_shown_loss(block, budget)}  "
        f"MAP@{config.evaluation.k} {_latest(block, setup.map_name):.4f}  "
        f"{short(setup.cohort_size / seconds)} clients/s",
    )


def latest_measures(training: Training) -> dict[str, float] | None:
    """Return what was measured after the last round, if an evaluation was due then."""
    last = training.records[-1] if training.records else {}
    if last.get("kind") != "evaluation" or last["round"] != training.done:
        return None
    return {name: value for name, value in last.items() if name not in ("kind", "round", "epsilon")}


def _shown_loss(block: Block, budget: Budget | None) -> str:
    """Show the loss that the clients sent, or under noise what was spent."""
    if budget is None:
        return f"loss {block.loss:.6g}"
    return f"epsilon {budget.epsilon():.3g}"


def _latest(block: Block, measure: str) -> float:
    evaluations = [one for one in block.records if one["kind"] == "evaluation"]
    return evaluations[-1][measure] if evaluations else float("nan")


def _is_checkpoint_due(block: Block, config: ExperimentConfig) -> bool:
    every = config.checkpoint.every
    if every is None or block.done == config.federation.num_rounds:
        return block.is_due
    return block.done // every > (block.done - block.size) // every
