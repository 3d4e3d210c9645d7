"""`fcf run`: a federation and centralised ALS on the same data from the same start, recorded and resumed."""

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.als import converge_als
from fcf_jax.core.packing import pack_clients, pack_items, padding_factor
from fcf_jax.core.records import ServerState
from fcf_jax.experiments.build.arrivals import durations_of, timetable_of
from fcf_jax.experiments.build.attack import attack_summary
from fcf_jax.experiments.build.channel_summary import channel_summary
from fcf_jax.experiments.build.devices import any_process, pack_on, runner_of
from fcf_jax.experiments.build.histories import compared_histories
from fcf_jax.experiments.build.measuring import offsets_rmse
from fcf_jax.experiments.build.problem import PlacedProblem, Problem, place, rounds_key
from fcf_jax.experiments.build.trained import write_model
from fcf_jax.experiments.cautions import (
    caution_of_secure_sums,
    caution_of_start,
    cautions,
    cautions_of_rating,
)
from fcf_jax.experiments.endings import caution_of_als, caution_of_end, remedy_of_divergence
from fcf_jax.experiments.errors import CheckpointError, DivergedError, StoppedError
from fcf_jax.experiments.federated_evaluation import federated_evaluation
from fcf_jax.experiments.loop import (
    NEVER,
    Begun,
    Block,
    Learned,
    Schedule,
    Stop,
    Training,
    seconds_per_round,
    train,
    virtual_seconds,
)
from fcf_jax.experiments.progress import ProgressLine, short
from fcf_jax.experiments.report.milestones import milestones
from fcf_jax.experiments.report.page import write_report
from fcf_jax.experiments.report.read import StoredRun
from fcf_jax.experiments.report.wording import size_text
from fcf_jax.experiments.store.budget import (
    Budget,
    budget_of,
    open_budget,
    released_item_weights,
    released_start,
)
from fcf_jax.experiments.store.continuation import MAY_CHANGE, continued
from fcf_jax.experiments.store.resume import Snapshot, open_checkpoints, read_begun
from fcf_jax.experiments.store.run_directory import (
    BUDGET,
    METRICS,
    SUMMARY,
    MetricsLog,
    write_environment,
)
from fcf_jax.experiments.store.schemas import Summary
from fcf_jax.messages import count_of
from fcf_jax.parallel.mesh import fetch


def run_experiment(
    problem: Problem, folder: Path, progress: ProgressLine, *, resume: bool = False, stop: Stop = NEVER
) -> Summary:
    """Train, starting from the latest checkpoint, compare with ALS and write the run directory.

    Args:
        problem: from `resolve`.
        folder: the run directory, made by `run_directory.claimed`.
        progress: shows the progress.
        resume: whether a checkpoint is expected; without one, `progress` reports that training starts anew.
        stop: entered while rounds run; yields a function that is called after each block of rounds and
            returns True to stop.

    Returns:
        The content of `summary.json`.

    Raises:
        DivergedError: if training diverged; the last good item factors are in the run directory.
        StoppedError: if a stop was requested while rounds ran; a checkpoint is written.
        CheckpointError: if the latest checkpoint belongs to another run, or the privacy budget does not
            cover its rounds.
        OSError: if the run directory cannot be written; the last checkpoint is intact.
    """
    placed = place(problem)
    training = _train(placed, folder, progress, resume=resume, stop=stop)
    learned = placed.fetched(training.learned)
    write_model(problem, fetch(placed.clients.item_counts), *learned, folder)
    if training.divergence is not None:
        raise DivergedError(
            f"diverged in round {training.divergence.round} (loss {training.divergence.loss:g}); "
            f"the last good item factors are in {folder}; "
            f"{remedy_of_divergence(problem, training.divergence)}"
        )
    federated = _last_evaluation(training) or placed.measure(*learned)
    has_baseline = problem.config.evaluation.baseline
    centralized = _train_als(placed, training.records, progress) if has_baseline else None
    METRICS.write(folder, training.records)
    summary = _summarize(placed, training, federated, centralized)
    budget = budget_of(problem, folder)
    measured = federated_evaluation(problem, folder, budget, *learned)
    summary = cast(Summary, {**summary, **attack_summary(problem, learned[0]), **measured})
    if budget is not None:
        summary["privacy"] = budget.stated()
    goals = _goals(problem, folder, training.records, summary)
    summary["payload"] = {**problem.ledger, "until": goals}
    SUMMARY.write(folder, summary)
    write_report(folder)
    return summary


