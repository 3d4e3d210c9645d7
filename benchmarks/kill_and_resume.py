"""Runs of `fcf run` killed with SIGKILL at random moments and resumed: how many end bit-identical.

One run is left alone. Each other run is killed once; the moments are drawn from a seed, one from each of as
many equal parts of the unbroken run's time. What must be the same in the end: the item factors, every record
of metrics.jsonl but its seconds, and the figures of summary.json. Runs are forked from a process that has
imported everything.

    python benchmarks/kill_and_resume.py --num-kills 100 --out kills.json
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import argument_parser, positive, publish, show

from fcf_jax import cli

SETTINGS = (
    "data.num_users=600",
    "data.num_items=200",
    "model.num_factors=8",
    "evaluation.every=5",
    "evaluation.baseline=false",
)
FAMILY = multiprocessing.get_context("forkserver")


def start_run(folder: Path, num_rounds: int, *options: str) -> BaseProcess:
    """Start `fcf run` with the settings of all runs."""
    all_settings = (*SETTINGS, f"federation.num_rounds={num_rounds}")
    settings = [part for setting in all_settings for part in ("--set", setting)]
    process = FAMILY.Process(
        target=_run, args=(["run", "--quiet", "--out", str(folder), *settings, *options],)
    )
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    sys.exit(cli.main(arguments))


def finish(process: BaseProcess) -> None:
    """Wait for a run that must succeed."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"expected exit code 0 of fcf run, got {process.exitcode}")


def outcome(folder: Path) -> tuple:
    """Read all that must not depend on kills."""
    with np.load(folder / "item_factors.npz") as arrays:
        item_factors = arrays["item_factors"].tobytes()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    timeless = [{key: value for key, value in one.items() if key != "seconds"} for one in records]
    return item_factors, timeless, summary["federated"]


def stage(folder: Path) -> str:
    """Return how far a killed run had come, from the files that it left."""
    if not (folder / "config.toml").exists():
        return "1 before it wrote anything"
    if not list(folder.glob("checkpoints/round-*.npz")):
        return "2 before the first checkpoint"
    if (folder / "summary.json").exists():
        return "5 with everything written"
    return "4 after training" if (folder / "item_factors.npz").exists() else "3 in training"


def timed_run(folder: Path, num_rounds: int) -> float:
    """Time a run that is left alone."""
    started = time.perf_counter()
    finish(start_run(folder, num_rounds))
    return time.perf_counter() - started


def kill_and_resume(folder: Path, num_rounds: int, seconds: float) -> dict[str, Any] | None:
    """Kill one run after so many seconds and finish it in another process; None if it ended before."""
    process = start_run(folder, num_rounds)
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    found = {"seconds": seconds, "stage": stage(folder), "left_over": len(list(folder.rglob(".*.tmp")))}
    finish(start_run(folder, num_rounds, "--resume"))
    resumed = json.loads((folder / "summary.json").read_text())["resumed_from_rounds"]
    return found | {"resumed_from_rounds": resumed}


def kill_all(folder: Path, moments: list[float], num_rounds: int) -> tuple[float, list[dict[str, Any]]]:
    """Kill a run at each of these moments, in shares of the unbroken run's time.

    Returns:
        Seconds of an unbroken run, and the outcome of each kill.
    """
    timed_run(folder / "compiling", num_rounds)
    whole = timed_run(folder / "unbroken", num_rounds)
    expected, results = outcome(folder / "unbroken"), []
    for number, moment in enumerate(moments):
        run = folder / f"killed-{number}"
        while (result := kill_and_resume(run, num_rounds, whole * moment)) is None:
            shutil.rmtree(run)
            whole = timed_run(run, num_rounds)  # the machine has become faster
            shutil.rmtree(run)
        results.append(result | {"is_identical": outcome(run) == expected})
    return whole, results


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--num-kills", type=positive, default=100)
    parser.add_argument("--num-rounds", type=positive, default=600)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    FAMILY.set_forkserver_preload(["fcf_jax.cli", "fcf_jax.experiments.run"])
    rng, num_kills = np.random.default_rng(arguments.seed), arguments.num_kills
    moments = (rng.permutation(num_kills) + rng.random(num_kills)) / num_kills
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")  # of compiled programs
        whole, results = kill_all(Path(folder), moments.tolist(), arguments.num_rounds)
    settings = (*SETTINGS, f"federation.num_rounds={arguments.num_rounds}")
    publish({"unbroken_s": whole, "settings": settings, "results": results}, arguments.out)
    kills = Counter(one["stage"] for one in results)
    identical = Counter(one["stage"] for one in results if one["is_identical"])
    show(
        f"runs of {whole:.3g} s, killed at {len(results)} moments",
        ({"killed": name, "runs": kills[name], "bit-identical": identical[name]} for name in sorted(kills)),
    )
    print(f"{sum(identical.values())} of {len(results)} ended bit-identical")


if __name__ == "__main__":
    main()
