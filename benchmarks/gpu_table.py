"""The table of README.md about a GPU: aims and estimates, beside what gpu.py measured before and now."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from readme import cell, write_table

BEFORE = Path(__file__).with_name("gpu_h200_before.json")
Piece = dict[str, Any]


class Case(NamedTuple):
    """A row: the piece it comes from, the aim, what was estimated without a card, and the figure."""

    words: str
    piece: str
    aim: str
    estimate: str
    figure: Callable[[Piece], str | None]


def milliseconds(piece: Piece) -> str:
    """Write the median time of a round."""
    return f"{cell(1e3 * piece['round_s']['median_s'])} ms"


def inexact(piece: Piece) -> str:
    """Write the median time of an inexact round."""
    return f"{cell(1e3 * piece['inexact_round_s']['median_s'])} ms"


def seconds(piece: Piece) -> str:
    """Write the median time of a long round."""
    return f"{cell(piece['round_s']['median_s'])} s"


def sameness(piece: Piece) -> str:
    """Write whether two runs were identical, and if not, how far apart."""
    return "yes" if piece["is_identical"] else f"no, {piece['largest_difference']:.1e} apart"


def error_of(name: str) -> Callable[[Piece], str | None]:
    """Return what writes the relative error of F, if it was measured."""

    def write(piece: Piece) -> str | None:
        error = piece.get(f"{name}_to_float64")
        return None if error is None else f"{error:.1e}"

    return write


def parts(piece: Piece) -> str:
    """Write the times of the parts as shipped, each the first of its kind."""
    found = {name.split(",")[0]: cell(one) for name, one in reversed(piece["milliseconds"].items())}
    return ", ".join(found[name] for name in ("whiten", "solve", "sum by item")) + " ms"


CASES = (
    Case("copy, TB/s", "card", "", "3 to 4", lambda piece: cell(1e-12 * piece["copy_bytes_per_s"])),
    Case(
        'products with precision "highest", TFLOP/s', "card", "", "45",
        lambda piece: cell(1e-12 * piece["product_flops_per_s"]),
    ),
    Case("F by kernels against float64", "agreement", "1e-6", "5e-7", error_of("kernels")),
    Case("F by XLA against float64", "agreement", "1e-6", "2e-7", error_of("xla")),
    Case("MovieLens-20M shape, K = 64, by kernels", "movielens_20m", "6 ms, then 3", "8 ms", milliseconds),
    Case("the same, clients solved to .003", "movielens_20m", "", "7 ms", inexact),
    Case("the same by XLA, 2^20 slots a chunk", "movielens_20m_xla", "", "54 ms", milliseconds),
    Case("the same by XLA, 2^18 slots a chunk", "movielens_20m_xla_small_chunks", "", "80 ms", milliseconds),
    Case("its parts: whiten, solve, sum by item", "kernels", "", "0.2, 5.3, 1.5 ms", parts),
    Case("two runs identical, bit for bit", "determinism", "yes", "yes", sameness),
    Case(
        "1000 of MovieLens-1M-shaped clients, rounds a second", "cohort", "2000", "",
        lambda piece: cell(piece["rounds_per_s"]),
    ),
    Case(
        "8 federations side by side / one", "side_by_side", "2", "",
        lambda piece: cell(piece["eight / one"]["median"]),
    ),
    Case(
        "10 M clients x 100 k items x 1 G interactions, K = 32, by kernels", "billion", "2 s", "0.3 s",
        seconds,
    ),
    Case("the same by XLA", "billion_xla", "2 s", "2.6 s", seconds),
    Case("a tenth of it, streamed from the host", "streamed", "", "0.3 s", seconds),
)  # fmt: skip


def write_gpu_table(document: dict[str, Any]) -> None:
    """Write the table from a document of gpu.py; an empty one means that nothing was measured yet."""
    write_table("gpu.py", rows(json.loads(BEFORE.read_text()), document))


def rows(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Arrange all cases, with the card and the day of both measurements in the head."""
    return [
        {
            "full round unless stated": case.words,
            "aim": case.aim or None,
            "estimate": case.estimate or None,
            f"measured before: {_where(before)}": _figure(case, before),
            f"measured: {_where(now)}": _figure(case, now),
        }
        for case in CASES
    ]


def _where(document: dict[str, Any]) -> str:
    machine = document.get("machine")
    if machine is None:
        return "not yet"
    return f"{machine['device_kind']}, jax {machine['versions']['jax']}, {machine['started'][:10]}"


def _figure(case: Case, document: dict[str, Any]) -> str | None:
    piece = document.get("pieces", {}).get(case.piece)
    if piece is None:
        return "-"
    return "failed" if "error" in piece else case.figure(piece)