def _goals(
    problem: Problem, folder: Path, records: list[dict[str, Any]], summary: Summary
) -> list[dict[str, Any]]:
    """Return the rounds, the bytes of all clients and the virtual time until the goals that were reached."""
    stored = StoredRun(folder.name, problem.config.to_dict(), {}, records, summary)
    reached = [one for one in milestones(stored) if one.rounds is not None]
    names = ("goal", "rounds", "bytes", "virtual_seconds")
    costs = [{name: getattr(one, name) for name in names} for one in reached]
    return [{name: value for name, value in one.items() if value is not None} for one in costs]


def difference_percent(federated: dict[str, float], centralized: dict[str, float]) -> dict[str, float]:
    """Compute 100 (federated - centralized) / |centralized| of each number; nan where that divides by 0."""
    return {
        name: 100 * (federated[name] - value) / abs(value) if value else float("nan")
        for name, value in centralized.items()
    }


def _train(
    placed: PlacedProblem, folder: Path, progress: ProgressLine, *, resume: bool, stop: Stop
) -> Training:
    """Train the federation, starting from the latest checkpoint; arguments as of `run_experiment`."""
    problem, schedule = placed.problem, placed.problem.schedule
    budget = open_budget(problem, folder)
    timetable, item_weights = timetable_of(problem), released_item_weights(problem, folder, budget)
    start = problem.start if problem.start is not None else released_start(problem, folder, budget)
    federation = problem.federation(item_weights=item_weights, mesh=placed.mesh, timetable=timetable)
    checkpoints = open_checkpoints(
        folder, problem.config, problem.dataset.split, on_damaged=progress.say, may_change=MAY_CHANGE
    )
    like = jax.eval_shape(lambda: Snapshot(federation.init(problem.key), problem.key))
    begun = read_begun(folder, checkpoints, like)
    _check_begun(begun, budget, folder)
    begun = continued(folder, problem.config, begun)
    _report_start(begun, schedule, folder, progress, resume=resume)
    log = MetricsLog(folder, begun.records if begun else [])
    key = begun.key if begun else problem.key
    runner = runner_of(
        federation,
        key,
        rounds_key(problem.config.privacy, key),
        placed.clients,
        placed.mesh,
        num_rounds=schedule.num_rounds,
        block_chunks=placed.block_chunks,
        first=None if start is None else jnp.asarray(start),
        timetable=timetable,
        durations=durations_of(problem, timetable),
    )
    ledger = problem.ledger
    bytes_per_round = problem.cohort_size * (ledger["bytes_up"]["mean"] + ledger["bytes_down"]["mean"])
    progress.compiling("evaluation")
    before = [] if begun else [_evaluation(placed, runner.start(), 0, budget)]
    with stop as is_stop_requested:

        def on_block(block: Block) -> bool:
            _record(block, placed, log, progress, budget, bytes_per_round=bytes_per_round)
            stops = any_process(is_stop_requested())
            if stops or schedule.is_checkpoint_due(block.done, block.size):
                # under noise, choosing a checkpoint by what was measured without it would be a release
                is_scored = schedule.is_evaluation_due(block.done) and budget is None
                score = _latest(block, problem.map_name) if is_scored else None
                checkpoints.save(block.done, Snapshot(block.state, key), score=score)
            return stops

        training = train(
            runner,
            schedule,
            on_block=on_block,
            watched="loss" if budget is None else "gradient_norm",  # under noise no client sends its loss
            is_guarded=problem.config.server.spec.is_guarded,
            charge=(lambda num_rounds: True) if budget is None else budget.charge,
            on_compile=partial(progress.compiling, "round"),
            begun=begun,
            before=before,
        )
    log.write(training.records)
    if training.divergence is None:
        _report_end(training, schedule, progress, was_stopped=any_process(is_stop_requested()))
    return training


