"""Runs of a sweep, grouped so that each group is one program.

Whatever a federation is set up with is a tree. Runs whose trees have the same structure, static parts and
shapes share a program, and differ in the numbers at its leaves: alpha, lambda, noise, clip norms, numbers of
links. The server step is built from numbers of its own section in the same way. Nothing here knows a link.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import optax
from jax import numpy as jnp

from fcf_jax.core.federation import cohort_rows, setup_of
from fcf_jax.core.kernels.choice import suited
from fcf_jax.core.packing import pack_clients, stack_clients
from fcf_jax.core.records import Key, Model, PackedClients, as_pytree
from fcf_jax.core.setup import Setup
from fcf_jax.evaluation import EvaluationData, popularity, summarize, user_metrics_of_scores
from fcf_jax.experiments.build.arrivals import timetable_of
from fcf_jax.experiments.build.compression import chooses_items
from fcf_jax.experiments.build.dataset import Dataset, load_datasets
from fcf_jax.experiments.build.facts import facts_of
from fcf_jax.experiments.build.histories import compared_histories, trained_histories
from fcf_jax.experiments.build.measuring import scored_data
from fcf_jax.experiments.build.new_items import NewItems, new_items_of
from fcf_jax.experiments.build.problem import Problem, of_popularity, resolve, rounds_key
from fcf_jax.experiments.config.checks import check
from fcf_jax.experiments.config.load import with_values
from fcf_jax.experiments.config.schema import ExperimentConfig, ServerConfig
from fcf_jax.experiments.errors import RefusedError
from fcf_jax.experiments.sweep.plan import Combination, refuse_if_none_is_left
from fcf_jax.parallel.buffered import rows_of_waves
from fcf_jax.parallel.timetable import Timetable

_PLACEHOLDER = optax.identity()  # the same object in all federations; programs replace it
_WITH_DEFAULTS = {"learning_rate": "rate", "confidence_factor": "factor"}  # properties that fill them in


class Packed(NamedTuple):
    """Data of a run, as it is trained and measured on.

    Attributes:
        clients: training histories.
        evaluation: of the users that are evaluated; None without test items.
        new_items: items that are measured apart; None: none.
        popularity: metrics of the ranking by popularity, by name; empty without test items.
    """

    clients: PackedClients
    evaluation: EvaluationData | None
    new_items: NewItems | None
    popularity: dict[str, float]


class Numbers(NamedTuple):
    """What a run may differ in from others of its program.

    Attributes:
        setup: of the federation, with a placeholder for the server step.
        model: that the run is measured with.
        timetable: of asynchronous rounds; None: they are synchronous.
        server: numbers of the server step, by key of its section; the last leaves.
    """

    setup: Setup
    model: Model
    timetable: Timetable | None
    server: dict[str, Any]


class Fixed(NamedTuple):
    """What runs of one program have in common.

    Attributes:
        structure: tree structure of their `Numbers`, with everything static.
        shapes: shape and type of each number, and of each array of their data.
        server: section of the server step, with its numbers left out.
        num_schedule_rounds: rounds over which a learning rate decays; 0 for a constant one.
        chooses_items: whether a round is of some items only.
        num_slots: sums of asynchronous rounds that wait at a time; 0 for synchronous ones.
        lengths: of the ranked lists.
        clears_unseen: whether items without interactions get factors of 0 before they are measured.
    """

    structure: Any
    shapes: tuple
    server: ServerConfig
    num_schedule_rounds: int
    chooses_items: bool
    num_slots: int
    lengths: tuple[int, ...]
    clears_unseen: bool


class Run(NamedTuple):
    """A run that can be trained.

    Attributes:
        number: position in the sweep.
        problem: as resolved.
        data: position of its data among those of the sweep.
        round_key: for cohorts and noise; under noise another one in each process.
        timetable: of asynchronous rounds, on the host; None: they are synchronous.
        numbers: what it may differ in.
        fixed: what decides about its program.
    """

    number: int
    problem: Problem
    data: int
    round_key: Key
    timetable: Timetable | None
    numbers: Numbers
    fixed: Fixed


class Group(NamedTuple):
    """Runs that share a program.

    Attributes:
        runs: in the order of the sweep.
        data: positions of their data among those of the sweep.
        row_capacity: rows of a cohort of any of the runs.
    """

    runs: tuple[Run, ...]
    data: tuple[int, ...]
    row_capacity: int


class Prepared(NamedTuple):
    """A sweep, ready to be trained.

    Attributes:
        combinations: all of them; those that the data refuse are marked.
        groups: of all runs.
        packed: data of the sweep.
        notes: lines about the data.
    """

    combinations: list[Combination]
    groups: list[Group]
    packed: list[Packed]
    notes: list[str]


def prepare(combinations: list[Combination]) -> Prepared:
    """Load the data, resolve all runs and group them.

    Raises:
        ValueError: in one line, for bad data, or if no combination fits them.
        OSError: if data cannot be read.
    """
    datasets = _load([one.config for one in combinations if one.config is not None])
    combinations = refuse_if_none_is_left([_checked(one, datasets) for one in combinations])
    packed: dict[str, Packed] = {}
    runs = []
    for number, _, config, _ in combinations:
        if config is None:
            continue
        problem = resolve(config, datasets[_data_key(config)])
        key = _packing_key(config)
        if key not in packed:
            packed[key] = _pack(problem)
        runs.append(_run(number, problem, list(packed).index(key), packed[key]))
    everything = list(packed.values())
    notes = dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes)
    return Prepared(combinations, group(runs, everything), everything, list(notes))


def group(runs: Iterable[Run], packed: Sequence[Packed]) -> list[Group]:
    """Group runs so that each group is one program, and there are as few as can be.

    Args:
        runs: of the sweep.
        packed: their data.
    """
    by_fixed: dict[Fixed, list[Run]] = {}
    for run in runs:
        by_fixed.setdefault(run.fixed, []).append(run)
    return [_group(tuple(members), packed) for members in by_fixed.values()]


def data_of(group: Group, packed: Sequence[Packed]) -> tuple[PackedClients, EvaluationData | None]:
    """Return training histories and evaluation data of a group, stacked if they are of several splits."""
    own = [packed[position] for position in group.data]
    if len(own) > 1:
        evaluation = jax.tree.map(lambda *leaves: np.stack(leaves), *[one.evaluation for one in own])
        return stack_clients([one.clients for one in own]), evaluation
    clients = own[0].clients
    for run in group.runs:
        clients = suited(run.problem.model, clients)
    return clients, own[0].evaluation


def server_numbers(server: ServerConfig) -> dict[str, float]:
    """Return the numbers of a server step that may be traced, with the defaults of the step filled in.

    A number that is 0 may decide about what is computed, and stays in the program.
    """
    numbers = {}
    for name, field in type(server).model_fields.items():
        if field.annotation is not float and float not in get_args(field.annotation):
            continue
        if name == "learning_rate" and server.spec.learning_rate is None and server.learning_rate is None:
            continue
        if value := getattr(server, _WITH_DEFAULTS.get(name, name)):
            numbers[name] = float(value)
    return numbers


def _load(configs: Sequence[ExperimentConfig]) -> dict[str, Dataset]:
    """Load each data set once, and split it with each seed that is asked for."""
    by_source: dict[str, list[ExperimentConfig]] = {}
    for config in configs:
        seedless = config if config.data.source == "simulated" else with_values(config, {"data.seed": 0})
        by_source.setdefault(_data_key(seedless), []).append(config)
    datasets = {}
    for members in by_source.values():
        of_seed = {one.data.seed: _data_key(one) for one in members}
        loaded = _load_for_any(members, list(of_seed))
        loaded = loaded * len(of_seed) if len(loaded) == 1 else loaded  # a split that is not random
        datasets |= dict(zip(of_seed.values(), loaded, strict=True))
    return datasets


def _load_for_any(configs: Sequence[ExperimentConfig], seeds: Sequence[int]) -> list[Dataset]:
    """Load the data for the configuration with the largest confidences, or the next that fits them."""
    refusal: RefusedError | None = None
    for config in sorted(configs, key=lambda one: -one.model.alpha):
        try:
            return load_datasets(with_values(config, {"data.seed": seeds[0]}), seeds)
        except RefusedError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def _data_key(config: ExperimentConfig) -> str:
    return config.data.model_dump_json()


def _packing_key(config: ExperimentConfig) -> str:
    """Return what histories and evaluation data depend on."""
    model, privacy = config.model, config.privacy
    cap = privacy.max_user_items if privacy.has_noise else None
    negatives = (model.objective, model.num_negatives) if model.has_sampled_negatives else None
    return f"{_data_key(config)} {cap} {negatives} {model.num_factors} {config.evaluation.model_dump_json()}"


def _checked(one: Combination, datasets: dict[str, Dataset]) -> Combination:
    if one.config is None:
        return one
    dataset = datasets[_data_key(one.config)]
    try:
        check(one.config, "sweep", facts_of(one.config, dataset))
    except RefusedError as error:
        return one.refused(str(error))
    return one


def _pack(problem: Problem) -> Packed:
    config, dataset, seed = problem.config, problem.dataset, problem.config.data.seed
    compare = partial(compared_histories, config.model, seed=seed)
    clients = pack_clients(
        compare(trained_histories(config.privacy, problem.train, seed=seed)),
        num_factors=config.model.num_factors,
        features=dataset.features.of_users(problem.train),
    )
    evaluation, floor = scored_data(dataset, config.evaluation, compare=compare, seed=seed), {}
    if evaluation is not None:
        shares = popularity(problem.train)
        metrics = user_metrics_of_scores(problem.model, shares, evaluation, k=config.evaluation.lengths)
        floor = of_popularity(config, summarize(metrics))
    new_items = new_items_of(dataset, config.data, config.evaluation, seed=seed)
    return Packed(clients, evaluation, new_items, floor)


def _run(number: int, problem: Problem, data: int, packed: Packed) -> Run:
    server, config = problem.config.server, problem.config
    timetable, num_slots = _timetable(problem)
    numbers = Numbers(
        replace(setup_of(problem.federation()), optimizer=_PLACEHOLDER),
        as_pytree(problem.model),
        None if timetable is None else as_pytree(timetable),
        server_numbers(server),
    )
    leaves, structure = jax.tree.flatten(numbers)
    histories = packed.clients.rows.mask.shape[-1], packed.clients.row_counts.shape[0]
    shapes = [_shape(leaf) for leaf in (*leaves, *jax.tree.leaves(packed.evaluation))]
    fixed = Fixed(
        structure=structure,
        shapes=(histories, packed.new_items is None, *shapes),
        server=server.model_copy(update=dict.fromkeys(numbers.server)),
        num_schedule_rounds=0 if server.decay == "constant" else config.federation.num_rounds,
        chooses_items=chooses_items(problem),
        num_slots=num_slots,
        lengths=config.evaluation.lengths,
        clears_unseen=problem.clears_unseen,
    )
    round_key = rounds_key(config.privacy, problem.key)
    return Run(number, problem, data, round_key, timetable, numbers, fixed)


def _timetable(problem: Problem) -> tuple[Timetable | None, int]:
    """Simulate asynchronous rounds, and fill up what depends on chance: waves and slots to powers of 2."""
    timetable = timetable_of(problem)
    if timetable is None:
        return None, 0
    num_slots, num_waves = (_power_of_2(size) for size in (timetable.num_slots, timetable.starts.shape[1]))
    missing = [(0, 0), (0, num_waves - timetable.starts.shape[1]), (0, 0)]
    nobody = problem.train.num_users
    filled = {
        name: np.pad(getattr(timetable, name), missing, constant_values=nobody if name == "starts" else 0)
        for name in ("starts", "weights", "slots")
    }
    return timetable._replace(**filled), num_slots


def _power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _group(runs: tuple[Run, ...], packed: Sequence[Packed]) -> Group:
    data = tuple(dict.fromkeys(run.data for run in runs))
    return Group(runs, data, max(_rows(run, packed[run.data].clients) for run in runs))


def _rows(run: Run, clients: PackedClients) -> int:
    """Compute the rows that the cohorts of a run take."""
    problem = run.problem
    if run.timetable is not None:
        return rows_of_waves(run.timetable, clients)
    federation = problem.federation()
    state = jax.eval_shape(federation.init, problem.key)._replace(round_index=jnp.zeros((), jnp.int32))
    num_rounds = problem.config.federation.num_rounds
    return cohort_rows(federation, run.round_key, state, clients, num_rounds=num_rounds)


def _shape(leaf: Any) -> tuple:
    return np.shape(leaf), str(getattr(leaf, "dtype", None) or jnp.result_type(leaf))
