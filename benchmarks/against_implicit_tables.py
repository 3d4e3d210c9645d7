"""Tables of README.md about the time, quality and memory of ours and of peers, from against_implicit.py."""

from collections.abc import Callable, Iterator
from typing import Any

from readme import cell, spread_cell, write_table

Document = dict[str, Any]
_RATIOS = {"implicit_cg": "`implicit` CG", "implicit_exact": "`implicit` exact", "irspack_cg": "`irspack` CG"}


def write_tables(documents: list[Document]) -> None:
    """Write the tables of all pieces that the documents hold."""
    for piece, rows in TABLES.items():
        found = [row for document in documents for row in rows_of(document, piece, rows)]
        if found:
            write_table(f"against_implicit.py, {piece}", found)


def rows_of(document: Document, piece: str, rows: Callable) -> Iterator[dict[str, Any]]:
    """Arrange one piece of all results of a document, sizes first."""
    data = document["data"]
    sizes = f"{data['name']}, {data['num_interactions']:,}"
    for result in document["results"]:
        if piece in result:
            head = {"training set": sizes, "alpha": result["alpha"], "K": result["num_factors"]}
            for row in rows(result[piece]):
                yield head | row


def _rounds(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    times = {name: cell(1e3 * one["median_s"]) for name, one in found["timings"].items()}
    ratios = {
        f"{name} / {words}": spread_cell(found["ratios"].get(f"{mine} / {peer}"), is_bold=True)
        for name, mine in (("round", "guarded_round"), ("inexact", "inexact_round"))
        for peer, words in _RATIOS.items()
    }
    yield {
        "round, ms": times.get("guarded_round"),
        "inexact, ms": times.get("inexact_round"),
        "with Adam, ms": times.get("adam_round"),
        "ALS sweep, ms": times.get("als_sweep"),
        **{f"{words}, ms": times.get(peer) for peer, words in _RATIOS.items()},
        **ratios,
    }


def _quality(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in found["rows"]:
        yield {
            "": row[""].replace("_", " "),
            "seconds": row["seconds"],
            "rounds or iterations": row["steps"],
            "round / it": spread_cell(row.get("guarded_round / it"), is_bold=True),
            "inexact / it": spread_cell(row.get("inexact_round / it"), is_bold=True),
        }


def _alone(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    processes = found["processes"]
    mine = processes["guarded_round"]
    peers = {peer: processes[peer]["peak_bytes"] for peer in _RATIOS if peer in processes}
    yield {
        "data, MB": 1e-6 * found["data_bytes"],
        "round: peak, MB": 1e-6 * mine["peak_bytes"],
        "above imports and data, MB": 1e-6 * (mine["peak_bytes"] - mine["baseline_bytes"]),
        **{
            f"{words}: peak, MB": 1e-6 * peers[peer] if peer in peers else None
            for peer, words in _RATIOS.items()
            if peer != "implicit_exact"
        },
        "peak / `implicit` CG": mine["peak_bytes"] / peers["implicit_cg"] if "implicit_cg" in peers else None,
        "first call, s": mine["first_call_s"],
    }


TABLES = {"rounds": _rounds, "quality": _quality, "alone": _alone}
