"""Devices: clients that drop out, at the same number of uploads; and the virtual time of slow ones.

Dropouts: 10, 30 and 50 % of the clients of a round do not come back, at the same chance for all or by
activity. Rounds draw so many more clients that the server receives as many uploads; or, once, there are so
many more rounds. Metrics are compared with those without dropouts, paired over the seeds (TOST within 0.5 %).

Steps: those that need everybody, and one that does not, with clients missing from rounds of everybody.

Virtual time: on a heavy-tailed mix of devices, synchronous rounds that wait for all their clients, that take
the first to arrive, or that end at a deadline, and asynchronous ones; with as many clients at work at a time.
The time is that until 99 % of the MAP that synchronous rounds end with.

    python benchmarks/devices.py movielens-100k --set data.path=ml-100k --json devices-100k.json
    python benchmarks/devices.py --table devices-100k.json devices-1m.json     # writes docs/channel.md

A document that exists is gone on with: what it has is not measured again.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from common import argument_parser, positive, publish, show
from readme import README, with_table

from fcf_jax.evaluation import equivalence_test
from fcf_jax.experiments.build.arrivals import durations_of, seconds_of_users, timetable_of
from fcf_jax.experiments.build.dataset import Dataset, load_dataset
from fcf_jax.experiments.build.devices import runner_of, start_devices
from fcf_jax.experiments.build.problem import place, resolve
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.loop import Learned

PAGE = README.parents[1] / "docs" / "channel.md"
MARGIN = 0.005  # of the mean without dropouts
GOAL = 0.99  # of the last MAP of synchronous rounds
_DROPOUTS = (  # pattern, mean chance, and whether more rounds make up for it rather than larger ones
    *((pattern, dropout, False) for pattern in ("independent", "activity") for dropout in (0.1, 0.3, 0.5)),
    ("independent", 0.5, True),
)
_OVER_SELECTION = 1.3
_ON_TIME = 80  # percent of all clients that meet the deadline
_SMALL_BUFFER = 0.25  # of the clients in flight
_LONGER = 3  # times as many uploads of asynchronous rounds, which still take less virtual time
_STEPS = ("guarded_gram", "gram", "running_sums")
_ROUNDS_OF_ALL = 30
_NONE, _SYNCHRONOUS = "none", "synchronous"

Curve = list[dict[str, float]]


class Setting(NamedTuple):
    """A federation to measure.

    Attributes:
        part: "dropouts", "steps" or "virtual time".
        name: in the tables.
        overrides: of the configuration.
        cohort_size: clients of a round, or uploads of a step.
        share: expected uploads for each place of a cohort; less for a longer training.
        step: server step, whose rule about dropouts does not hold here.
        num_rounds: rounds; None: as many as the uploads take.
    """

    part: str
    name: str
    overrides: tuple[str, ...]
    cohort_size: int
    share: float = 1.0
    step: str = "running_sums"
    num_rounds: int | None = None


# Settings


def settings_of(source: str, overrides: list[str], dataset: Dataset, *, cohort_size: int) -> list[Setting]:
    """List what is measured, the references first."""
    found = [Setting("dropouts", _NONE, (), cohort_size)]
    for pattern, dropout, is_longer in _DROPOUTS:
        larger = cohort_size if is_longer else round(cohort_size / (1 - dropout))
        found.append(
            Setting(
                "dropouts",
                f"{100 * dropout:g} %, {pattern}{', more rounds' if is_longer else ''}",
                (f"devices.dropout={dropout}", f"devices.dropout_pattern={pattern}"),
                larger,
                1 - dropout,
            )
        )
    found += [
        Setting(
            "steps",
            f"{step}, {100 * dropout:g} %",
            (f"devices.dropout={dropout}",),
            dataset.split.train.num_users,
            step=step,
            num_rounds=_ROUNDS_OF_ALL,
        )
        for step in _STEPS
        for dropout in (0.0, 0.1, 0.3, 0.5)
    ]
    clock = ("devices.bandwidth=1e6",)
    problem = resolve(load_config(source, [*overrides, *clock]), dataset)
    deadline = float(np.percentile(seconds_of_users(problem), _ON_TIME))
    flying = (*clock, f"devices.concurrency={cohort_size}")
    small = max(round(_SMALL_BUFFER * cohort_size), 1)
    return [
        *found,
        Setting("virtual time", _SYNCHRONOUS, clock, cohort_size),
        Setting(
            "virtual time",
            f"over-selection {_OVER_SELECTION}",
            (*clock, f"devices.over_selection={_OVER_SELECTION}"),
            cohort_size,
        ),
        Setting(
            "virtual time",
            f"deadline ({_ON_TIME} % on time)",
            (*clock, f"devices.deadline_seconds={deadline}"),
            cohort_size,
            _ON_TIME / 100,
        ),
        Setting("virtual time", "asynchronous", flying, cohort_size, 1 / _LONGER),
        Setting("virtual time", "asynchronous, a quarter a step", flying, small, 1 / _LONGER),
    ]


# Measuring


def train(
    source: str,
    overrides: list[str],
    dataset: Dataset,
    setting: Setting,
    optimizers: dict[str, optax.GradientTransformation],
    *,
    num_uploads: int,
) -> Curve:
    """Train until the server has received so many uploads; return the metrics about once a pass.

    Without virtual time, after the last round alone.
    """
    num_rounds = setting.num_rounds or max(round(num_uploads / (setting.share * setting.cohort_size)), 1)
    config = load_config(
        source,
        [
            *overrides,
            *setting.overrides,
            f"federation.cohort_size={setting.cohort_size}",
            f"federation.num_rounds={num_rounds}",
        ],
    )
    placed = place(resolve(config, dataset))
    problem, timetable = placed.problem, timetable_of(placed.problem)
    durations = durations_of(problem, timetable)
    runner = runner_of(
        problem.federation(optimizer=optimizers[setting.step], mesh=placed.mesh, timetable=timetable),
        problem.key,
        problem.key,
        placed.clients,
        placed.mesh,
        num_rounds=num_rounds,
        block_chunks=placed.block_chunks,
        timetable=timetable,
    )
    size = max(problem.train.num_users // setting.cohort_size, 1)
    state, done, uploads, elapsed, curve = runner.start(), 0, 0, 0.0, []
    while done < num_rounds:
        block = size if num_rounds - done >= size else 1  # two programs at most
        state, info = runner.run(state, block)
        uploads += int(np.sum(np.asarray(info.num_clients)))
        elapsed += 0.0 if durations is None else float(durations(done, info).sum())
        done += block
        if done == num_rounds or (durations is not None and block == size):
            metrics = placed.measure(*placed.fetched(Learned.of(state)))
            curve.append({"rounds": done, "uploads": uploads, "virtual_seconds": elapsed, **metrics})
    return curve


# Tables


def dropout_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each share of dropouts."""
    name, runs = document["map"], document["runs"]["dropouts"]
    without = runs.get(_NONE, {})
    for setting, curves in runs.items():
        last = [curve[-1] for curve in curves.values()]
        paired = [] if setting == _NONE else [seed for seed in curves if seed in without]
        before, after = ([of[seed][-1] for seed in paired] for of in (without, curves))
        values, reference = (np.array([one[name] for one in found]) for found in (after, before))
        yield {
            "data": document["name"],
            "dropouts": setting,
            "seeds": len(curves),
            "rounds": last[0]["rounds"],
            "uploads": round(np.mean([one["uploads"] for one in last])),
            name: f"{mean_of(last, name):.4f}",
            "difference %": _percent(values.mean(), reference.mean()) if paired else None,
            "loss %": f"{100 * (mean_of(after, 'loss') / mean_of(before, 'loss') - 1):+.2f}"
            if paired
            else None,
            "TOST p": _tost(values, reference) if len(paired) > 1 else None,
        }


