"""Item factors that a training starts from, in place of drawn ones."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fcf_jax.core.biases import Biases
from fcf_jax.data.selection import matched_factors
from fcf_jax.experiments.errors import ConfigError
from fcf_jax.experiments.store.run_directory import read_run
from fcf_jax.recommender.storage import read_model

_KEY = "server.initial_item_factors"


def start_from(
    path: str,
    drawn: npt.NDArray[np.floating],
    item_labels: np.ndarray | None,
    *,
    biases: Biases | None = None,
) -> npt.NDArray[np.floating]:
    """Read the item factors of another model for the items of this one, matched by label.

    Args:
        path: run directory, or a file that `FederatedCollaborativeFilter.save` wrote.
        drawn: first item factors [items, factors], for items that the other model lacks.
        item_labels: labels of the items; None: their numbers.
        biases: those of the model; None: it has none.

    Raises:
        ConfigError: naming the key, when it cannot be read or does not fit.
    """
    labels = np.arange(len(drawn)) if item_labels is None else item_labels
    try:
        theirs, their_labels = _read(Path(path))
        _require_biases(theirs, biases)
        return matched_factors(theirs, their_labels, drawn, labels)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_KEY}: {error}") from error


def _require_biases(item_factors: np.ndarray, biases: Biases | None) -> None:
    """Refuse factors without the constant coordinate of items, which no step would set."""
    if biases is not None and not np.all(item_factors[:, -1] == 1):
        raise ValueError(
            "expected item factors with biases to start from, got some without; set model.biases = false, "
            "or train them with biases"
        )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if path.is_dir() or not path.exists():
        trained = read_run(path)
        return trained.item_factors, trained.item_ids
    _, item_factors, item_labels = read_model(path)
    return item_factors, item_labels
