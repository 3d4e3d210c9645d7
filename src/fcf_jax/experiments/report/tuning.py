"""Files and tables of `fcf tune`; apart from the rest of this package because they need optuna."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fcf_jax.experiments.build.held_out import HeldOut
from fcf_jax.experiments.report.drawing import png_of
from fcf_jax.experiments.store.files import write_atomically
from fcf_jax.experiments.store.run_directory import CONFIG, TRIALS, TUNED, TUNING
from fcf_jax.experiments.tune.space import EFFECTIVE
from fcf_jax.experiments.tune.study import finished, start_trial, values_of
from fcf_jax.experiments.tune.tuning import Tuned, value_at_start

_PANEL = (3.0, 2.7)  # inches


def write_tuning(folder: Path, held_out: HeldOut, tuned: Tuned) -> None:
    """Write `config.toml`, `tuned.toml`, `trials.csv`, `tuning.json` and `tuning.png`.

    Args:
        folder: of the studies.
        held_out: data that the trials were trained and validated on.
        tuned: from `run_tuning`.

    Raises:
        OSError: if the folder cannot be written.
    """
    CONFIG.write(folder, tuned.given.to_dict())
    header = _header(held_out, tuned)
    write_atomically(folder / TUNED.name, f"{header}{tomli_w.dumps(tuned.config.to_dict())}".encode())
    TRIALS.write(folder, list(_trials(tuned)))
    values = {name: getattr(tuned, name) for name in ("metric", "start_value", "best_value", "popularity")}
    TUNING.write(folder, values | {"at_bounds": list(tuned.at_bounds)})
    write_atomically(folder / "tuning.png", png_of(_figure(tuned)))


def tuning_tables(tuned: Tuned) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a title and rows for each study: the starting and the best values."""
    for name, study in tuned.studies.items():
        start, best = start_trial(study), study.best_trial
        rows = {tuned.metric: (value_at_start(study), best.value)}
        rows |= {key: (values_of(start)[key], value) for key, value in values_of(best).items()}
        yield (
            f"{name}, by {'FCF' if name == 'server' else 'ALS'}: {_counts(study)}",
            [{"": key, "start": before, "best": after} for key, (before, after) in rows.items()],
        )


def gain_text(tuned: Tuned) -> str:
    """Return a sentence on what was gained on the validation set."""
    before, after = tuned.start_value, tuned.best_value
    floor = "" if tuned.popularity is None else f"; popularity has {tuned.popularity:.4f}"
    if before is None:
        return f"{tuned.metric} of ALS on the validation set: {after:.4f}{floor}"
    start = f"{before:.4f}" if math.isfinite(before) else "diverged"
    gain = f" ({100 * (after - before) / before:+.1f} %)" if math.isfinite(before) and before else ""
    values = f"{start} as configured, {after:.4f} tuned{gain}"
    return f"{tuned.metric} of the federation on the validation set: {values}{floor}"


def _counts(study: Study) -> str:
    trials = finished(study)
    num_pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    return f"{len(trials)} trials, {num_pruned} pruned"


def _header(held_out: HeldOut, tuned: Tuned) -> str:
    """Return TOML comments on where the values come from."""
    validation = held_out.validation
    counts = "; ".join(f"{name}: {_counts(study)}" for name, study in tuned.studies.items())
    before = " (ALS)"
    if tuned.start_value is not None:
        is_known = math.isfinite(tuned.start_value)
        before = f"; as configured {tuned.start_value:.6g}" if is_known else "; as configured it diverged"
    return (
        f"# Tuned by fcf tune, seed {tuned.given.tuning.seed}. {counts}.\n"
        f"# {tuned.metric} on {validation.num_interactions} held-out interactions: "
        f"{tuned.best_value:.6g}{before}\n"
        f"# Data: training {held_out.train.fingerprint()[:16]}, "
        f"validation {validation.fingerprint()[:16]}.\n"
        + "".join(f"# {one}\n" for one in tuned.at_bounds)
        + "\n"
    )


def _trials(tuned: Tuned) -> Iterator[dict[str, Any]]:
    studies = tuned.studies
    keys = [key for study in studies.values() for key in values_of(start_trial(study))]
    for name, study in studies.items():
        for trial in study.get_trials(deepcopy=False):
            facts = {
                "stage": name, "trial": trial.number, "state": trial.state.name.lower(),
                "value": trial.value, "last_step": trial.last_step,
            }  # fmt: skip
            searched = {EFFECTIVE: trial.params.get(EFFECTIVE)} if tuned.model else {}
            yield facts | dict.fromkeys(keys) | values_of(trial) | searched


def _figure(tuned: Tuned) -> Figure:
    """Draw a row for each study: its history, and the value against each parameter."""
    studies = tuned.studies
    num_columns = 1 + max(len(start_trial(study).params) for study in studies.values())
    figure = Figure(figsize=(_PANEL[0] * num_columns, _PANEL[1] * len(studies)), layout="constrained")
    grid = figure.subplots(len(studies), num_columns, squeeze=False)
    for panels, (name, study) in zip(grid, studies.items(), strict=True):
        _draw_history(panels[0], study, name)
        panels[0].set(ylabel=f"{tuned.metric} (validation)")
        for axes, key in itertools.zip_longest(panels[1:], start_trial(study).params):
            if key is None:
                axes.set_axis_off()
            else:
                _draw_slice(axes, study, key)
    return figure


def _draw_history(axes: Axes, study: Study, name: str) -> None:
    trials = finished(study)
    _scatter(axes, trials, list(range(len(trials))))
    values = [trial.value if trial.state == TrialState.COMPLETE else np.nan for trial in trials]
    best_of = np.fmin if study.direction == StudyDirection.MINIMIZE else np.fmax
    best = best_of.accumulate(np.array(values, np.float64))
    axes.step(range(len(trials)), best, where="post", color="tab:orange", label="best so far")
    axes.set(title=name, xlabel="trial")
    axes.legend(fontsize="small")


def _draw_slice(axes: Axes, study: Study, key: str) -> None:
    distribution, trials = study.best_trial.distributions[key], finished(study)
    places = [trial.params[key] for trial in trials]
    if isinstance(distribution, CategoricalDistribution):
        places = [distribution.choices.index(place) for place in places]
        axes.set_xticks(range(len(distribution.choices)), [str(choice) for choice in distribution.choices])
    elif isinstance(distribution, FloatDistribution) and distribution.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    _scatter(axes, trials, places)
    best = places[trials.index(study.best_trial)]
    axes.plot(best, study.best_value, "*", color="tab:orange", markersize=13)
    axes.set(xlabel=key.rpartition(".")[2])


def _scatter(axes: Axes, trials: list[FrozenTrial], places: Sequence[float]) -> None:
    """Mark the trials at `places`, pruned ones hollow and at the last value they reported."""
    for state, face in ((TrialState.COMPLETE, "tab:blue"), (TrialState.PRUNED, "none")):
        shown = [
            (place, trial.value)
            for place, trial in zip(places, trials, strict=True)
            if trial.state == state and trial.value is not None
        ]
        x, y = np.array(shown, np.float64).reshape(-1, 2).T
        axes.scatter(x, y, s=18, facecolors=face, edgecolors="tab:blue", label=state.name.lower())
