"""Exchange with a peer: its problem, its answer and its arguments. Needs NumPy only, as every peer does."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple, NoReturn

import numpy as np


class Problem(NamedTuple):
    """Inputs of one round, the histories in compressed sparse rows.

    Attributes:
        item_factors: Y [items, factors], float32.
        indptr: [users + 1].
        item_ids: of all histories.
        strengths: r of all histories, float32.
        alpha: of the confidence 1 + alpha r.
        regularization: lambda.
    """

    item_factors: np.ndarray
    indptr: np.ndarray
    item_ids: np.ndarray
    strengths: np.ndarray
    alpha: float
    regularization: float

    def histories(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """List each user's item ids and confidences c = 1 + alpha r."""
        confidence = 1.0 + self.alpha * self.strengths
        ends = self.indptr[1:-1]
        return list(zip(np.split(self.item_ids, ends), np.split(confidence, ends), strict=True))


def missing(package: str) -> NoReturn:
    """Stop a peer whose package is not installed."""
    sys.exit(f"{package} is not installed; run benchmarks/against_simulators.py, which makes an environment")


def peer_parser(doc: str | None) -> argparse.ArgumentParser:
    """Create the parser of a peer: where its problem lies, and where it writes its answer."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("problem", help="file that `write_problem` wrote")
    parser.add_argument("answer", help="file for the sum of the last round; a round runs for each input line")
    return parser


def read_problem(path: str) -> Problem:
    """Read what `write_problem` wrote."""
    with np.load(path) as arrays:
        return Problem(
            arrays["item_factors"],
            arrays["indptr"],
            arrays["item_ids"],
            arrays["strengths"],
            float(arrays["alpha"]),
            float(arrays["regularization"]),
        )


def write_problem(path: str, problem: Problem) -> None:
    """Write the problem as one .npz file."""
    np.savez(path, **problem._asdict())


def serve_rounds(run_round: Callable[[], np.ndarray], answer_path: str, packages: tuple[str, ...]) -> None:
    """Run and time a round for every line of standard input, after one to warm up.

    Writes the versions as the first line of standard output and then the seconds of each round;
    whatever else is printed goes to standard error. The last round's sum is written at the end.

    Args:
        run_round: returns sum_u f(u, .) [items, factors], computed to the end.
        packages: names whose versions are reported.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    upload = run_round()
    print(json.dumps({name: version(name) for name in packages}), file=replies)
    for _ in sys.stdin:
        start = time.perf_counter()
        upload = run_round()
        print(time.perf_counter() - start, file=replies)
    np.save(answer_path, upload)
