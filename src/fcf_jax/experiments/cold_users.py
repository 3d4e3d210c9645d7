"""Users without a history, who are known by their attributes alone."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fcf_jax.data import Interactions, read_features
from fcf_jax.data.encoding import ColumnCode
from fcf_jax.data.features import new_rows
from fcf_jax.data.selection import with_items
from fcf_jax.experiments.candidates import candidates_of
from fcf_jax.experiments.recommend import Histories
from fcf_jax.experiments.store.run_directory import TrainedModel


def user_of_features(model: TrainedModel, text: str) -> Histories:
    """Return a user without a history, whose attributes are given as "age=25,gender=M".

    Raises:
        ValueError: for a run without user features, or attributes that mean nothing to it.
    """
    codes = _user_codes(model)
    fields = next(csv.reader([text]), [])
    pairs = [field.partition("=") for field in fields if field.strip()]
    if not pairs or not all(equals for _, equals, _ in pairs):
        raise ValueError(
            f"--features {text}: expected NAME=VALUE,NAME=VALUE or a file that exists; names are "
            f"{', '.join(code.name for code in codes)}"
        )
    attributes = {name.strip(): value.strip() for name, _, value in pairs}
    try:
        features = new_rows(codes, [attributes])
    except ValueError as error:
        raise ValueError(f"--features {text}: {error}") from error
    return _without_history(model, np.zeros(1, int), features)


def users_of_features(model: TrainedModel, path: Path) -> Histories:
    """Return users without histories, from a table of their attributes.

    Raises:
        ValueError: for a run without user features, or a bad line.
        OSError: if the file cannot be read.
    """
    found = read_features(path, entity="user", codes=_user_codes(model))
    return _without_history(model, found.labels, found.matrix)


def _user_codes(model: TrainedModel) -> tuple[ColumnCode, ...]:
    codes = None if model.features is None else model.features.user_codes
    if codes is None:
        raise ValueError(
            "--features: expected a run with data.user_features, got another; train one, or give --history"
        )
    return codes


def _without_history(
    model: TrainedModel, labels: np.ndarray, features: Float32[np.ndarray, "users features"]
) -> Histories:
    none = Interactions.from_arrays([], [], user_labels=labels, item_labels=candidates_of(model).item_ids)
    return Histories(with_items(none, model.item_ids), 0, features, none)