def _percent(value: float, reference: float) -> str:
    return f"{100 * (value / reference - 1):+.2f}"


def _tost(values: np.ndarray, reference: np.ndarray) -> str:
    return f"{equivalence_test(values, reference, margin=MARGIN * float(reference.mean())):.4f}"


def step_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each server step, with a column for each share of dropouts."""
    name, runs = document["map"], document["runs"]["steps"]
    for step in _STEPS:
        own = {
            setting.partition(", ")[2]: curves
            for setting, curves in runs.items()
            if setting.startswith(f"{step},")
        }
        found = {
            share: np.mean([curve[-1][name] for curve in curves.values()]) for share, curves in own.items()
        }
        if found:
            yield {
                "data": document["name"],
                f"{name} with": step,
                **{share: f"{one:.4f}" for share, one in found.items()},
            }


def time_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of rounds."""
    name, runs = document["map"], document["runs"]["virtual time"]
    goals = {seed: GOAL * curve[-1][name] for seed, curve in runs[_SYNCHRONOUS].items()}
    waited = [first_at(curve, name, goals[seed]) for seed, curve in runs[_SYNCHRONOUS].items()]
    for setting, curves in runs.items():
        found = [first_at(curve, name, goals[seed]) for seed, curve in curves.items()]
        reached = [one for one in found if one is not None]
        row = {
            "data": document["name"],
            "rounds": setting,
            f"last {name}": f"{np.mean([curve[-1][name] for curve in curves.values()]):.4f}",
            "seconds to 99 %": "not reached",
            "uploads until then": None,
            "times as fast": None,
        }
        if len(reached) == len(curves):
            seconds, uploads = (mean_of(reached, key) for key in ("virtual_seconds", "uploads"))
            row |= {"seconds to 99 %": f"{seconds:,.0f}", "uploads until then": f"{uploads:,.0f}"}
            row["times as fast"] = f"{mean_of(waited, 'virtual_seconds') / seconds:.2f}"
        elif reached:
            row["seconds to 99 %"] = f"reached by {len(reached)} of {len(curves)}"
        yield row


