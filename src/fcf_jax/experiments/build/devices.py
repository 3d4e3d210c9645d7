"""Where an experiment runs: on which devices of which processes, and what is moved there when."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from fcf_jax.core.federation import Federation, cohort_rows, run_rounds
from fcf_jax.core.records import Key, PackedClients, RoundInfo, ServerState
from fcf_jax.experiments.config.schema import ExperimentConfig, ParallelConfig
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.parallel.mesh import client_mesh, place_clients, place_state, replicate, use_cpu_devices
from fcf_jax.parallel.stream import run_rounds_streamed

_MEGABYTE = 10**6
_CACHE_BYTES = 512 * _MEGABYTE
_CLIENTS_WORTH_A_DEVICE = 200  # of a cohort; fewer, and devices wait for each other (benchmarks/README.md)
_WORTH_KEEPING = 0.1  # seconds of compiling


def start_devices(parallel: ParallelConfig) -> None:
    """Join the other processes and tell JAX what a device is, before it does anything.

    Raises:
        ConfigError: when the processes do not find each other.
    """
    if parallel.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    with contextlib.suppress(ValueError):  # where JAX has started, its devices are what they are
        use_cpu_devices(None if parallel.coordinator is None else 1)
    if parallel.coordinator is None or jax.distributed.is_initialized():
        return
    try:
        if parallel.coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(
                parallel.coordinator, parallel.num_processes, parallel.process_id, initialization_timeout=60
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"parallel.coordinator: {parallel.coordinator}: the processes did not meet ({error}); "
            "start all of them, with the same address"
        ) from None


def mesh_of(config: ExperimentConfig) -> Mesh | None:
    """Arrange the devices; None where there is one only, or where one is faster for a small cohort.

    Raises:
        ConfigError: for more devices than there are.
    """
    parallel, cohort_size = config.parallel, config.federation.cohort_size
    available = jax.device_count()
    num_devices = available if parallel.devices is None else parallel.devices
    if parallel.devices is None:
        if cohort_size is not None and jax.process_count() == 1:
            num_devices = min(num_devices, max(cohort_size // _CLIENTS_WORTH_A_DEVICE, parallel.item_shards))
        num_devices -= num_devices % parallel.item_shards
    if not parallel.item_shards <= num_devices <= available:
        raise ConfigError(
            f"parallel.devices: expected {parallel.item_shards} to {available}, got {num_devices}; "
            "change parallel.devices or lower parallel.item_shards"
        )
    return None if num_devices == 1 else client_mesh(num_devices, item_shards=parallel.item_shards)


def keep_compiled_programs() -> None:
    """Keep what JAX compiles for the next run, unless the user has a folder for that already."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "fcf_jax" / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


class Runner(NamedTuple):
    """The rounds of one federation over the clients of one experiment, wherever they run."""

    start: Callable[[], ServerState]
    place: Callable[[ServerState], ServerState]  # a state that was brought to the host
    run: Callable[[ServerState, int], tuple[ServerState, RoundInfo]]  # (state, num_rounds)


def pack_on(mesh: Mesh | None, pack: Callable[..., PackedClients], *, is_streamed: bool) -> PackedClients:
    """Pack in host memory, or where the rounds will need the clients."""
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
    config: ExperimentConfig,
) -> Runner:
    """Decide how the rounds are run.

    Args:
        federation: whose rounds.
        key_start: of the first item factors.
        key_rounds: of cohorts and noise.
        clients: where `pack_on` put them.
        mesh: of the devices.
        config: how many rounds, and how they are run.
    """
    num_rounds = config.federation.num_rounds
    key = key_rounds if mesh is None else replicate(key_rounds, mesh)

    def place(state: ServerState) -> ServerState:
        return jax.device_put(state) if mesh is None else place_state(state, mesh)

    def start() -> ServerState:
        return place(federation.init(key_start))

    if config.parallel.stream:
        block_chunks = chunks_of_a_block(clients, config.parallel.block_megabytes)
        run = partial(run_rounds_streamed, block_chunks=block_chunks)
    else:
        capacity = cohort_rows(federation, key, start(), clients, num_rounds=num_rounds)
        run = partial(run_rounds, row_capacity=capacity)

    def run_in_place(state: ServerState, num_rounds: int) -> tuple[ServerState, RoundInfo]:
        after, info = run(federation, key, state, clients, num_rounds=num_rounds)
        if mesh is not None:  # every block begins alike, or it would be another program
            after = jax.device_put(after, jax.tree.map(lambda leaf: leaf.sharding, state))
        return after, info

    return Runner(start, place, run_in_place)


def chunks_of_a_block(clients: PackedClients, megabytes: int) -> int:
    """Count the chunks that make up a block of this size."""
    leaves = jax.tree.leaves((clients.rows, clients.owners, clients.client_ids))
    of_a_chunk = sum(leaf.nbytes for leaf in leaves) / clients.owners.shape[0]
    return max(int(megabytes * _MEGABYTE / of_a_chunk), 1)
