"""A training on record: from the latest checkpoint on, with metrics, checkpoints and progress as it goes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax

from fcf_jax.core.types import Key
from fcf_jax.experiments import run_directory
from fcf_jax.experiments.checkpoint import Checkpoints
from fcf_jax.experiments.config import CheckpointConfig
from fcf_jax.experiments.placement import runner_of
from fcf_jax.experiments.processes import any_process
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.resuming import Snapshot, open_checkpoints, read_begun
from fcf_jax.experiments.setup import Setup
from fcf_jax.experiments.training import Block, Training, train

Stop = AbstractContextManager[Callable[[], bool]]  # entered while rounds are under way; asked after a block
NEVER: Stop = nullcontext(lambda: False)


class StoppedError(RuntimeError):
    """Training was stopped as asked; a checkpoint is there to go on from."""


def train_on_record(
    setup: Setup, folder: Path, progress: ProgressLine, *, resume: bool, stop: Stop
) -> Training:
    """Train the federation of this experiment, or what is left of it.

    Raises:
        StoppedError: when a stop was asked for.
        CheckpointError: when the latest checkpoint is one of another run.
        OSError: when something cannot be written; the last checkpoint is intact.
    """
    config, federation = setup.config, setup.federation()
    num_rounds = config.federation.num_rounds
    checkpoints = open_checkpoints(folder, config, setup.dataset.split, on_damaged=progress.say)
    like = jax.eval_shape(lambda: Snapshot(federation.init(setup.key), setup.key))
    begun = read_begun(folder, checkpoints, like)
    if begun is not None:
        progress.say(f"going on after {begun.done} of {num_rounds} rounds")
    elif resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    run_directory.write_environment(folder, resumed_from_rounds=begun.starts if begun else [])
    key = begun.key if begun else setup.key
    runner = runner_of(federation, key, setup.clients, setup.mesh, config)
    with stop as is_asked_for:
        training = train(
            runner,
            config,
            on_block=_recorder(setup, key, folder, checkpoints, progress),
            begun=begun,
            should_stop=lambda: any_process(is_asked_for()),
        )
    run_directory.write_json_lines(folder / run_directory.METRICS, training.records)
    if training.divergence is None and any_process(is_asked_for()):
        raise StoppedError(f"after {training.done} of {num_rounds} rounds")
    return training


def _recorder(
    setup: Setup, key: Key, folder: Path, checkpoints: Checkpoints, progress: ProgressLine
) -> Callable[[Block], None]:
    num_rounds = setup.config.federation.num_rounds
    map_at_k = f"map_at_{setup.config.evaluation.k}"

    def record(block: Block) -> None:
        if block.is_due:
            metrics = setup.measures.metrics(setup.item_factors(block.state))
            block.records.append({"kind": "evaluation", "round": block.done, **metrics})
        run_directory.write_json_lines(folder / run_directory.METRICS, block.records)
        evaluations = [one for one in block.records if one["kind"] == "evaluation"]
        latest = evaluations[-1][map_at_k] if evaluations else float("nan")
        if _is_checkpoint_due(block, setup.config.checkpoint):
            score = latest if block.is_due else None
            checkpoints.save(block.done, Snapshot(block.state, key), score=score)
        progress.show(
            "round",
            block.done,
            num_rounds,
            f"{1 / block.seconds:.3g} rounds/s  {setup.cohort_size / block.seconds:.3g} clients/s  "
            f"loss {block.loss:.6g}  MAP@{setup.config.evaluation.k} {latest:.4f}",
        )

    return record


def _is_checkpoint_due(block: Block, checkpoint: CheckpointConfig) -> bool:
    if block.is_last or checkpoint.every is None:
        return block.is_last or block.is_due
    return block.done // checkpoint.every > (block.done - block.size) // checkpoint.every
