"""Files of the estimator: item factors and hyperparameters, never pickled; and its step in `pickle`."""

import io
import json
import os
import pickle
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fcf_jax.data.rows import checked_labels

File = str | os.PathLike | IO[bytes]
_FORMAT_VERSION = 1


def write_model(
    file: File,
    hyperparameters: dict[str, Any],
    item_factors: npt.NDArray[np.float32],
    item_labels: np.ndarray | None,
) -> None:
    """Write hyperparameters, item factors and labels; `.npz` is added to a file name without it."""
    labels: dict[str, Any] = {} if item_labels is None else {"item_labels": item_labels}
    np.savez(
        file,
        format_version=np.array(_FORMAT_VERSION),
        hyperparameters=np.array(json.dumps(hyperparameters, default=np.generic.item)),
        item_factors=item_factors,
        **labels,
    )


def read_model(file: File) -> tuple[dict[str, Any], npt.NDArray[np.float32], np.ndarray | None]:
    """Read and check a file that `write_model` wrote; the labels are None if it has none.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or not a saved model.
    """
    if isinstance(file, str | os.PathLike):
        path = Path(file) if os.fspath(file).endswith(".npz") else Path(f"{os.fspath(file)}.npz")
        name, content = str(path), io.BytesIO(path.read_bytes())
    else:
        name, content = "file", file
    try:
        with np.load(content, allow_pickle=False) as arrays:
            version, item_factors = int(arrays["format_version"]), arrays["item_factors"]
            hyperparameters = json.loads(str(arrays["hyperparameters"]))
            item_labels = arrays.get("item_labels")
        if version != _FORMAT_VERSION:
            raise ValueError(f"format version {version} instead of {_FORMAT_VERSION}")
        if item_factors.dtype != np.float32 or not np.isfinite(item_factors).all():
            raise ValueError("item factors that are not finite float32")
        if item_factors.shape[1:] != (hyperparameters["num_factors"],):
            raise ValueError(f"item factors of shape {item_factors.shape}")
        checked_labels(item_labels, len(item_factors), kind="item")
    except Exception as error:  # a damaged zip can raise anything: BadZipFile, zlib.error, EOFError, OSError
        raise ValueError(f"{name}: expected a saved model, got {error}; save it again") from error
    return hyperparameters, item_factors, item_labels


class _Forgotten:
    """A server step that could not be pickled."""

    def __reduce__(self) -> str:
        return "FORGOTTEN"


FORGOTTEN = _Forgotten()


class KeptStep(NamedTuple):
    """A server step on its way through `pickle` or `copy`.

    Most optax transformations are closures, which `pickle` refuses: `FORGOTTEN` is then pickled instead, and
    the model does all but `fit`. A copy keeps the step.

    Attributes:
        step: the step.
    """

    step: Any

    def __deepcopy__(self, memo: dict) -> "KeptStep":
        return self

    def __reduce__(self) -> tuple:
        try:
            pickle.dumps(self.step)
        except (pickle.PicklingError, AttributeError, TypeError):
            return KeptStep, (FORGOTTEN,)
        return KeptStep, (self.step,)
