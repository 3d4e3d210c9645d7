"""Time a full round against the same round in federated simulators and plain loops.

A round: everybody solves exactly, all uploads are summed. Ours includes the server's Adam step, a
peer's ends with the sum, which must equal ours. A peer runs in a process of its own and waits
while we time ourselves, just before and just after each of its rounds; a ratio is a peer's round
over the mean of these two. Environments are made on first use from requirements/.

    python benchmarks/simulators/compare.py path/to/ml-100k --peers numpy_loop pfl --out result.json
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, NamedTuple

import jax
import numpy as np
import optax
from exchange import Problem, write_problem

import fcf_jax as fcf
from fcf_jax.experiments import timed_runs

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".environments"
ALPHA, REGULARIZATION, NUM_FACTORS, BLOCK = 4.0, 1.0, 25, 20
TOLERANCE = 1e-4  # float32 solves in another order agree to about 1e-6
LIMIT_S = 1800.0


class Peer(NamedTuple):
    """How to start a peer."""

    script: str
    environment: str | None = None  # name under requirements/, None: ours
    arguments: tuple[str, ...] = ()
    most_repeats: int = 1000


PEERS = {
    "python_loop": Peer("python_loop.py"),
    "python_loop_fused": Peer("python_loop.py", arguments=("--fused",)),
    "numpy_loop": Peer("numpy_loop.py"),
    "pfl": Peer("pfl_backend.py", "pfl"),
    "fedjax": Peer("fedjax_clients.py", "fedjax"),
    "flower": Peer("flower_simulation.py", "flower", most_repeats=2),
}


class PeerError(Exception):
    """A peer that cannot be compared, and why."""


def set_up(path: str) -> tuple[Problem, np.ndarray, Callable[[], float]]:
    """Read and split the data; return the round's inputs, its sum, and a function that times our round."""
    interactions, _ = fcf.read_interactions(path)
    train = fcf.split_per_user(interactions.binarized(), test_fraction=0.2, seed=0).train
    mesh, weighting = timed_runs.local_mesh(), fcf.implicit_feedback(alpha=ALPHA)
    clients = timed_runs.placed(partial(fcf.batch_clients, train), mesh)
    federation = fcf.federated_cf(
        optax.adam(0.05),
        weighting,
        num_items=train.num_items,
        num_factors=NUM_FACTORS,
        regularization=REGULARIZATION,
        mesh=mesh,
    )
    key = jax.random.key(0)
    state = federation.init(key)
    state = state if mesh is None else fcf.place_state(state, mesh)
    total, _ = jax.jit(federation.collect)(state, clients)
    sums = federation.read(state, total)

    def seconds_per_round() -> float:
        start = time.perf_counter()
        jax.block_until_ready(fcf.run_rounds(federation, key, state, clients, num_rounds=BLOCK))
        return (time.perf_counter() - start) / BLOCK

    seconds_per_round()
    item_factors = np.asarray(state.item_factors)
    problem = Problem(item_factors, train.indptr, train.item_ids, train.strengths, ALPHA, REGULARIZATION)
    return problem, np.asarray(sums.upload), seconds_per_round


