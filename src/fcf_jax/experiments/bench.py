"""What a round costs on this machine, on the data of a configuration, beside ALS and `implicit`.

The federation's rounds, a sweep of our ALS and an iteration of `implicit` (when it is installed)
are timed in turn, after compiling. The clients lie on the device, also where the configuration
streams them.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from fcf_jax.als import run_sweeps
from fcf_jax.core.packing import batch_clients, batch_items, padding_factor
from fcf_jax.core.records import PackedClients, Weighting
from fcf_jax.data import Interactions
from fcf_jax.experiments.build.dataset import Dataset, weighting_of
from fcf_jax.experiments.build.devices import mesh_of
from fcf_jax.experiments.build.models import configured_als, configured_federation, model_options
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.config.server_steps import build_optimizer, step_of
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.timed_runs import (
    ItemFactors,
    Rounds,
    confidences,
    implicit_iterations,
    placed,
    rounds_of,
    single_threaded_blas,
    trained,
)
from fcf_jax.experiments.timing import Timing, count_compilations, measure, ratio

_NO_IMPLICIT = "implicit is not installed; pip install 'fcf_jax[bench]'"
_OTHER_MODEL = "implicit knows implicit feedback with unobserved_weight 1 only; it is left out"
_DEFAULT_COHORT = 100  # clients, where the configuration takes everybody
_BLOCK = 5  # full rounds, sweeps or iterations in a call
_COHORT_BLOCK = 50  # rounds of a cohort in a call


class _Task(NamedTuple):
    """What all runs share."""

    config: ExperimentConfig
    train: Interactions
    weighting: Weighting
    clients: PackedClients
    mesh: Mesh | None
    cohort_size: int


def refuse_unfit(config: ExperimentConfig) -> None:
    """Refuse what would be another benchmark.

    Raises:
        ConfigError: for several processes or shards of the item factors.
    """
    if config.parallel.coordinator is not None or config.parallel.item_shards > 1:
        raise ConfigError(
            "parallel: fcf bench times one process and whole item factors; "
            "leave out parallel.coordinator and parallel.item_shards"
        )


def run_bench(config: ExperimentConfig, dataset: Dataset, *, repeats: int) -> dict[str, Any]:
    """Time everything that there is to time.

    Args:
        config: as `load_config` resolved it, and `refuse_unfit` let it pass.
        dataset: what `load_dataset(config)` returned.
        repeats: warm calls of each run.

    Returns:
        Seconds, rates and ratios, as plain values.
    """
    with single_threaded_blas():
        return _run_bench(config, dataset, repeats=repeats)


def tables(document: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Arrange the outcome of `run_bench` for the eye: titles and rows."""
    data = document["data"]
    yield (
        f"{data['num_users']} users, {data['num_items']} items, {data['num_interactions']} interactions, "
        f"K = {data['num_factors']}, {data['num_devices']} devices, padding {data['padding_factor']:.3g}",
        [
            {
                "": name,
                "median ms": 1e3 * one["median_s"],
                "min ms": 1e3 * one["min_s"],
                "max ms": 1e3 * one["max_s"],
                "compiling s": document["compile_s"].get(name, "-"),
            }
            for name, one in document["timings"].items()
        ],
    )
    yield "rates", [{"": name, **rates} for name, rates in document["rates"].items()]
    yield "ratios", [{"": name, **spread} for name, spread in document["ratios"].items()]


def _run_bench(config: ExperimentConfig, dataset: Dataset, *, repeats: int) -> dict[str, Any]:
    task = _task(config, dataset)
    options = model_options(config, num_items=task.train.num_items, mesh=task.mesh)
    item_factors = trained(task.weighting, task.clients, **options)
    rounds = _federated(task, item_factors, num_calls=repeats + 2)
    peers, note = _peers(task)
    counts = {name: one.num_rounds for name, one in rounds.items()}
    runs = {name: one.run for name, one in rounds.items()} | _als(task, item_factors) | peers
    measured = measure(runs, repeats=repeats)
    with count_compilations() as compilations:
        for one in rounds.values():
            jax.block_until_ready(one.run())
    timings = {name: timing.per(counts.get(name, _BLOCK)) for name, timing in measured.items()}
    full = timings["full_round"]
    return {
        "data": _sizes(task),
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "compile_s": {name: measured[name].compile_s for name in runs if name not in peers},
        "compilations_of_another_call": compilations.count,
        "rates": _rates(task, timings, rounds),
        "ratios": {
            f"full_round / {name}": ratio(full, timing)._asdict()
            for name, timing in timings.items()
            if name not in rounds
        },
        "note": note,
    }


