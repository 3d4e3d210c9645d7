"""Batches of runs: places side by side in a compiled program, which all batches of a group share.

    job = placed(job_of(group, packed, mesh))
    batch = begin(job, group.runs[: job.num_places])
    states = start(batch)
    states, infos = advance(batch, states, [10, 10])
    outcomes = assess(batch, states)

Other numbers, keys and data of the same shapes compile nothing. The last run is repeated in places that are
left over.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from fcf_jax.channel import step_of_sent_items
from fcf_jax.core.federation import Federation, federation_of, run_rounds
from fcf_jax.core.records import Key, PackedClients, RoundInfo, ServerState
from fcf_jax.evaluation import EvaluationData, UserMetrics, summarize
from fcf_jax.evaluation.metrics import metric_names
from fcf_jax.experiments.build import measuring
from fcf_jax.experiments.config.schema import ServerConfig
from fcf_jax.experiments.loop import Learned
from fcf_jax.experiments.sweep.on_host import Metrics, is_measured_on_host, measured_on_host
from fcf_jax.experiments.sweep.runs import Fixed, Group, Numbers, Packed, Run, data_of
from fcf_jax.parallel.batch import map_runs, place_runs, runs_that_fit
from fcf_jax.parallel.buffered import buffered_rounds

MOST_ROUNDS = 10  # of one call of `advance`


class Program(NamedTuple):
    """Static arguments of the compiled functions.

    Attributes:
        fixed: what the runs have in common.
        is_varied: of each leaf of `Numbers`, whether the runs differ in it.
        varied_keys: numbers of the server step in which they differ.
        server: section of the server step, without these numbers.
        row_capacity: rows of a cohort.
        is_stacked: whether data are stacked, one for each of several splits.
        needs_factors: whether factors are needed on the host: to measure new items, or attacks.
        at_a_time: runs computed together on a device.
        mesh: devices that share the runs; None: one device.
    """

    fixed: Fixed
    is_varied: tuple[bool, ...]
    varied_keys: tuple[str, ...]
    server: ServerConfig
    row_capacity: int
    is_stacked: bool
    needs_factors: bool
    at_a_time: int
    mesh: Mesh | None


class _Each(NamedTuple):
    """Arguments of each place.

    Attributes:
        numbers: leaves in which the runs differ.
        start_key: key of the first item factors.
        round_key: key of cohorts and noise.
        data: position of the data in the stack.
    """

    numbers: tuple[Array, ...]
    start_key: Key
    round_key: Key
    data: Int[Array, "..."]


class _All(NamedTuple):
    """Arguments that all places share: the other leaves, and the data."""

    numbers: tuple[Any, ...]
    clients: PackedClients
    evaluation: EvaluationData | None


class Job(NamedTuple):
    """A group with its program.

    Attributes:
        group: runs that share the program.
        packed: data of the sweep.
        program: what is compiled.
        all: arguments that all places share, on the devices; None until the job is placed.
        num_places: runs of a batch, a multiple of the devices.
    """

    group: Group
    packed: Sequence[Packed]
    program: Program
    all: _All | None
    num_places: int

    @property
    def batches(self) -> list[tuple[Run, ...]]:
        """The runs of each batch."""
        runs, size = self.group.runs, self.num_places
        return [runs[first : first + size] for first in range(0, len(runs), size)]


class Batch(NamedTuple):
    """Runs side by side.

    Attributes:
        job: whose program they take.
        runs: at most as many as there are places.
        each: arguments of each place.
    """

    job: Job
    runs: tuple[Run, ...]
    each: _Each


class Outcome(NamedTuple):
    """Result of a run: means of the metrics, with the loss over all clients, and whether Y is finite."""

    metrics: Metrics
    is_finite: bool


def job_of(group: Group, packed: Sequence[Packed], mesh: Mesh | None) -> Job:
    """Decide about the program of a group.

    Args:
        group: from `prepare`.
        packed: data of the sweep.
        mesh: devices that share the runs; None: one device.
    """
    first = group.runs[0]
    leaves = [jax.tree.leaves(run.numbers) for run in group.runs]
    is_varied = tuple(not _agree(column) for column in zip(*leaves, strict=True))
    of_server = is_varied[len(is_varied) - len(first.numbers.server) :]
    keys = zip(sorted(first.numbers.server), of_server, strict=True)
    varied_keys = tuple(key for key, varies in keys if varies)
    num_places, at_a_time = _places(group, packed[group.data[0]].clients, mesh)
    program = Program(
        fixed=first.fixed,
        is_varied=is_varied,
        varied_keys=varied_keys,
        server=first.problem.config.server.model_copy(update=dict.fromkeys(varied_keys)),
        row_capacity=group.row_capacity,
        is_stacked=len(group.data) > 1,
        needs_factors=any(is_measured_on_host(run, packed[run.data]) for run in group.runs),
        at_a_time=at_a_time,
        mesh=mesh,
    )
    return Job(group, packed, program, None, num_places)


def placed(job: Job) -> Job:
    """Place the data of a job on its devices."""
    mesh, leaves = job.program.mesh, jax.tree.leaves(job.group.runs[0].numbers)
    shared = tuple(leaf for leaf, varies in zip(leaves, job.program.is_varied, strict=True) if not varies)
    everything = _All(shared, *data_of(job.group, job.packed))
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return job._replace(all=jax.device_put(everything, where))


def begin(job: Job, runs: Sequence[Run]) -> Batch:
    """Set up a batch of at most `job.num_places` runs."""
    filled = [*runs, *[runs[-1]] * (job.num_places - len(runs))]
    own = [jax.tree.leaves(run.numbers) for run in filled]
    columns = zip(zip(*own, strict=True), job.program.is_varied, strict=True)
    each = _Each(
        tuple(jnp.stack([jnp.asarray(leaf) for leaf in column]) for column, varies in columns if varies),
        jnp.stack([run.problem.key for run in filled]),
        jnp.stack([run.round_key for run in filled]),
        jnp.asarray([job.group.data.index(run.data) for run in filled]),
    )
    return Batch(job, tuple(runs), place_runs(each, job.program.mesh))


def start(batch: Batch) -> ServerState:
    """Draw the first state of each place, stacked."""
    return place_runs(_start(batch.job.program, batch.each, batch.job.all), batch.job.program.mesh)


def advance(
    batch: Batch, states: ServerState, num_rounds: Sequence[int]
) -> tuple[ServerState, list[RoundInfo]]:
    """Run rounds of each run; another number of them compiles nothing.

    Args:
        batch: from `begin`.
        states: of all places, stacked.
        num_rounds: rounds of each run, at most `MOST_ROUNDS`; 0 for a run that has ended.

    Returns:
        The states after them, and of each run the infos of its rounds, on the host.
    """
    steps = np.zeros(batch.job.num_places, np.int32)
    steps[: len(num_rounds)] = num_rounds
    states, infos = _advance(batch.job.program, (batch.each, states, jnp.asarray(steps)), batch.job.all)
    host = jax.tree.map(np.asarray, infos)
    own = [
        jax.tree.map(lambda leaf, place=place, size=size: leaf[place, :size], host)
        for place, size in enumerate(num_rounds)
    ]
    return states, own


def assess(batch: Batch, states: ServerState) -> list[Outcome]:
    """Measure each run, side by side."""
    job = batch.job
    assessed = jax.tree.map(np.asarray, _assess(job.program, (batch.each, states), job.all))
    return [
        _outcome(job, run, jax.tree.map(lambda leaf, place=place: leaf[place], assessed))
        for place, run in enumerate(batch.runs)
    ]


class _Assessed(NamedTuple):
    """What is computed of each place; the factors only if they are needed on the host."""

    metrics: UserMetrics | None
    loss: Any
    is_finite: Any
    factors: tuple[Any, Any] | None


@partial(jax.jit, static_argnums=0)
def _start(program: Program, each: _Each, everything: _All) -> ServerState:
    return jax.vmap(lambda one: _federation(program, one, everything).init(one.start_key))(each)


@partial(jax.jit, static_argnums=0)
def _advance(
    program: Program, of_each: tuple[_Each, ServerState, Array], everything: _All
) -> tuple[ServerState, RoundInfo]:
    def advance_one(one: _Each, state: ServerState, num_rounds: Array, everything: _All):
        federation = _federation(program, one, everything)
        clients = _own(program, one, everything.clients)

        def next_round(state: ServerState) -> tuple[ServerState, RoundInfo]:
            return run_rounds(
                federation, one.round_key, state, clients, num_rounds=1, row_capacity=program.row_capacity
            )

        def step(index: Array, carry: tuple) -> tuple:
            state, info = next_round(carry[0])
            return state, jax.tree.map(lambda every, new: every.at[index].set(new[0]), carry[1], info)

        _, shapes = jax.eval_shape(next_round, state)
        infos = jax.tree.map(lambda leaf: jnp.zeros((MOST_ROUNDS, *leaf.shape[1:]), leaf.dtype), shapes)
        return jax.lax.fori_loop(0, num_rounds, step, (state, infos))

    return map_runs(advance_one, of_each, (everything,), at_a_time=program.at_a_time, mesh=program.mesh)


@partial(jax.jit, static_argnums=0)
def _assess(program: Program, of_each: tuple[_Each, ServerState], everything: _All) -> _Assessed:
    def assess_one(one: _Each, state: ServerState, everything: _All) -> _Assessed:
        numbers, clients = _numbers(program, one, everything), _own(program, one, everything.clients)
        item_factors, user_map = Learned.of(state)
        is_finite = jnp.isfinite(item_factors).all()
        if program.fixed.clears_unseen:
            item_factors = jnp.where(clients.item_counts[:, None] > 0, item_factors, 0.0)
        user_factors, loss, metrics = measuring.assess(
            numbers.model,
            item_factors,
            user_map,
            clients,
            _own(program, one, everything.evaluation),
            k=program.fixed.lengths,
            item_features=numbers.setup.item_features,
        )
        factors = (user_factors, item_factors) if program.needs_factors else None
        return _Assessed(metrics, loss, is_finite, factors)

    return map_runs(assess_one, of_each, (everything,), at_a_time=program.at_a_time, mesh=program.mesh)


def _outcome(job: Job, run: Run, found: _Assessed) -> Outcome:
    names = metric_names(job.program.fixed.lengths)
    values = dict.fromkeys(names, float("nan")) if found.metrics is None else summarize(found.metrics)
    if found.factors is not None:
        values |= measured_on_host(run, job.packed[run.data], *found.factors)
    return Outcome({**values, "loss": float(found.loss)}, bool(found.is_finite))


def _numbers(program: Program, one: _Each, everything: _All) -> Numbers:
    varied, shared = iter(one.numbers), iter(everything.numbers)
    leaves = [next(varied) if varies else next(shared) for varies in program.is_varied]
    return jax.tree.unflatten(program.fixed.structure, leaves)


def _federation(program: Program, one: _Each, everything: _All) -> Federation:
    numbers = _numbers(program, one, everything)
    traced = {key: numbers.server[key] for key in program.varied_keys}
    server = program.server.model_copy(update=traced)  # the other numbers are constants of the program
    optimizer = server.optimizer(program.fixed.num_schedule_rounds)
    if program.fixed.chooses_items:
        optimizer = step_of_sent_items(optimizer)
    federation = federation_of(dataclasses.replace(numbers.setup, optimizer=optimizer))
    if numbers.timetable is None:
        return federation
    return buffered_rounds(federation, numbers.timetable, num_slots=program.fixed.num_slots)


def _own(program: Program, one: _Each, data: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[one.data], data) if program.is_stacked else data


def _agree(leaves: Sequence[Any]) -> bool:
    """Return whether a leaf is the same in all runs."""
    first, *others = leaves
    if jnp.issubdtype(jnp.result_type(first), jax.dtypes.prng_key):
        first, *others = map(jax.random.key_data, leaves)
    return all(leaf is first or bool(np.array_equal(leaf, first)) for leaf in others)


def _places(group: Group, clients: PackedClients, mesh: Mesh | None) -> tuple[int, int]:
    """Return the places of a batch, and the runs computed together on a device: on a CPU, one."""
    num_shares, first = 1 if mesh is None else mesh.size, group.runs[0]
    federation = first.problem.federation()
    states = jax.eval_shape(jax.vmap(federation.init), jnp.stack([first.problem.key]))
    at_a_time = runs_that_fit(states.item_factors, states, clients)
    num_batches = -(-len(group.runs) // (num_shares * at_a_time))
    share = -(-len(group.runs) // (num_batches * num_shares))
    return share * num_shares, min(at_a_time, share)