def mean_of(points: Sequence[dict[str, float] | None], key: str) -> float:
    """Return the mean of one number of points of curves."""
    return float(np.mean([point[key] for point in points if point is not None]))


def first_at(curve: Curve, name: str, goal: float) -> dict[str, float] | None:
    """Return the first point of a curve that reaches a goal; None if none does."""
    return next((point for point in curve if point[name] >= goal), None)


_PARTS = {"dropouts": dropout_rows, "steps": step_rows, "virtual time": time_rows}


def write_page(documents: list[dict[str, Any]]) -> None:
    """Write the tables of docs/channel.md, of the parts that were measured."""
    text = PAGE.read_text()
    for part, rows in _PARTS.items():
        measured = [one for one in documents if one["runs"].get(part)]
        if found := [row for one in measured for row in rows(one)]:
            text = with_table(text, f"devices.py, {part}", found)
    PAGE.write_text(text)


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument("source", nargs="?", metavar="CONFIG")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--json", type=Path, dest="out", metavar="FILE.json", help="the same as --out")
    parser.add_argument("--name", help="name of the data in the tables; default: CONFIG")
    parser.add_argument("--cohort-size", type=positive, default=100)
    parser.add_argument("--num-passes", type=positive, default=40, help="uploads for each user")
    parser.add_argument("--num-seeds", type=positive, default=5)
    parser.add_argument("--parts", nargs="+", choices=list(_PARTS), default=list(_PARTS))
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows of the tables; default: all")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE.json", help="write docs/channel.md")
    arguments = parser.parse_args()
    if arguments.table:
        write_page([json.loads(path.read_text()) for path in arguments.table])
    elif arguments.source is None:
        parser.error("expected CONFIG, or --table")
    else:
        measure_all(arguments)


def measure_all(arguments: argparse.Namespace) -> None:
    """Measure what the document lacks, and save it after every run."""
    source = arguments.source
    overrides = [*arguments.overrides, "server.step=running_sums", "evaluation.baseline=false"]
    try:
        config = load_config(source, overrides)
        start_devices(config.parallel)
        dataset = load_dataset(config)
    except (ConfigError, OSError, ValueError) as error:
        sys.exit(str(error))
    out = arguments.out
    document = json.loads(out.read_text()) if out is not None and out.exists() else {}
    document |= {
        "name": arguments.name or source,
        "map": f"map_at_{config.evaluation.leading_k}",
        "cohort_size": arguments.cohort_size,
        "num_passes": arguments.num_passes,
    }
    runs = document.setdefault("runs", {})
    for part in _PARTS:
        runs.setdefault(part, {})
    optimizers = {  # one object each: seeds share programs
        step: load_config(source, [*overrides, f"server.step={step}"]).server.optimizer(1) for step in _STEPS
    }
    settings = settings_of(source, overrides, dataset, cohort_size=arguments.cohort_size)
    for seed in range(arguments.num_seeds):
        for setting in settings:
            is_wanted = arguments.only is None or setting.name in arguments.only
            if setting.part not in arguments.parts or not is_wanted:
                continue
            of_setting = runs[setting.part].setdefault(setting.name, {})
            if str(seed) not in of_setting:
                of_setting[str(seed)] = train(
                    source,
                    [*overrides, f"federation.seed={seed}"],
                    dataset,
                    setting,
                    optimizers,
                    num_uploads=arguments.num_passes * dataset.split.train.num_users,
                )
                publish(document, out)
                print(f"seed {seed}, {setting.part}, {setting.name}: done", flush=True)
    for part in arguments.parts:
        show(f"{document['name']}, {part}", _PARTS[part](document))


if __name__ == "__main__":
    main()
