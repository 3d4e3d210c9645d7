"""Several devices, clients in host memory, and many federations side by side."""

from fcf_jax.parallel.batch import map_runs, place_runs, run_mesh, run_side_by_side, sweep_side_by_side
from fcf_jax.parallel.mesh import client_mesh, fetch, place_clients, place_state, replicate, use_cpu_devices
from fcf_jax.parallel.stream import collect_streamed, run_rounds_streamed

__all__ = [
    "client_mesh",
    "collect_streamed",
    "fetch",
    "map_runs",
    "place_clients",
    "place_runs",
    "place_state",
    "replicate",
    "run_mesh",
    "run_rounds_streamed",
    "run_side_by_side",
    "sweep_side_by_side",
    "use_cpu_devices",
]
