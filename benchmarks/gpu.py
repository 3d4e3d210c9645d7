"""One GPU, one call, under six minutes: time of rounds, and how far it is from what the card can do.

Each piece runs in a process of its own with a limit of its own, the most valuable first; what is known after
each is in the JSON, so a piece that hangs, fails or comes too late costs nothing else. Needs the core of the
package: jax, optax, NumPy and jaxtyping.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --only card movielens_20m --repeats 3
    python benchmarks/gpu.py --small               # all pieces at toy sizes, in this process, on any machine
    python benchmarks/gpu.py --table gpu.json      # writes the table of README.md, beside the run before

Rounds are full rounds with the guarded Gram step unless a piece says otherwise; data are drawn (drawn.py).
Roofline ratios are explained in roofline.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gpu_pieces
from common import argument_parser, machine, positive, publish
from gpu_kernels import kernel_parts
from gpu_pieces import SMALL, Sizes
from gpu_table import write_gpu_table
from roofline import against_roof


class Piece(NamedTuple):
    """A measurement: the function of sizes and repeats, and the seconds that it may take."""

    run: Callable[[Sizes, int], dict[str, Any]]
    limit_s: int


PIECES = {
    "card": Piece(gpu_pieces.card, 40),
    "agreement": Piece(gpu_pieces.agreement, 60),
    "movielens_20m": Piece(gpu_pieces.movielens_20m, 80),
    "movielens_20m_xla": Piece(partial(gpu_pieces.movielens_20m, by_item=False), 80),
    "kernels": Piece(kernel_parts, 80),
    "determinism": Piece(gpu_pieces.determinism, 60),
    "cohort": Piece(gpu_pieces.cohort, 60),
    "side_by_side": Piece(gpu_pieces.side_by_side, 60),
    "billion": Piece(gpu_pieces.billion, 90),
    "billion_xla": Piece(partial(gpu_pieces.billion, by_item=False), 60),
    "movielens_20m_xla_small_chunks": Piece(partial(gpu_pieces.movielens_20m, chunk=1, by_item=False), 60),
    "streamed": Piece(gpu_pieces.streamed, 60),
}
NO_TIME = 15  # seconds left in which no piece is begun


def run_here(name: str, *, is_small: bool, repeats: int) -> dict[str, Any]:
    """Run a piece in this process; what it raises becomes its result."""
    try:
        found = PIECES[name].run(SMALL if is_small else Sizes(), repeats)
        return found | {"device_peak_bytes": gpu_pieces.device_peak_bytes()}
    except Exception as error:  # a piece that does not fit must not cost the others
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def run_apart(name: str, *, limit_s: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Run a piece in a process of its own; return its document, or why there is none."""
    out = folder / f"{name}.json"
    command = [
        sys.executable,
        __file__,
        "--here",
        "--only",
        name,
        "--repeats",
        str(repeats),
        "--out",
        str(out),
    ]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")} | os.environ
    try:
        done = subprocess.run(command, env=environment, timeout=limit_s, stdout=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return _failed(name, f"stopped after {limit_s:g} s")
    return json.loads(out.read_text()) if out.exists() else _failed(name, f"ended with {done.returncode}")


def _failed(name: str, why: str) -> dict[str, Any]:
    return {"pieces": {name: {"error": why}}}


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the pieces, write the JSON after each and print what fits on a line."""
    document: dict[str, Any] = {"is_small": arguments.small, "pieces": {}}
    is_here, begun = arguments.small or arguments.here, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            start = time.monotonic()
            left = round(arguments.limit - (start - begun))
            if is_here:
                found = run_here(name, is_small=arguments.small, repeats=arguments.repeats)
                add(document, {"machine": machine(), "pieces": {name: found}})
            elif left < NO_TIME:
                add(document, _failed(name, f"not begun: {left} s were left"))
            else:
                limit_s = min(PIECES[name].limit_s, left)
                add(
                    document,
                    run_apart(name, limit_s=limit_s, repeats=arguments.repeats, folder=Path(folder)),
                )
            document["pieces"][name]["took_s"] = time.monotonic() - start
            publish(document, arguments.out)
            print(f"{name}: {json.dumps(headlines(document['pieces'][name]))}", flush=True)
    return document


def add(document: dict[str, Any], found: dict[str, Any]) -> None:
    """Add what a process found; the machine is that of the first, rates are those of the card."""
    document["machine"] = document.get("machine") or found.get("machine")
    document["pieces"] |= found["pieces"]
    card = document["pieces"].get("card", {})
    for piece in document["pieces"].values():
        if "least_work" in piece and "copy_bytes_per_s" in card:
            piece |= against_roof(piece["round_s"]["median_s"], piece["least_work"], card)


def headlines(piece: dict[str, Any]) -> dict[str, Any]:
    """Select what fits on a line."""
    medians = {
        name: value.get("median_s", value.get("median")) if isinstance(value, dict) else value
        for name, value in piece.items()
        if not isinstance(value, list)
    }
    return {name: value for name, value in medians.items() if value is not None}


def main() -> None:
    parser = argument_parser(__doc__, repeats=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES))
    parser.add_argument("--limit", type=positive, default=360, help="seconds for all pieces")
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    parser.add_argument(
        "--table", nargs="?", const="", metavar="FILE.json", help="only write the table of README.md"
    )
    arguments = parser.parse_args()
    if arguments.table is not None:
        write_gpu_table(json.loads(Path(arguments.table).read_text()) if arguments.table else {})
        return
    document = run_all(arguments)
    if any("error" in piece for piece in document["pieces"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
