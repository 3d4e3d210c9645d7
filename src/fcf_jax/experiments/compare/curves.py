"""Learning curves of a comparison, by side, name, round and replicate, in a tidy CSV file."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from jaxtyping import Float64, Int64

from fcf_jax.experiments.store.files import write_atomically

FEDERATED, CENTRALIZED, BOTH, POPULARITY = "federated", "centralized", "both", "popularity"
_COLUMNS = ["side", "name", "round", "build", "value"]


class Curve(NamedTuple):
    """Values of one metric of one side.

    Attributes:
        rounds: rounds, or sweeps of ALS, before each value; ascending.
        values: of each replicate.
    """

    rounds: Int64[np.ndarray, "rounds"]
    values: Float64[np.ndarray, "rounds replicates"]


class Curves:
    """Curves by side and name."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[int, npt.NDArray[np.float64]]] = {}

    def put(self, side: str, name: str, round_index: int, values: npt.ArrayLike) -> None:
        """Set the value of each replicate in a round, in place of earlier ones."""
        self._values.setdefault((side, name), {})[round_index] = np.asarray(values, np.float64)

    def get(self, side: str, name: str) -> Curve:
        """Return a curve, empty if nothing was put there."""
        by_round = self._values.get((side, name), {})
        rounds = sorted(by_round)
        values = np.array([by_round[one] for one in rounds]) if rounds else np.zeros((0, 0))
        return Curve(np.array(rounds, np.int64), values)

    def write(self, path: Path) -> None:
        """Write a CSV file with a row for each value."""
        table = pd.DataFrame(self._rows(), columns=_COLUMNS)
        write_atomically(path, table.to_csv(index=False).encode())

    def _rows(self) -> Iterator[tuple[str, str, int, int, float]]:
        for side, name in self._values:
            rounds, values = self.get(side, name)
            for round_index, of_round in zip(rounds.tolist(), values.tolist(), strict=True):
                for replicate, value in enumerate(of_round):
                    yield side, name, round_index, replicate, value


def read_curves(path: Path, *, until: float = math.inf) -> Curves:
    """Read the file of `Curves.write`, bit for bit, up to round `until`."""
    curves = Curves()
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False)
    for key, rows in table[table["round"] <= until].groupby(_COLUMNS[:3], sort=False):
        side, name, round_index = cast(tuple[str, str, int], key)
        values = [float(text or "nan") for text in rows["value"]]  # Python's float is exact, pandas' is not
        curves.put(side, name, int(round_index), values)
    return curves
