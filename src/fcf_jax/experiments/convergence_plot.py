"""A picture of a run: loss and MAP over the rounds, beside centralised ALS."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fcf_jax.experiments.run_directory import write_atomically


def write_convergence(
    folder: Path, records: list[dict[str, Any]], *, k: int, baseline: dict[str, float] | None
) -> None:
    """Draw `convergence.png`.

    Args:
        folder: the run directory.
        k: which MAP@k.
        records: of rounds and evaluations, as in `metrics.jsonl`.
        baseline: where centralised ALS ended.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (kind, name) in zip(axes, (("round", "loss"), ("evaluation", f"map_at_{k}")), strict=True):
        points = [(one["round"], one[name]) for one in records if one["kind"] == kind]
        rounds, values = np.array(points, np.float64).reshape(-1, 2).T
        axis.plot(rounds, values, marker=".", label="federated")
        if baseline is not None and np.isfinite(baseline[name]):
            axis.axhline(baseline[name], color="gray", linestyle="--", label="centralised ALS")
        axis.set(xlabel="round", ylabel=name)
        axis.legend()
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_atomically(folder / "convergence.png", image.getvalue())