def _report_end(training: Training, schedule: Schedule, progress: ProgressLine, *, was_stopped: bool) -> None:
    """Report why training ended before its last round, if it did.

    Raises:
        StoppedError: when a stop was requested.
    """
    done = f"after {training.done} of {count_of(schedule.num_rounds, 'round')}"
    if was_stopped:
        raise StoppedError(done)
    if training.done < schedule.num_rounds:
        progress.say(f"the privacy budget is spent: training ends {done}")


def _check_begun(begun: Begun | None, budget: Budget | None, folder: Path) -> None:
    """Refuse a checkpoint with more rounds than the privacy budget was charged for."""
    if begun is not None and budget is not None and begun.done > budget.rounds_spent():
        path = folder / BUDGET.name
        raise CheckpointError(
            f"{path}: expected {count_of(begun.done, 'round')} charged; choose another --out"
        )


def _report_start(
    begun: Begun | None, schedule: Schedule, folder: Path, progress: ProgressLine, *, resume: bool
) -> None:
    """Show where training starts, and write it to the environment."""
    if begun is not None:
        progress.say(f"resuming after {begun.done} of {count_of(schedule.num_rounds, 'round')}")
    elif resume:
        progress.say(f"no checkpoint in {folder} yet: starting at round 0")
    if note := write_environment(folder, resumed_from_rounds=begun.starts if begun else []):
        progress.say(note)


def _record(
    block: Block,
    placed: PlacedProblem,
    log: MetricsLog,
    progress: ProgressLine,
    budget: Budget | None,
    *,
    bytes_per_round: float,
) -> None:
    """Evaluate if it is due, write the records and show the progress."""
    problem, seconds = placed.problem, block.seconds
    if is_due := problem.schedule.is_evaluation_due(block.done):
        block.records.append(_evaluation(placed, block.state, block.done, budget))
    log.write(block.records)
    shown = f"loss {block.loss:.6g}" if budget is None else f"epsilon {budget.epsilon():.3g}"
    ranking = _latest(block, problem.map_name)
    quality = f"MAP@{problem.config.evaluation.leading_k} {ranking:.4f}" if math.isfinite(ranking) else ""
    speeds = f"{1 / seconds:.3g} rounds/s", f"{short(problem.cohort_size / seconds)} clients/s"
    rounds, clients = speeds if block.is_compiled else ("", "")
    elapsed = virtual_seconds(block.records)
    virtual = "" if elapsed is None else f"{short(elapsed)} virtual s"
    status = (rounds, shown, quality, clients, size_text(block.done * bytes_per_round), virtual)
    progress.show(
        "round", block.done, problem.schedule.num_rounds, "  ".join(filter(None, status)), is_kept=is_due
    )


def _evaluation(
    placed: PlacedProblem, state: ServerState, done: int, budget: Budget | None
) -> dict[str, Any]:
    """Evaluate the state after `done` rounds; return the record."""
    spent = {} if budget is None else {"epsilon": budget.epsilon()}
    return {
        "kind": "evaluation",
        "round": done,
        **placed.measure(*placed.fetched(Learned.of(state))),
        **spent,
    }


def _latest(block: Block, measure: str) -> float:
    evaluations = (record for record in reversed(block.records) if record["kind"] == "evaluation")
    return next(evaluations, {measure: float("nan")})[measure]


def _last_evaluation(training: Training) -> dict[str, float] | None:
    """Return the measures after the last round; None if no evaluation was due then."""
    last = training.records[-1] if training.records else {}
    if last.get("kind") != "evaluation" or last["round"] != training.done:
        return None
    return {name: value for name, value in last.items() if name not in ("kind", "round", "epsilon")}


