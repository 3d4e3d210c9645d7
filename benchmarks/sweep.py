"""A sweep of 24 runs against one run, as commands: `fcf sweep` and `fcf run`, each in a process of its own.

The run trains no ALS, as the sweep does not. Both read the data, compile, train, measure, draw and write.
"Cold" processes begin without compiled programs on disk, "warm" ones with those of the same command.
Processes take turns.

    python benchmarks/sweep.py movielens-100k --out sweep.json
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import argument_parser, machine, positive, publish, show

from fcf_jax import cli

VARIED: list[str] = ["model.alpha=0.5,1,2,4,8,16", "model.regularization=0.5,1,2,4"]
WITHOUT_ALS = "evaluation.baseline=false"


def arguments_of(command: str, source: str, settings: list[str], varied: list[str]) -> list[str]:
    """Return the arguments of a command; only the sweep varies anything."""
    arguments = [command, source, *_repeated("--set", [*settings, WITHOUT_ALS])]
    return arguments + (_repeated("--vary", varied) if command == "sweep" else [])


def _repeated(option: str, texts: list[str]) -> list[str]:
    return [part for text in texts for part in (option, text)]


def seconds_of(arguments: list[str], folder: Path, cache: Path, *, is_here: bool) -> tuple[float, float]:
    """Run a command to its end; return its time, and the time that it had the cores."""
    arguments = [*arguments, "--quiet", "--out", str(folder)]
    started, cores_before = time.perf_counter(), _seconds_of_cores()
    if is_here:
        code = cli.main(arguments)
    else:
        command = [sys.executable, "-m", "fcf_jax.cli", *arguments]
        code = subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(cache)}).returncode
    if code != 0:
        raise RuntimeError(f"expected exit code 0 of {arguments[0]}, got {code}")
    return time.perf_counter() - started, _seconds_of_cores() - cores_before


def _seconds_of_cores() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("config", nargs="?", default="movielens-100k", help="configuration of all runs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--vary", action="append", metavar="SECTION.KEY=A,B,...")
    parser.add_argument("--repeats", type=positive, default=3, help="processes of each, the first cold")
    parser.add_argument("--here", action="store_true", help="in this process, which shares compiled programs")
    arguments = parser.parse_args()
    varied = arguments.vary or VARIED
    times: dict[str, list[tuple[float, float]]] = {"run": [], "sweep": []}
    with TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for command, found in times.items():
                out, cache = (Path(folder) / f"{command}-{name}" for name in (repeat, "cache"))
                words = arguments_of(command, arguments.config, arguments.set, varied)
                found.append(seconds_of(words, out, cache, is_here=arguments.here))
        document = json.loads((Path(folder) / "sweep-0" / "sweep.json").read_text())
    num_runs, num_programs = document["num_runs"], document["num_programs"]
    run, sweep = (np.array(times[command]) for command in ("run", "sweep"))  # [repeats, (time, both cores)]
    rows = [
        {
            "processes": name, "one run, s": np.median(run[part, 0]),
            f"sweep of {num_runs}, s": np.median(sweep[part, 0]),
            "sweep / run": np.median(sweep[part, 0] / run[part, 0]),
            "sweep / run, both cores": np.median(sweep[part, 1] / run[part, 1]),
        }
        for name, part in (("cold", slice(0, 1)), ("warm", slice(1, None)))
        if len(run[part])
    ]  # fmt: skip
    found = {
        "num_runs": num_runs,
        "num_programs": num_programs,
        "vary": varied,
        "seconds": times,
        "rows": rows,
    }
    publish({"machine": machine(), **found}, arguments.out)
    show(f"{num_runs} runs in {num_programs} program(s)", rows)


if __name__ == "__main__":
    main()
