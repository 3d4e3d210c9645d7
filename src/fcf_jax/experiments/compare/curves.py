"""How both sides of a comparison went: numbers by side, name, round and build, in a tidy file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from fcf_jax.experiments.store.files import write_atomically

FEDERATED, CENTRALIZED, BOTH = "federated", "centralized", "both"
_COLUMNS = ["side", "name", "round", "build", "value"]


class Curve(NamedTuple):
    """One number of one side as it went."""

    rounds: npt.NDArray[np.int64]  # [rounds], ascending
    values: npt.NDArray[np.float64]  # [rounds, builds]


class Curves:
    """All curves; the round of a number is how many rounds, or sweeps of ALS, went before it."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[int, npt.NDArray[np.float64]]] = {}

    def put(self, side: str, name: str, round_index: int, of_builds: npt.ArrayLike) -> None:
        """Note one number of each build; what was noted of this round before is forgotten."""
        self._values.setdefault((side, name), {})[round_index] = np.asarray(of_builds, np.float64)

    def get(self, side: str, name: str) -> Curve:
        """Return a curve, empty where nothing was noted."""
        by_round = self._values.get((side, name), {})
        rounds = sorted(by_round)
        values = np.array([by_round[one] for one in rounds]) if rounds else np.zeros((0, 0))
        return Curve(np.array(rounds, np.int64), values)

    def write(self, path: Path) -> None:
        """Write CSV, a row for each number."""
        table = pd.DataFrame(self._rows(), columns=_COLUMNS)
        write_atomically(path, table.to_csv(index=False).encode())

    def _rows(self) -> Iterator[tuple[str, str, int, int, float]]:
        for side, name in self._values:
            rounds, values = self.get(side, name)
            for round_index, of_builds in zip(rounds.tolist(), values.tolist(), strict=True):
                for build, value in enumerate(of_builds):
                    yield side, name, round_index, build, value


def read_curves(path: Path, *, until: int) -> Curves:
    """Read what `Curves.write` wrote, exactly, up to this many rounds or sweeps."""
    curves = Curves()
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False)
    for key, rows in table[table["round"] <= until].groupby(_COLUMNS[:3], sort=False):
        side, name, round_index = cast(tuple[str, str, int], key)
        curves.put(side, name, int(round_index), _numbers(rows["value"]))
    return curves


def _numbers(texts: Iterable[str]) -> list[float]:
    """Read numbers to the last bit, as Python does; empty is nan."""
    return [float(text or "nan") for text in texts]