def environment_python(name: str | None) -> str:
    """Return the interpreter of an environment, made or renewed when its requirements are not met."""
    if name is None:
        return sys.executable
    folder, requirements = ENVIRONMENTS / name, HERE / "requirements" / f"{name}.txt"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"{name}: installing {' '.join(requirements.read_text().split())}", file=sys.stderr)
        ENVIRONMENTS.mkdir(exist_ok=True)
        (ENVIRONMENTS / ".gitignore").write_text("*\n")
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise PeerError(f"did not install: {last_line(done.stderr)}")
        installed.write_text(requirements.read_text())
    return str(python)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def run_peer(
    peer: Peer, problem_path: Path, own_round: Callable[[], float], upload: np.ndarray, repeats: int
) -> dict:
    """Time a peer and ourselves in turn, and check the sum of its last round.

    Raises:
        PeerError: when it does not install or does not finish.
        ValueError: when its sum is not ours.
    """
    python = environment_python(peer.environment)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as fast as more, for matrices this small
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "log"), "w+") as log:
        answer_path = Path(folder, "upload.npy")
        command = [python, str(HERE / peer.script), str(problem_path), str(answer_path), *peer.arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        try:
            versions, own, theirs = talk(process, own_round, min(repeats, peer.most_repeats))
            if process.wait() != 0:
                raise PeerError(f"exit status {process.returncode}")
        except (PeerError, BrokenPipeError) as problem:
            log.seek(0)
            raise PeerError(f"did not run: {problem}; {last_line(log.read())}") from None
        finally:
            watchdog.cancel()
            process.kill()
        difference = relative_difference(np.load(answer_path), upload)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"expected {peer.script} to sum to our upload within {TOLERANCE}, got {difference:.1e}"
        )
    beside = (np.array(own[:-1]) + np.array(own[1:])) / 2
    return {
        "ratio": spread(np.array(theirs) / beside, ""),
        "peer": spread(1e3 * np.array(theirs), "_ms"),
        "own": spread(1e3 * np.array(own), "_ms"),
        "repeats": len(theirs),
        "relative_difference": difference,
        "versions": versions,
    }


def talk(
    process: subprocess.Popen, own_round: Callable[[], float], repeats: int
) -> tuple[dict, list[float], list[float]]:
    """Let the peer run a round for each line it gets, our own rounds between them."""
    requests, replies = process.stdin, process.stdout
    if requests is None or replies is None:
        raise TypeError("expected a process with pipes")
    versions = json.loads(answer(replies))
    own, theirs = [own_round()], []
    for _ in range(repeats):
        print("round", file=requests, flush=True)
        theirs.append(float(answer(replies)))
        own.append(own_round())
    requests.close()
    return versions, own, theirs


def answer(replies: IO[str]) -> str:
    """Read one line."""
    line = replies.readline()
    if not line:
        raise PeerError("it stopped")
    return line


def relative_difference(theirs: np.ndarray, own: np.ndarray) -> float:
    """Compare two sums in the Frobenius norm."""
    return float(np.linalg.norm(theirs - own) / np.linalg.norm(own))


def spread(values: np.ndarray, unit: str) -> dict[str, float]:
    """Describe repeated measurements."""
    names = ("median", "min", "max")
    return {f"{name}{unit}": float(getattr(np, name)(values)) for name in names}


def main() -> None:
    """Run the peers, one line each; write the JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", help="a data set in any layout that fcf_jax reads")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where to write the JSON document; else standard output")
    arguments = parser.parse_args()

    fcf.use_cpu_devices()
    problem, upload, own_round = set_up(arguments.path)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        problem_path = Path(folder, "problem.npz")
        write_problem(str(problem_path), problem)
        for name in arguments.peers:
            try:
                results[name] = run_peer(PEERS[name], problem_path, own_round, upload, arguments.repeats)
                row = results[name]
                print(
                    f"{name:18s} {row['ratio']['median']:8.1f} x ({row['ratio']['min']:.1f}-"
                    f"{row['ratio']['max']:.1f})  {row['peer']['median_ms']:9.1f} ms, ours "
                    f"{row['own']['median_ms']:.2f} ms",
                    file=sys.stderr,
                )
            except PeerError as problem_found:
                results[name] = {"failed": str(problem_found)}
                print(f"{name:18s} {problem_found}", file=sys.stderr)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("jax", "jaxlib", "optax", "numpy")}
    users, items = len(problem.indptr) - 1, len(upload)
    data = {"num_users": users, "num_items": items, "nnz": len(problem.item_ids), "num_factors": NUM_FACTORS}
    document = json.dumps(
        {"machine": machine, "versions": versions, "data": data, "results": results}, indent=2
    )
    print(document) if arguments.out is None else arguments.out.write_text(document + "\n")


if __name__ == "__main__":
    main()
