"""Devices and processes of an experiment, and how its rounds run on them."""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from fcf_jax.core.federation import Federation, cohort_rows, run_rounds
from fcf_jax.core.histories import Histories
from fcf_jax.core.records import Key, PackedClients, RoundInfo, ServerState
from fcf_jax.experiments.config.schema import ParallelConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.messages import count_of
from fcf_jax.parallel.buffered import rows_of_waves
from fcf_jax.parallel.mesh import (
    client_mesh,
    num_usable_cores,
    place_clients,
    place_state,
    replicate,
    use_cpu_devices,
)
from fcf_jax.parallel.stream import run_rounds_streamed
from fcf_jax.parallel.timetable import Timetable

_MEGABYTE = 10**6
_CACHE_BYTES = 512 * _MEGABYTE
_WORTH_A_DEVICE = 2000  # interactions of a cohort; with fewer, devices wait for each other
_WORTH_A_DEVICE_PER_ITEM = 1.5  # each device repeats the work on all items (benchmarks/README.md)
_MOST_CPU_DEVICES = 64  # each has threads of its own; more than one per core are for trying out
_WORTH_KEEPING = 0.1  # seconds; programs that compile faster are not cached
_PIECE = 2**26  # bytes of a broadcast


def start_devices(parallel: ParallelConfig, *, num_cpu_devices: int | None = None) -> None:
    """Join the other processes and set up the devices of JAX; call before JAX is used.

    A CPU becomes one device per core, or as many as the configuration asks for.

    Args:
        parallel: of the configuration.
        num_cpu_devices: in place of one per core: those that a resumed run began with, whose sums depend on
            them.

    Raises:
        ConfigError: if the processes cannot connect, or for more devices than there are.
    """
    if parallel.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    with contextlib.suppress(ValueError):  # JAX has started: its devices are fixed
        wanted = min(max(parallel.devices or 1, parallel.item_shards), _MOST_CPU_DEVICES)
        wanted = max(num_cpu_devices or num_usable_cores(), wanted)
        use_cpu_devices(wanted if parallel.coordinator is None else 1)
    if parallel.coordinator is not None and not jax.distributed.is_initialized():
        _join(parallel)
    refuse_more_devices(parallel)


def _join(parallel: ParallelConfig) -> None:
    with contextlib.suppress(AttributeError):  # where JAX has it, it takes SIGTERM from the command line
        jax.config.update("jax_enable_preemption_service", False)
    try:
        if parallel.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(
                parallel.coordinator, parallel.num_processes, parallel.process_id, initialization_timeout=60
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"parallel.coordinator: {parallel.coordinator}: the processes could not connect ({error}); "
            "start all of them with the same address"
        ) from None


def refuse_more_devices(parallel: ParallelConfig) -> None:
    """Refuse a configuration that needs more devices than there are.

    Raises:
        ConfigError: naming the key.
    """
    available = jax.device_count()
    for key, wanted in (("devices", parallel.devices), ("item_shards", parallel.item_shards)):
        if wanted is not None and wanted > available:
            raise ConfigError(
                f"parallel.{key}: expected at most {count_of(available, 'device')}, which is what there is, "
                f"got {wanted}; lower it"
            )


def devices_worth(cohort_size: int, histories: Histories) -> int:
    """Compute how many devices make the rounds of such a cohort fastest; 0 is one, too."""
    interactions = cohort_size / max(histories.num_users, 1) * len(histories.item_ids)
    return int(interactions / (_WORTH_A_DEVICE + _WORTH_A_DEVICE_PER_ITEM * histories.num_items))


def mesh_of(parallel: ParallelConfig, *, cohort_size: int | None, histories: Histories) -> Mesh | None:
    """Arrange the devices; None for one device, also if a small cohort of these clients is faster on one.

    Raises:
        ConfigError: for more devices than there are.
    """
    refuse_more_devices(parallel)
    num_devices = parallel.devices or jax.device_count()
    if parallel.devices is None:
        if cohort_size is not None and jax.process_count() == 1:
            worth = devices_worth(cohort_size, histories)
            num_devices = min(num_devices, max(worth, parallel.item_shards))
        num_devices -= num_devices % parallel.item_shards
    return None if num_devices == 1 else client_mesh(num_devices, item_shards=parallel.item_shards)


