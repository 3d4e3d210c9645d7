"""Compile a full round for an H100, without having one, and print what the compiler says about it as JSON.

python tests/core/kernels/compile_for_h100.py FOLDER     # for the dump; needs the extra "aot"
"""

import collections
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={sys.argv[1]} --xla_dump_hlo_as_text --xla_gpu_dump_llvmir=true "
    "--xla_dump_emitter_re=ptx --xla_gpu_enable_cub_radix_sort=false"
)
import jax
from jax.experimental import topologies

from fcf_jax.core.federation import federated_cf, run_rounds
from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.records import ClientData, ItemMajor, Model, PackedClients
from fcf_jax.optimizers import guarded_gram

FOLDER = Path(sys.argv[1])
NUM_USERS, NUM_ITEMS, NUM_INTERACTIONS, NUM_PIECES, NUM_FACTORS = 138_000, 27_000, 20_000_000, 32_500, 64
CHUNKS, ROWS, CLIENTS, SLOTS = 16, 24_000, 8_700, 64
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  runtime_version: "13.0.0" driver_version: "13.0.0"
}
"""


def compile_rounds():
    """Compile two guarded rounds of the shape of MovieLens 20M."""
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    device = topology.devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)

    def array(*shape, dtype="int32"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    slots = CHUNKS, ROWS, SLOTS
    rows = ClientData(array(*slots), array(*slots, dtype="float32"), array(*slots, dtype="bool"))
    items = ItemMajor(
        array(NUM_INTERACTIONS), array(NUM_INTERACTIONS, dtype="float32"), array(NUM_PIECES + 1),
        array(NUM_PIECES), array(NUM_PIECES), array(NUM_ITEMS + 1), array(NUM_USERS), array(NUM_USERS),
    )  # fmt: skip
    users = array(NUM_USERS)
    clients = PackedClients(
        rows, array(CHUNKS, ROWS), array(CHUNKS, CLIENTS), users, users, array(NUM_ITEMS), items
    )
    federation = federated_cf(
        Model(implicit_feedback(alpha=4.0), 1.0), guarded_gram(), num_items=NUM_ITEMS, num_factors=NUM_FACTORS
    )
    key = jax.random.key(0)
    state = jax.tree.map(
        lambda leaf: array(*leaf.shape, dtype=leaf.dtype), jax.eval_shape(federation.init, key)
    )
    gpu = jax.sharding.AbstractDevice(device_kind=device.device_kind, num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        run = jax.jit(lambda key, state, clients: run_rounds(federation, key, state, clients, num_rounds=2))
        return run.lower(array(dtype=key.dtype), state, clients).compile()


def functions_of(folder):
    """Assemble all PTX; return registers, bytes of stack and of spills by function, and the float atomics."""
    spec = find_spec("nvidia")
    assert spec is not None and spec.submodule_search_locations is not None
    ptxas = next(
        path for place in spec.submodule_search_locations for path in Path(place).glob("*/bin/ptxas")
    )
    functions, atomics = {}, 0
    for path in sorted(folder.glob("*.ptx")):
        atomics += len(
            re.findall(r"^\s*(?:@\S+ )?(?:atom|red)\.\S*(?:f32|cas)", path.read_text(), re.MULTILINE)
        )
        command = [ptxas, "-arch=sm_90a", "-v", path, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        for name, stack, stores, loads, registers in re.findall(
            r"entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads.*?Used (\d+) registers", said, re.DOTALL,
        ):  # fmt: skip
            functions[name] = {
                "registers": int(registers), "stack": int(stack), "spilled": int(stores) + int(loads)
            }  # fmt: skip
    return functions, atomics


compiled = compile_rounds()
functions, atomics = functions_of(FOLDER)
(thunks,) = FOLDER.glob("*thunk_sequence.txt")
(optimized,) = FOLDER.glob("*gpu_after_optimizations.txt")
loops = re.findall(r" while\(.*", optimized.read_text())
json.dump(
    {
        "functions": functions,
        "float_atomics": atomics,
        "thunks": collections.Counter(re.findall(r"\d+: (k\w+)", thunks.read_text())),
        "loops": len(loops),
        "loops_of_known_length": sum("known_trip_count" in loop for loop in loops),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "argument_bytes": compiled.memory_analysis().argument_size_in_bytes,
    },
    sys.stdout,
)
