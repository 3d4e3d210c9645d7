"""Meshes and placements: clients split over devices and hosts, with the server's state on all of them.

    mesh = client_mesh()                                   # all devices of all processes
    federation = federated_cf(..., mesh=mesh)
    state = place_state(federation.init(key), mesh)
    state, info = run_rounds(federation, key, state, place_clients(clients, mesh), num_rounds=10)

Clients are split along the axis "clients" of the mesh. The item factors are copied to all devices, or, if
they are too large for one, split along its axis "items". With several hosts, one process per host runs this
same program after `jax.distributed.initialize`.
"""

import ctypes
import os
from functools import cache
from typing import TypeVar

import jax
import jax.monitoring
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fcf_jax.core.packing import chunk_specs, fill_up
from fcf_jax.core.placement import state_shardings
from fcf_jax.core.records import PackedClients, ServerState
from fcf_jax.messages import count_of

Tree = TypeVar("Tree")

_COMPILED = "/jax/core/compile/backend_compile_duration"  # of jax.monitoring
_LONG_COMPILATION = 0.05  # seconds


def num_usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cpu_devices(num_devices: int | None = None) -> None:
    """Split the CPU into several JAX devices, by default one per core that this process may use.

    XLA keeps the work of a device on one core for most of a round; two devices on two cores take little more
    than half the time. Call this before JAX starts. It does not affect GPUs. BLAS keeps to one thread, in all
    of the process: devices that call LAPACK at once would wait for each other's threads, 50 ms a call.
    Memory that the compiler has freed goes back to the system (with glibc), 200 MB after a round's program.

    Raises:
        ValueError: if JAX has started already, or for a number below 1.
    """
    num_devices = num_usable_cores() if num_devices is None else num_devices
    if num_devices < 1:
        raise ValueError(f"expected num_devices of at least 1, got {num_devices}")
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:
        raise ValueError("expected JAX not to have started; call use_cpu_devices first of all") from None
    _return_memory_of_the_compiler()
    if num_devices > 1:
        import scipy.linalg  # noqa: F401  loads the BLAS that XLA calls
        import threadpoolctl

        threadpoolctl.threadpool_limits(1, user_api="blas")


@cache
def _return_memory_of_the_compiler() -> None:
    """Trim the heap after each compilation: glibc would keep what XLA has freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is None:
        return

    def after(event: str, duration_secs: float, **details: str | int) -> None:
        if event == _COMPILED and duration_secs > _LONG_COMPILATION:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)


def client_mesh(num_devices: int | None = None, *, item_shards: int = 1) -> Mesh:
    """Build a mesh of the first devices of all processes, with axes ("clients", "items").

    Args:
        num_devices: number of devices; None: all.
        item_shards: number of parts that the item factors are split into; 1: each device has all of them.

    Raises:
        ValueError: for a number below 1, more devices than there are, or a number that `item_shards` does not
            divide.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ValueError(f"expected 1 to {len(devices)} devices, got num_devices {num_devices}")
    if item_shards < 1 or num_devices % item_shards:
        raise ValueError(
            f"expected item_shards to divide the {count_of(num_devices, 'device')}, got {item_shards}"
        )
    shape = (num_devices // item_shards, item_shards)
    return jax.make_mesh(
        shape, ("clients", "items"), axis_types=(AxisType.Auto,) * 2, devices=devices[:num_devices]
    )


def place_clients(clients: PackedClients, mesh: Mesh) -> PackedClients:
    """Split the chunks of clients over the mesh, padded to the same number on each device."""
    num_chunks = clients.client_ids.shape[0]
    one_device = clients._replace(items=None)  # the kernels that need them know no mesh
    filled = fill_up(one_device, num_chunks=num_chunks + -num_chunks % mesh.shape["clients"])
    return jax.tree.map(lambda spec, part: _put(part, NamedSharding(mesh, spec)), chunk_specs(), filled)


def place_state(state: ServerState, mesh: Mesh) -> ServerState:
    """Put the state on the devices.

    If the mesh splits items, so is the state. If not, the item factors are copied to all devices; the state
    of the optimizer is copied too, or, from 16 MB on, split by items if their number allows it. What lies
    there already, as the state of a federation with this mesh does, is returned as it is.
    """
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copy a pytree to all devices; every process must hold the same values."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def fetch(array: jax.Array) -> np.ndarray:
    """Copy the whole of an array to the host, wherever its parts lie. Collective: call on all processes."""
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    if array.is_fully_addressable:  # np.asarray(array) would keep its copy as long as the array
        whole = np.empty(array.shape, array.dtype)
        for part in array.addressable_shards:
            whole[part.index] = part.data
        return whole
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    def put(leaf: jax.Array | np.ndarray) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)