def keep_compiled_programs() -> None:
    """Cache compiled programs on disk for later runs, unless JAX has a cache folder already."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "fcf_jax" / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


Durations = Callable[[int, RoundInfo], np.ndarray]


class Runner(NamedTuple):
    """Rounds of a federation over the clients of an experiment, on their devices.

    Attributes:
        start: () -> the first state.
        place: a state on the host -> the same on the devices.
        run: (state, num_rounds) -> (state, info); it takes the memory of the state that it gets.
        durations: (first round, info) -> virtual time that each round lasts; None without a clock.
    """

    start: Callable[[], ServerState]
    place: Callable[[ServerState], ServerState]
    run: Callable[[ServerState, int], tuple[ServerState, RoundInfo]]
    durations: Durations | None = None


def pack_on(mesh: Mesh | None, pack: Callable[..., PackedClients], *, is_streamed: bool) -> PackedClients:
    """Pack clients in host memory if they are streamed, otherwise on the devices of the mesh."""
    num_shares = 1 if mesh is None else mesh.shape["clients"]
    if is_streamed:
        return pack(device=jax.local_devices(backend="cpu")[0])
    clients = pack(num_shares=num_shares)
    return clients if mesh is None else place_clients(clients, mesh)


def runner_of(
    federation: Federation,
    key_start: Key,
    key_rounds: Key,
    clients: PackedClients,
    mesh: Mesh | None,
    *,
    num_rounds: int,
    block_chunks: int | None,
    first: jax.Array | None = None,
    timetable: Timetable | None = None,
    durations: Durations | None = None,
) -> Runner:
    """Set up the rounds: with all clients on the devices, or streamed in blocks.

    Args:
        federation: from `Problem.federation`.
        key_start: for the first item factors.
        key_rounds: for cohorts and noise.
        clients: from `pack_on`.
        mesh: devices that share a round; None: one device.
        num_rounds: of the whole training.
        block_chunks: chunks on the devices at a time, if clients are in host memory; None: all chunks.
        first: first item factors; None: drawn from `key_start`.
        timetable: of the federation, if its rounds are asynchronous; None: they are synchronous.
        durations: as of `Runner`.
    """
    key = key_rounds if mesh is None else replicate(key_rounds, mesh)

    def place(state: ServerState) -> ServerState:
        return jax.device_put(state) if mesh is None else place_state(state, mesh)

    def start() -> ServerState:
        return place(federation.init(key_start, first))

    if block_chunks is not None:
        run = partial(run_rounds_streamed, block_chunks=block_chunks)
    elif timetable is not None:
        num_shares = 1 if mesh is None else mesh.shape["clients"]
        run = partial(run_rounds, row_capacity=rows_of_waves(timetable, clients, num_shares=num_shares))
    else:
        shapes = jax.eval_shape(federation.init, key_start, first)
        first_round = shapes._replace(round_index=jnp.zeros((), jnp.int32))  # rows depend on nothing else
        capacity = cohort_rows(federation, key, first_round, clients, num_rounds=num_rounds)
        run = partial(run_rounds, row_capacity=capacity)

    def run_in_place(state: ServerState, num_rounds: int) -> tuple[ServerState, RoundInfo]:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        after, info = run(federation, key, state, clients, num_rounds=num_rounds, donate=True)
        if mesh is not None:  # other shardings than before the block would compile again
            after = jax.device_put(after, shardings)
        return after, info

    return Runner(start, place, run_in_place, durations)


def chunks_of_a_block(clients: PackedClients, megabytes: int) -> int:
    """Return the number of chunks that make up a block of this size, at least 1."""
    leaves = jax.tree.leaves((clients.rows, clients.owners, clients.client_ids))
    of_a_chunk = sum(leaf.nbytes for leaf in leaves) / clients.owners.shape[0]
    return max(int(megabytes * _MEGABYTE / of_a_chunk), 1)


def any_process(flag: bool) -> bool:
    """Return True if `flag` is set on any process. Collective: call on all."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def share_files(folder: Path, patterns: Iterable[str]) -> None:
    """Copy files of process 0 to the same names in the folders of the others. Collective: call on all."""
    if jax.process_count() == 1:
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
            archive.write(path, path.relative_to(folder))
    content = _broadcast(buffer.getvalue())
    if jax.process_index() > 0:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)


def _broadcast(content: bytes) -> bytes:
    """Broadcast the bytes of process 0 in pieces; the others do not know how many there are."""
    is_first = jax.process_index() == 0
    num_whole, rest = multihost_utils.broadcast_one_to_all(np.array(divmod(len(content), _PIECE), np.int32))
    pieces = []
    for size in [_PIECE] * int(num_whole) + [int(rest)]:
        start = _PIECE * len(pieces)
        piece = np.frombuffer(content, np.uint8, size, start) if is_first else np.zeros(size, np.uint8)
        pieces.append(np.asarray(multihost_utils.broadcast_one_to_all(piece), np.uint8).tobytes())
    return b"".join(pieces)