def _task(config: ExperimentConfig, dataset: Dataset) -> _Task:
    train, mesh = dataset.split.train, mesh_of(config)
    return _Task(
        config=config,
        train=train,
        weighting=weighting_of(config, dataset.mean_rating),
        clients=placed(partial(batch_clients, train), mesh),
        mesh=mesh,
        cohort_size=min(config.federation.cohort_size or _DEFAULT_COHORT, train.num_users),
    )


def _federated(task: _Task, item_factors: ItemFactors, *, num_calls: int) -> dict[str, Rounds]:
    """Prepare full rounds and rounds of a cohort; with Adam, too, if the step needs everybody."""
    configured = build_optimizer(task.config)
    needs_everybody = step_of(task.config).needs_everybody
    step = optax.adam(0.01) if needs_everybody else configured
    wanted: dict[str, tuple[optax.GradientTransformation, int | None, int]] = {
        "full_round": (configured, None, _BLOCK)
    }
    if needs_everybody:
        wanted["full_round_adam"] = (step, None, _BLOCK)
    wanted["cohort_round"] = (step, task.cohort_size, _COHORT_BLOCK)
    found = {}
    for name, (optimizer, size, num_rounds) in wanted.items():
        federation = configured_federation(
            with_values(task.config, {"federation.cohort_size": size}),
            task.weighting,
            num_users=task.train.num_users,
            num_items=task.train.num_items,
            mesh=task.mesh,
            optimizer=optimizer,
        )
        found[name] = rounds_of(
            federation, task.clients, item_factors, task.mesh, num_rounds=num_rounds, num_calls=num_calls
        )
    return found


def _als(task: _Task, item_factors: ItemFactors) -> dict[str, Callable[[], Any]]:
    """Prepare sweeps of ALS, if the configuration wants it at all: it needs the data a second time."""
    if not task.config.evaluation.baseline:
        return {}
    als = configured_als(task.config, task.weighting, num_items=task.train.num_items, mesh=task.mesh)
    items = placed(partial(batch_items, task.train), task.mesh)
    return {"als_sweep": lambda: run_sweeps(als, item_factors, task.clients, items, num_sweeps=_BLOCK)}


def _peers(task: _Task) -> tuple[dict[str, Callable[[], None]], str]:
    """Prepare `implicit`, or say why not."""
    model = task.config.model
    if task.config.data.feedback != "implicit" or model.unobserved_weight != 1:
        return {}, _OTHER_MODEL
    if importlib.util.find_spec("implicit") is None:
        return {}, _NO_IMPLICIT
    matrix = confidences(task.train, alpha=model.alpha)
    names = {"implicit_exact": False, "implicit_cg": True}
    return {
        name: implicit_iterations(
            matrix,
            num_factors=model.num_factors,
            regularization=model.regularization,
            use_cg=use_cg,
            num_iterations=_BLOCK,
        )
        for name, use_cg in names.items()
    }, ""


def _sizes(task: _Task) -> dict[str, Any]:
    return {
        "num_users": task.train.num_users,
        "num_items": task.train.num_items,
        "num_interactions": task.train.num_interactions,
        "padding_factor": padding_factor(task.clients),
        "num_factors": task.config.model.num_factors,
        "cohort_size": task.cohort_size,
        "server_step": task.config.server.step,
        "num_devices": 1 if task.mesh is None else task.mesh.size,
    }


def _rates(task: _Task, timings: dict[str, Timing], rounds: dict[str, Rounds]) -> dict[str, dict[str, float]]:
    """Rounds and clients a second; the ideal of a cohort is N / Theta times the full rounds of its step."""
    num_users, theta = task.train.num_users, task.cohort_size
    clients = {name: theta if name == "cohort_round" else num_users for name in rounds}
    per_s = {name: 1 / (timings[name].median_s + one.plan_s) for name, one in rounds.items()}
    full = per_s.get("full_round_adam", per_s["full_round"])
    return {
        name: {
            "rounds_per_s": rate,
            "clients_per_s": rate * clients[name],
            "fraction_of_ideal": rate * theta / (num_users * full) if name == "cohort_round" else 1.0,
        }
        for name, rate in per_s.items()
    }
