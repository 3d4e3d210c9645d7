"""What tuning leaves behind: a configuration that is ready to run, its trials as a table and as a picture."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fcf_jax.experiments.build.held_out import HeldOut
from fcf_jax.experiments.config.schema import ExperimentConfig
from fcf_jax.experiments.store.files import write_atomically
from fcf_jax.experiments.store.run_directory import write_config
from fcf_jax.experiments.tune.study import finished, start_trial, values_of
from fcf_jax.experiments.tune.tuning import Tuned, metric_of, value_at_start

TUNED = "tuned.toml"
_PANEL = (3.0, 2.7)  # inches


def write_outcome(folder: Path, config: ExperimentConfig, held_out: HeldOut, tuned: Tuned) -> None:
    """Write `config.toml`, `tuned.toml`, `trials.csv` and `tuning.png`.

    Args:
        folder: of the study.
        config: as it was before tuning.
        held_out: what was tuned on.
        tuned: what `run_tuning` returned.

    Raises:
        OSError: when the folder cannot be written.
    """
    write_config(folder, config)
    told = _tell(config, held_out, tuned)
    write_atomically(folder / TUNED, f"{told}{tomli_w.dumps(tuned.config.to_dict())}".encode())
    write_atomically(folder / "trials.csv", _trials_csv(tuned).encode())
    write_atomically(folder / "tuning.png", _picture(config, tuned))


def tables(config: ExperimentConfig, tuned: Tuned) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Arrange the outcome for the eye: titles and rows."""
    metric = metric_of(config)
    for name, study in _studies(tuned).items():
        start, best = start_trial(study), study.best_trial
        how = "ALS" if name == "model" else "FCF"
        rows = {key: (start.params[key], value) for key, value in values_of(best).items()}
        rows[metric] = (value_at_start(study), best.value)
        yield (
            f"{name}, by {how}: {_counts(study)}",
            [{"": key, "start": one, "best": other} for key, (one, other) in rows.items()],
        )


def _studies(tuned: Tuned) -> dict[str, Study]:
    return {name: study for name in ("model", "server") if (study := getattr(tuned, name)) is not None}


def _counts(study: Study) -> str:
    trials = finished(study)
    num_pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    return f"{len(trials)} trials, {num_pruned} pruned"


def _tell(config: ExperimentConfig, held_out: HeldOut, tuned: Tuned) -> str:
    """Say in comments where the values come from."""
    metric, validation = metric_of(config), held_out.validation
    counts = "; ".join(f"{name}: {_counts(study)}" for name, study in _studies(tuned).items())
    lines = [
        f"Tuned by fcf tune, seed {config.tuning.seed}. {counts}.",
        f"{metric} on {validation.num_interactions} held-out interactions: {tuned.best_value:.6g}"
        + (f"; as configured {tuned.start_value:.6g}" if tuned.start_value is not None else " (ALS)"),
        f"Data: training {held_out.train.fingerprint()[:16]}, validation {validation.fingerprint()[:16]}.",
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _trials_csv(tuned: Tuned) -> str:
    studies = _studies(tuned)
    keys = [key for study in studies.values() for key in start_trial(study).params]
    text = io.StringIO()
    table = csv.DictWriter(
        text, ["stage", "trial", "state", "value", "last_step", *keys], lineterminator="\n"
    )
    table.writeheader()
    for name, study in studies.items():
        for trial in study.get_trials(deepcopy=False):
            table.writerow(
                {
                    "stage": name,
                    "trial": trial.number,
                    "state": trial.state.name.lower(),
                    "value": trial.value,
                    "last_step": trial.last_step,
                    **values_of(trial),
                }
            )
    return text.getvalue()


def _picture(config: ExperimentConfig, tuned: Tuned) -> bytes:
    """Draw a row for each search: its history, and the value over each parameter."""
    studies = _studies(tuned)
    num_columns = 1 + max(len(start_trial(study).params) for study in studies.values())
    size = (_PANEL[0] * num_columns, _PANEL[1] * len(studies))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(studies), num_columns, squeeze=False)
    for panels, (name, study) in zip(grid, studies.items(), strict=True):
        _draw_history(panels[0], study, name)
        panels[0].set(ylabel=f"{metric_of(config)} (validation)")
        keys = list(start_trial(study).params)
        for panel, key in itertools.zip_longest(panels[1:], keys):
            if key is None:
                panel.set_axis_off()
            else:
                _draw_slice(panel, study, key)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()


def _draw_history(panel: Axes, study: Study, name: str) -> None:
    trials = finished(study)
    _scatter(panel, trials, list(range(len(trials))))
    values = [trial.value if trial.state == TrialState.COMPLETE else np.nan for trial in trials]
    is_minimized = study.direction == StudyDirection.MINIMIZE
    best = (np.fmin if is_minimized else np.fmax).accumulate(np.array(values, np.float64))
    panel.step(range(len(trials)), best, where="post", color="tab:orange", label="best so far")
    panel.set(title=name, xlabel="trial")
    panel.legend(fontsize="small")


def _draw_slice(panel: Axes, study: Study, key: str) -> None:
    distribution = study.best_trial.distributions[key]
    trials = finished(study)
    places = [values_of(trial)[key] for trial in trials]
    if isinstance(distribution, CategoricalDistribution):
        places = [distribution.choices.index(place) for place in places]
        panel.set_xticks(range(len(distribution.choices)), [str(choice) for choice in distribution.choices])
    elif isinstance(distribution, FloatDistribution) and distribution.log:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    _scatter(panel, trials, places)
    place = places[trials.index(study.best_trial)]
    panel.plot(place, study.best_value, "*", color="tab:orange", markersize=13)
    panel.set(xlabel=key.partition(".")[2])


def _scatter(panel: Axes, trials: list[FrozenTrial], places: Sequence[float]) -> None:
    """Mark the trials; those that were pruned hollow, at the last value that they showed."""
    for state, face in ((TrialState.COMPLETE, "tab:blue"), (TrialState.PRUNED, "none")):
        shown = [
            (place, trial.value)
            for place, trial in zip(places, trials, strict=True)
            if trial.state == state and trial.value is not None
        ]
        x, y = np.array(shown, np.float64).reshape(-1, 2).T
        panel.scatter(x, y, s=18, facecolors=face, edgecolors="tab:blue", label=state.name.lower())
