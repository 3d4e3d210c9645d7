"""Several devices, clients in host memory, asynchronous rounds, and many federations side by side."""

from fcf_jax.parallel.batch import map_runs, place_runs, run_mesh, run_side_by_side, sweep_side_by_side
from fcf_jax.parallel.buffered import buffered_rounds, rows_of_waves
from fcf_jax.parallel.mesh import client_mesh, fetch, place_clients, place_state, replicate, use_cpu_devices
from fcf_jax.parallel.stream import collect_streamed, run_rounds_streamed
from fcf_jax.parallel.timetable import Timetable, simulate

__all__ = [
    "Timetable",
    "buffered_rounds",
    "client_mesh",
    "collect_streamed",
    "fetch",
    "map_runs",
    "place_clients",
    "place_runs",
    "place_state",
    "replicate",
    "rows_of_waves",
    "run_mesh",
    "run_rounds_streamed",
    "run_side_by_side",
    "simulate",
    "sweep_side_by_side",
    "use_cpu_devices",
]
