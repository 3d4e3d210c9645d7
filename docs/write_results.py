"""The results table of README.md, written from comparisons: `python docs/write_results.py FOLDER...`.

Each folder of `fcf compare` becomes a row that stands beside the command that gave it, with versions and
date. A row of the same command is replaced; the others stay.
"""

import json
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

_README = Path(__file__).resolve().parents[1] / "README.md"
_BEGIN, _END = "<!-- written by docs/write_results.py -->", "<!-- end of results -->"
_METRICS = ("precision_at_10", "recall_at_10", "map_at_10", "ndcg_at_10")
_COLUMNS = (
    "command", "size, rounds / sweeps", "precision@10", "recall@10", "MAP@10", "NDCG@10", "loss", "verdict",
    "made with",
)  # fmt: skip
_HEAD = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]


def row_of(folder: Path) -> str:
    """Return the row of a finished comparison."""
    document, environment = (
        json.loads((folder / name).read_text()) for name in ("comparison.json", "environment.json")
    )
    config, metrics = tomllib.loads((folder / "config.toml").read_text()), document["metrics"]
    users, items, rounds, sweeps = (
        document[f"num_{what}"] for what in ("users", "items", "rounds", "sweeps")
    )
    versions = environment["versions"]
    made = (
        f"{versions['fcf_jax']}, jax {versions['jax']}, {environment['cores']} cores, "
        f"{environment['started'][:10]}"
    )
    cells = [
        f"`{_command(environment['arguments'], is_known=bool(config['data'].get('name')))}`",
        f"{users} x {items}, {rounds} / {sweeps}",
        *(_cell(metrics[name]) for name in _METRICS),
        _percent(metrics["loss"]),
        document["headline"],
        made,
    ]
    return f"| {' | '.join(cells)} |"


def with_rows(text: str, rows: list[str]) -> str:
    """Put rows into the table of a page, each in the place of that with the same command.

    Raises:
        ValueError: if the page lacks a marker.
    """
    if not text.count(_BEGIN) == text.count(_END) == 1:
        raise ValueError(f"expected one {_BEGIN} and one {_END}; put them back")
    before, rest = text.split(_BEGIN)
    table, after = rest.split(_END)
    by_command = {_first(row): row for row in table.splitlines() if row.startswith("| `")}
    by_command |= {_first(row): row for row in rows}
    return "\n".join([before + _BEGIN, "", *_HEAD, *by_command.values(), "", _END + after])


def _command(arguments: list[str], *, is_known: bool) -> str:
    """Return the command line without what is particular to the place where it ran.

    Args:
        arguments: as typed.
        is_known: whether the configuration names a public data set, which then needs no path.
    """
    words, left = ["fcf"], iter(arguments)
    for word in left:
        if word in ("--quiet", "--resume"):
            continue
        value = next(left) if word in ("--set", "--out") else None
        key, _, text = (value or "").partition("=")
        if word == "--out" or key == "parallel.devices" or (key == "data.path" and is_known):
            continue
        if key == "data.path":
            value = f"{key}={'/'.join(Path(text).parts[-2:])}"
        words += [word] if value is None else [word, value]
    return shlex.join(words)


def _first(row: str) -> str:
    return row.split("|")[1].strip()


def _cell(found: dict[str, Any]) -> str:
    means = (found[f"{side}_mean"] for side in ("popularity", "centralized", "federated"))
    return " / ".join(f"{mean:.4f}".lstrip("0") for mean in means) + f" ({_percent(found)})"


def _percent(found: dict[str, Any]) -> str:
    return f"{found['difference_percent']:+.2f} %"


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:]]
    _README.write_text(with_rows(_README.read_text(), [row_of(folder) for folder in folders]))
