"""Kill `fcf run` with SIGKILL at random moments, go on with --resume, and count what ends bit-identical.

One run is left alone. Each other run is killed once; the moments are drawn from a seed, one from each of
as many equal parts of the unbroken run's time. What must be the same in the end: the item factors, every
record of metrics.jsonl but its seconds, and the figures of summary.json. Runs are forked from a process
that has imported everything.

    python benchmarks/kill_and_resume.py --num-kills 100 --out kills.json
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fcf_jax import cli
from fcf_jax.experiments import timing

SETTINGS = (
    "data.num_users=600",
    "data.num_items=200",
    "model.num_factors=8",
    "federation.num_rounds=600",
    "evaluation.every=5",
    "evaluation.baseline=false",
)
FAMILY = multiprocessing.get_context("forkserver")


def start_run(folder: Path, *options: str) -> multiprocessing.process.BaseProcess:
    """Start `fcf run` of the same settings."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    process = FAMILY.Process(
        target=_run, args=(["run", "--quiet", "--out", str(folder), *settings, *options],)
    )
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    sys.exit(cli.main(arguments))


def finish(process: multiprocessing.process.BaseProcess) -> None:
    """Wait for a run that must succeed."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"expected exit code 0 of fcf run, got {process.exitcode}")


def outcome(folder: Path) -> tuple:
    """Gather all that must not depend on kills."""
    with np.load(folder / "item_factors.npz") as arrays:
        item_factors = arrays["item_factors"].tobytes()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    timeless = [{key: value for key, value in one.items() if key != "seconds"} for one in records]
    return item_factors, timeless, summary["federated"]


def stage(folder: Path) -> str:
    """Tell from what a dead run left how far it had come."""
    if not (folder / "config.toml").exists():
        return "1 before it wrote anything"
    if not list(folder.glob("checkpoints/round-*.npz")):
        return "2 before the first checkpoint"
    if (folder / "summary.json").exists():
        return "5 with everything written"
    return "4 after training" if (folder / "item_factors.npz").exists() else "3 in training"


def timed_run(folder: Path) -> float:
    """Time a run that is left alone."""
    started = time.perf_counter()
    finish(start_run(folder))
    return time.perf_counter() - started


def kill_and_resume(folder: Path, seconds: float) -> dict | None:
    """Kill one run after so many seconds, and let another process finish it; None if it ended before."""
    process = start_run(folder)
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return None
    found = {"seconds": seconds, "stage": stage(folder), "left_over": len(list(folder.rglob(".*.tmp")))}
    finish(start_run(folder, "--resume"))
    resumed = json.loads((folder / "summary.json").read_text())["resumed_from_rounds"]
    return found | {"resumed_from_rounds": resumed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    arguments = parser.parse_args()
    FAMILY.set_forkserver_preload(["fcf_jax.cli", "fcf_jax.experiments.run"])
    rng = np.random.default_rng(arguments.seed)
    parts = rng.permutation(arguments.num_kills) + rng.random(arguments.num_kills)
    results = []
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")  # of compiled programs
        timed_run(Path(folder) / "compiling")
        whole = timed_run(Path(folder) / "unbroken")
        expected = outcome(Path(folder) / "unbroken")
        for number, part in enumerate(parts):
            run = Path(folder) / f"killed-{number}"
            while (result := kill_and_resume(run, whole * part / arguments.num_kills)) is None:
                shutil.rmtree(run)
                whole = timed_run(run)  # the machine has become faster
                shutil.rmtree(run)
            results.append(result | {"is_identical": outcome(run) == expected})
    timing.publish({"unbroken_s": whole, "settings": SETTINGS, "results": results}, arguments.out)
    kills = Counter(one["stage"] for one in results)
    identical = Counter(one["stage"] for one in results if one["is_identical"])
    timing.show(
        f"runs of {whole:.3g} s, killed at {len(results)} moments",
        ({"killed": name, "runs": kills[name], "bit-identical": identical[name]} for name in sorted(kills)),
    )
    print(f"{sum(identical.values())} of {len(results)} ended bit-identical")


if __name__ == "__main__":
    main()
