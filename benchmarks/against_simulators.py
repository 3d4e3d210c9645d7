"""Time of a full round against the same round in federated simulators and plain loops.

A round: everybody solves exactly, all uploads are summed. Ours includes the server's Adam step, a peer's ends
with the sum, which must equal ours. A peer runs in a process of its own and waits while we time ourselves,
just before and just after each of its rounds; a ratio is a peer's round over the mean of these two.
Environments are made on first use from simulators/requirements/.

    python benchmarks/against_simulators.py path/to/ml-100k --peers numpy_loop pfl --out result.json
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np
from common import (
    add_data_arguments,
    argument_parser,
    positive,
    publish,
    seconds_of,
    show,
    sizes_of,
    spread,
    training_set,
)
from problem import ADAM, ALPHA, REGULARIZATION, all_devices, problem_of, use_all_cores
from simulators.exchange import Problem, write_problem

import fcf_jax as fcf

HERE = Path(__file__).parent / "simulators"
ENVIRONMENTS = HERE / ".environments"
BLOCK = 20  # our rounds in a call
TOLERANCE = 1e-4  # float32 solves in another order agree to about 1e-6
LIMIT_S = 1800.0


class Peer(NamedTuple):
    """Script of a peer, and how to start it.

    Attributes:
        script: under simulators/.
        environment: name under simulators/requirements/; None: ours.
        arguments: of the script.
        most_repeats: rounds that are timed at most.
    """

    script: str
    environment: str | None = None
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


class OurRound(NamedTuple):
    """Inputs of a round, its sum, and the function that times it."""

    problem: Problem
    upload: np.ndarray
    seconds: Callable[[], float]


def set_up(train: fcf.Interactions, num_factors: int) -> OurRound:
    """Pack the clients and compile our round."""
    ours = problem_of(train, num_factors=num_factors, mesh=all_devices())
    federation, key = ours.federation(ADAM), jax.random.key(0)
    state = ours.start(federation, key)
    upload = jax.jit(ours.cohort_sum)(state.item_factors, ours.clients).upload

    def seconds_per_round() -> float:
        rounds = lambda: fcf.run_rounds(federation, key, state, ours.clients, num_rounds=BLOCK)  # noqa: E731
        return seconds_of(rounds) / BLOCK

    seconds_per_round()
    item_factors = np.asarray(state.item_factors)
    problem = Problem(item_factors, train.indptr, train.item_ids, train.strengths, ALPHA, REGULARIZATION)
    return OurRound(problem, np.asarray(upload), seconds_per_round)


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
    """Return the last line that is not empty."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def run_peer(peer: Peer, problem_path: Path, ours: OurRound, repeats: int) -> dict[str, Any]:
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
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process:
            watchdog = threading.Timer(LIMIT_S, process.kill)
            watchdog.start()
            try:
                versions, own, theirs = talk(process, ours.seconds, min(repeats, peer.most_repeats))
                if process.wait() != 0:
                    raise PeerError(f"exit status {process.returncode}")
            except (PeerError, BrokenPipeError) as error:
                log.seek(0)
                raise PeerError(f"did not run: {error}; {last_line(log.read())}") from None
            finally:
                watchdog.cancel()
                process.kill()
        difference = relative_difference(np.load(answer_path), ours.upload)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"expected {peer.script} to sum to our upload within {TOLERANCE}, got {difference:.1e}"
        )
    beside = (np.array(own[:-1]) + np.array(own[1:])) / 2
    return {
        "ratio": spread(np.array(theirs) / beside)._asdict(),
        "peer": milliseconds(theirs),
        "own": milliseconds(own),
        "repeats": len(theirs),
        "relative_difference": difference,
        "versions": versions,
    }


def talk(
    process: subprocess.Popen, own_round: Callable[[], float], repeats: int
) -> tuple[dict, list[float], list[float]]:
    """Send a line for each round of the peer, and run our own rounds between them."""
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


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Describe repeated measurements."""
    return {f"{name}_ms": 1e3 * value for name, value in spread(seconds)._asdict().items()}


def row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Arrange one peer as a row of the table."""
    if "failed" in result:
        return {"peer": name, "failed": result["failed"]}
    found = result["ratio"]
    return {
        "peer": name,
        "times slower": f"{found['median']:.1f} ({found['min']:.1f}-{found['max']:.1f})",
        "round ms": result["peer"]["median_ms"],
        "ours ms": result["own"]["median_ms"],
    }


def main() -> None:
    parser = argument_parser(__doc__, repeats=9)
    add_data_arguments(parser)
    parser.add_argument("--num-factors", type=positive, default=25)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    arguments = parser.parse_args()
    use_all_cores()
    train = training_set(arguments)
    ours, results = set_up(train, arguments.num_factors), {}
    with tempfile.TemporaryDirectory() as folder:
        problem_path = Path(folder, "problem.npz")
        write_problem(str(problem_path), ours.problem)
        for name in arguments.peers:
            try:
                results[name] = run_peer(PEERS[name], problem_path, ours, arguments.repeats)
            except PeerError as error:
                results[name] = {"failed": str(error)}
            show(name, [row(name, results[name])])
    data = sizes_of(train) | {"num_factors": arguments.num_factors}
    publish({"data": data, "results": results}, arguments.out)


if __name__ == "__main__":
    main()
