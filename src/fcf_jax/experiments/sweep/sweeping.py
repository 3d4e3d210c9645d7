"""`fcf sweep`: trains all combinations of varied values side by side, and shows what accuracy costs.

No baseline is trained: the sweep compares federations with each other, and with the ranking by popularity.
`fcf compare` sets one of them beside centralised ALS.
"""

import time
from pathlib import Path

from jax.sharding import Mesh

from fcf_jax.experiments.loop import NEVER, Stop
from fcf_jax.experiments.progress import ProgressLine
from fcf_jax.experiments.report.page import write_report
from fcf_jax.experiments.report.sweep_tables import write_sweep
from fcf_jax.experiments.store.files import Document
from fcf_jax.experiments.store.run_directory import ENVIRONMENT, environment
from fcf_jax.experiments.sweep.outcome import document_of, rows_of
from fcf_jax.experiments.sweep.runs import Prepared
from fcf_jax.experiments.sweep.training import train_all


def run_sweep(
    prepared: Prepared, folder: Path, progress: ProgressLine, *, mesh: Mesh | None = None, stop: Stop = NEVER
) -> Document:
    """Train all runs that are not on record, and write the outcome.

    Args:
        prepared: from `prepare`.
        folder: where to write, made by `run_directory.claimed`.
        progress: shows the progress.
        mesh: devices that share the runs; None: one device.
        stop: entered while rounds run; yields a function that is called after each block of rounds and
            returns True to stop.

    Returns:
        The content of `sweep.json`.

    Raises:
        StoppedError: if a stop was requested; a checkpoint is written.
        CheckpointError: if a checkpoint belongs to another sweep.
        OSError: if the folder cannot be written.
    """
    started = time.perf_counter()
    ENVIRONMENT.write(folder, environment())
    records, num_programs = train_all(prepared, folder, progress, mesh=mesh, stop=stop)
    document = document_of(
        prepared, records, num_programs=num_programs, seconds=time.perf_counter() - started
    )
    write_sweep(folder, document, rows_of(prepared, records))
    write_report(folder)
    return document