def _train_als(
    placed: PlacedProblem, records: list[dict[str, Any]], progress: ProgressLine
) -> dict[str, float]:
    """Train centralised ALS, add its losses to the records and measure its item factors."""
    problem, mesh = placed.problem, placed.mesh
    num_factors, features = problem.config.model.num_factors, problem.dataset.features
    train = compared_histories(problem.config.model, problem.train, seed=problem.config.data.seed)
    pack = partial(pack_items, train, num_factors=num_factors, features=features.of_items(problem.train))
    items = pack_on(mesh, pack, is_streamed=False)
    clients, privacy = placed.clients, problem.config.privacy
    is_capped = privacy.has_noise and privacy.max_user_items is not None
    if problem.config.parallel.stream or is_capped:  # the baseline sees everything, on the device
        pack = partial(
            pack_clients, train, num_factors=num_factors, features=features.of_users(problem.train)
        )
        clients = pack_on(mesh, pack, is_streamed=False)
    progress.compiling("ALS sweep")
    item_factors, info = converge_als(
        problem.model,
        problem.first_item_factors(),
        clients,
        items,
        mesh=mesh,
        on_block=lambda done, loss: progress.show("ALS sweep", done, None, f"loss {loss:.6g}"),
    )
    losses = enumerate(info.loss.tolist())
    records += [{"kind": "als_sweep", "round": sweep, "loss": loss} for sweep, loss in losses]
    user_map = None if info.user_map is None else np.asarray(info.user_map[-1], item_factors.dtype)
    return placed.measure(fetch(item_factors), user_map)


def _summarize(
    placed: PlacedProblem,
    training: Training,
    federated: dict[str, float],
    centralized: dict[str, float] | None,
) -> Summary:
    problem, config, split = placed.problem, placed.problem.config, placed.problem.dataset.split
    ledger = problem.ledger
    seconds = seconds_per_round(training, problem.schedule)
    summary: Summary = {
        "federated": federated,
        "centralized": centralized,
        "difference_percent": None if centralized is None else difference_percent(federated, centralized),
        "popularity": placed.measure_popularity(),
        "num_users": split.train.num_users,
        "num_items": split.train.num_items,
        "num_interactions": sum(part.num_interactions for part in split.parts),
        "num_train_interactions": split.train.num_interactions,
        "num_test_interactions": split.test.num_interactions,
        "num_users_without_test": split.num_users_without_test,
        "num_users_without_train": split.num_users_without_train,
        "num_factors": config.model.num_factors,
        "padding_factor": padding_factor(placed.clients),
        "cohort_size": problem.cohort_size,
        "num_rounds": config.federation.num_rounds,
        "seconds_per_round": seconds,
        "clients_per_second": problem.cohort_size / seconds if seconds else None,
        "payload_bytes_up": round(ledger["bytes_up"]["mean"]),
        "payload_bytes_down": round(ledger["bytes_down"]["mean"]),
        "resumed_from_rounds": training.starts,
        "data_counts": problem.dataset.counts,
        "data_fingerprint": split.train.fingerprint(),
    }
    if split.cold is not None:
        summary["num_cold_items"] = split.cold.num_items
        summary["num_cold_interactions"] = split.cold.num_interactions
        summary["feature_popularity"] = placed.measures.feature_popularity()
    if config.data.feedback == "explicit":
        summary["explicit_baseline_rmse"] = offsets_rmse(split.train, split.test)
    summary["warnings"] = _warnings(problem, summary, training.records)
    more = {**problem.dataset.features.counts, **channel_summary(problem, training.records)}
    return cast(Summary, {**summary, **more})


def _warnings(problem: Problem, summary: Summary, records: list[dict[str, Any]]) -> list[str]:
    """Return sentences on what is wrong with the result, and what helps."""
    knows_losses = problem.cohort_size == problem.train.num_users and not problem.config.privacy.has_noise
    losses = [one["loss"] for one in records if one["kind"] == "round"] if knows_losses else []
    als = None if summary["centralized"] is None else summary["centralized"]["loss"]
    cautions = (
        caution_of_secure_sums(problem.config),
        caution_of_start(problem.config),
        caution_of_end(problem, summary["federated"]["loss"], als, losses),
        caution_of_als(sum(one["kind"] == "als_sweep" for one in records)),
    )
    return [*filter(None, cautions), *_warnings_of_metrics(problem, summary)]


def _warnings_of_metrics(problem: Problem, summary: Summary) -> list[str]:
    sides = {side: summary[side] for side in ("federated", "centralized")}
    if "explicit_baseline_rmse" in summary:
        return cautions_of_rating(sides, summary["explicit_baseline_rmse"])
    return cautions(problem.config, problem.train, sides, summary.get("popularity", {}))
