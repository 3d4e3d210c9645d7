"""Accuracy against bytes: every link of compression beside the dense federation, over several builds.

Builds differ by split and start, and run side by side. Each setting is compared with the dense federation
that takes the same server step for as many rounds: difference of the means, and equivalence within 1 % (TOST,
paired over the builds). Projections and item subsets need more rounds than rounding, and subsets a step
without averages over rounds, so that there are three dense federations.

    python benchmarks/compressed.py movielens-1m --set data.path=ml-1m --json compression-1m.json
    python benchmarks/compressed.py --table compression-1m.json      # writes the tables of docs/channel.md

Results are saved after every setting, and a second call goes on with those that are missing.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import argument_parser, machine, positive, publish, show
from readme import README, markdown, with_table

from fcf_jax.evaluation import equivalence_test
from fcf_jax.experiments.build.dataset import Dataset, load_datasets
from fcf_jax.experiments.build.devices import start_devices
from fcf_jax.experiments.build.problem import resolve
from fcf_jax.experiments.compare.replicates import (
    metrics_by_replicate,
    prepare_replicates,
    replicate_mesh,
)
from fcf_jax.experiments.config.load import load_config
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.loop import Learned

PAGE = README.parents[1] / "docs" / "channel.md"
MARGIN = 0.01  # of the mean of the dense federation
_OWN_ROWS = "channel.form=own_rows"
_AVERAGED, _SUBSETS = ("server.step=running_sums",), ("server.step=gram", "server.learning_rate=0.5")
_METRICS = ("map_at_{}", "ndcg_at_{}", "recall_at_{}")
_SAMPLED = ("sampled_hit_rate_at_{}", "sampled_ndcg_at_{}")
# of CoLR (arXiv:2401.03748): ML-1M, 64 factors, leave one out with 99 sampled negatives; HR@10 of the whole
# model, and by the share of the payload that is cut
_COLR_WHOLE, _COLR = 0.649, {50: 0.644, 75: 0.635, 88: 0.624, 94: 0.607}


class Setting(NamedTuple):
    """What is trained.

    Attributes:
        overrides: keys of the channel.
        like: name of the dense federation that it is compared with.
        form: whose bytes are counted; None: that of the configuration.
    """

    overrides: tuple[str, ...]
    like: str = "dense"
    form: str | None = None


class Reference(NamedTuple):
    """A dense federation: its server step, and its rounds in multiples of `--num-rounds`."""

    step: tuple[str, ...]
    factor: int


REFERENCES = {
    "dense": Reference(_AVERAGED, 1),
    "dense, 3 x rounds": Reference(_AVERAGED, 3),
    "dense, gram, 5 x rounds": Reference(_SUBSETS, 5),
}


def settings_of(num_factors: int) -> dict[str, Setting]:
    """Return all settings by name; projections go down to a sixteenth of the factors."""
    longer, subsets = list(REFERENCES)[1:]
    found = {name: Setting((), name) for name in REFERENCES}
    found["own rows"] = Setting((_OWN_ROWS,))
    for rounding, bits in (("nearest", (8, 4, 2)), ("random", (8, 4, 2)), ("feedback", (4, 2))):
        for number in bits:
            found[f"{number} bits, {rounding}"] = Setting(
                (_OWN_ROWS, f"channel.upload_bits={number}", f"channel.rounding={rounding}")
            )
    for number in (8, 4):
        found[f"Y in {number} bits"] = Setting((_OWN_ROWS, f"channel.item_bits={number}"))
    found["8 bits both ways"] = Setting((_OWN_ROWS, "channel.upload_bits=8", "channel.item_bits=8"))
    for part in (2, 4, 8, 16):
        if num_factors // part:
            found[f"projection to K/{part}"] = Setting(
                (f"channel.projection={num_factors // part}",), longer, "dense"
            )
    if num_factors >= 4:
        found["projection to K/4, 8 bits"] = Setting(
            (_OWN_ROWS, f"channel.projection={num_factors // 4}", "channel.upload_bits=8"), longer
        )
    for share in (0.75, 0.5):
        found[f"top rows, {share:g}"] = Setting((_OWN_ROWS, f"channel.top_rows={share}"))
    for choice in ("uniform", "popularity", "bandit"):
        for share in (0.5, 0.1):
            found[f"{share:.0%} of the items, {choice}"] = Setting(
                (f"channel.item_share={share}", f"channel.item_choice={choice}"), subsets, "dense"
            )
    return found


# Training


def train(source: str, overrides: list[str], setting: Setting, datasets: list[Dataset], num_rounds: int):
    """Train all builds side by side; return the bytes of a client in a round, and the metrics."""
    reference = REFERENCES[setting.like]
    num_rounds = reference.factor * num_rounds
    config = load_config(
        source, [*overrides, *reference.step, *setting.overrides, f"federation.num_rounds={num_rounds}"]
    )
    problem = resolve(config, *datasets)
    mesh = replicate_mesh(config.parallel.devices, config.comparison.num_builds)
    replicates = prepare_replicates(problem, datasets, mesh)
    states, _ = replicates.run(replicates.start().federated, num_rounds)
    measured = metrics_by_replicate(
        replicates.assess(Learned.of(states)), k=problem.config.evaluation.lengths
    )
    up, down = problem.ledger["forms"][setting.form or config.channel.form]
    return {
        "like": setting.like,
        "num_rounds": num_rounds,
        "bytes_up": up,
        "bytes_down": down,
        "metrics": {name: values.tolist() for name, values in measured.items()},
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train every setting that the document lacks, and save it after each."""
    source = arguments.source
    overrides = [*arguments.overrides, f"comparison.num_builds={arguments.num_builds}"]
    try:
        config = load_config(source, overrides)
        if unknown := set(arguments.only or ()) - set(settings_of(config.model.num_factors)):
            raise ConfigError(f"--only: expected names of settings, got {', '.join(sorted(unknown))}")
        start_devices(config.parallel)
        is_drawn = config.data.split == "ratio"  # else all builds share the split, and differ by their start
        seeds = [config.data.seed + build for build in range(arguments.num_builds if is_drawn else 1)]
        datasets = load_datasets(config, seeds)
    except (ConfigError, OSError, ValueError) as error:
        sys.exit(str(error))
    document = _begun(arguments, config.model.num_factors, config.evaluation.leading_k)
    settings = settings_of(config.model.num_factors)
    wanted = {"dense", *(arguments.only or settings)}
    for name, setting in settings.items():
        is_like = any(settings[other].like == name for other in wanted)
        if (name in wanted or is_like) and name not in document["settings"]:
            found = train(source, overrides, setting, datasets, arguments.num_rounds)
            document["settings"][name] = found
            publish(document, arguments.out)
            print(f"{name}: {found['metrics'][_METRICS[0].format(document['k'])]}", flush=True)
    return document


def _begun(arguments: argparse.Namespace, num_factors: int, k: int) -> dict[str, Any]:
    """Return the document to go on with, or a new one."""
    task = {
        "name": arguments.name or arguments.source,
        "overrides": arguments.overrides,
        "num_builds": arguments.num_builds,
        "num_rounds": arguments.num_rounds,
        "num_factors": num_factors,
        "k": k,
    }
    if arguments.out is None or not arguments.out.exists():
        return task | {"machine": machine(), "settings": {}}
    before = json.loads(arguments.out.read_text())
    if any(before.get(key) != value for key, value in task.items()):
        sys.exit(f"{arguments.out}: expected results of the same arguments; name another file")
    return before


# Tables


def compared(document: dict[str, Any], name: str, metric: str) -> str | None:
    """Return the difference from the dense federation in percent, with the p value of equivalence."""
    setting = document["settings"][name]
    dense = document["settings"][setting["like"]]
    values, others = (np.array(one["metrics"][metric], float) for one in (setting, dense))
    if name == setting["like"] or not np.isfinite([*values, *others]).all():
        return None
    difference = 100 * float(np.mean(values - others)) / float(others.mean())
    if values.size < 2:
        return f"{difference:+.2f} %"
    return f"{difference:+.2f} %, p = {equivalence_test(values, others, margin=MARGIN * others.mean()):.2g}"


def rows_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting, with bytes in thousands."""
    settings, k = document["settings"], document["k"]
    whole = settings["dense"]["bytes_up"] + settings["dense"]["bytes_down"]
    first = _METRICS[0].format(k)
    for name, one in settings.items():
        up, down = one["bytes_up"], one["bytes_down"]
        yield {
            "data": f"{document['name']}, K = {document['num_factors']}",
            "setting": name,
            "rounds": one["num_rounds"],
            "kB up": up / 1000,
            "kB down": down / 1000,
            "% of dense": 100 * (up + down) / whole,
            first: float(np.mean(one["metrics"][first])),
            **{
                f"{metric.format(k)} against dense": compared(document, name, metric.format(k))
                for metric in _METRICS
            },
        }


def rows_beside_colr(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is left of each metric at CoLR's cuts of the payload, by projection of dense uploads."""
    settings, k = document["settings"], document["k"]
    names = [name.format(k) for name in (*_SAMPLED, *_METRICS)]
    for part, (cut, published) in zip((2, 4, 8, 16), _COLR.items(), strict=True):
        if (one := settings.get(f"projection to K/{part}")) is None:
            continue
        dense = settings[one["like"]]
        kept = {
            name: float(np.mean(one["metrics"][name]) / np.mean(dense["metrics"][name]))
            for name in names
            if name in one["metrics"] and np.isfinite(one["metrics"][name]).all()
        }
        yield {
            "data": f"{document['name']}, K = {document['num_factors']}",
            "payload up cut to": f"1/{part} ({cut} %)",
            "CoLR: HR@10": published,
            "CoLR: kept": published / _COLR_WHOLE,
            "cut here, %": 100 * (1 - one["bytes_up"] / dense["bytes_up"]),
            **{f"kept of {name}": kept.get(name) for name in names},
        }


TABLES = {"settings": rows_of, "beside CoLR": rows_beside_colr}


def write_page(documents: list[dict[str, Any]]) -> None:
    """Write the tables of docs/channel.md."""
    text = PAGE.read_text()
    for part, rows in TABLES.items():
        found = [row for document in documents for row in rows(document)]
        text = with_table(text, f"compressed.py, {part}", found)
    PAGE.write_text(text)


def main() -> None:
    """Measure, or write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument("source", nargs="?", metavar="CONFIG", help="configuration of all builds")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--json", type=Path, metavar="FILE.json", dest="out", help="results; as --out")
    parser.add_argument("--name", help="name of the data in the tables; default: CONFIG")
    parser.add_argument("--num-builds", type=positive, default=10)
    parser.add_argument("--num-rounds", type=positive, default=30)
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="these beside the dense ones")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE.json", help="write docs/channel.md")
    arguments = parser.parse_args()
    if arguments.table:
        write_page([json.loads(path.read_text()) for path in arguments.table])
    elif arguments.source is None:
        parser.error("expected CONFIG, or --table")
    else:
        document = measure(arguments)
        for part, rows in TABLES.items():
            if found := list(rows(document)):
                show(f"{document['name']}, {part}, {document['num_builds']} builds", found)
                print("\n".join(["", *markdown(found)]))


if __name__ == "__main__":
    main()
