"""Recommendations from a finished run, computed as on the client of one user."""

import contextlib
import csv
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from fcf_jax.core.records import ClientData
from fcf_jax.core.solve import solve_user_factor
from fcf_jax.data import Interactions, check_implicit
from fcf_jax.evaluation import recommend
from fcf_jax.experiments.build.dataset import (
    load_interactions,
    load_published,
    transform_strengths,
)
from fcf_jax.experiments.build.problem import model_of
from fcf_jax.experiments.store.run_directory import TrainedModel

Label = int | str
_FEWEST_SLOTS = 8


class History(NamedTuple):
    """Observed items of one user, with the item ids of the model.

    Attributes:
        item_ids: [slots], ascending.
        strengths: [slots], transformed as in training.
        num_unknown: number of items left out because they are not in the model.
    """

    item_ids: np.ndarray
    strengths: np.ndarray
    num_unknown: int


class Recommendation(NamedTuple):
    """A recommended item, by its original id, with its score x.y."""

    item: Label
    score: float


def recommend_items(model: TrainedModel, history: History, *, count: int) -> list[Recommendation]:
    """Solve the user factor from a history, and rank the items that are not in it.

    Returns:
        At most `count` items, best first; none for a user with all items.
    """
    shared = model_of(model.config.model, model.config.data.feedback, model.mean_rating)
    slots = max(
        _FEWEST_SLOTS, 1 << max(len(history.item_ids) - 1, 1).bit_length()
    )  # powers of 2: few programs to compile
    padding = (0, slots - len(history.item_ids))
    client = ClientData(
        item_ids=jnp.asarray(np.pad(history.item_ids, padding), jnp.int32),
        strengths=jnp.asarray(np.pad(history.strengths, padding), jnp.float32),
        mask=jnp.arange(slots) < len(history.item_ids),
    )
    item_factors = jnp.asarray(model.item_factors)
    user_factor = jax.jit(solve_user_factor)(shared, item_factors, shared.weighting(client))
    ids, scores = recommend(item_factors, user_factor, history.item_ids, k=count)
    labels = model.item_ids[np.asarray(ids)].tolist()
    return [Recommendation(*pair) for pair in zip(labels, np.asarray(scores).tolist(), strict=True)]


def history_of_user(model: TrainedModel, user: str) -> History:
    """Return a user's whole history in the data of the run.

    Raises:
        ValueError: for a user that is not in the data.
    """
    data = model.config.data
    interactions = load_published(data) if data.split == "published" else load_interactions(data)[0]
    labels = range(interactions.num_users) if interactions.user_labels is None else interactions.user_labels
    position = next((index for index, label in enumerate(labels) if str(label) == user), None)
    if position is None:
        examples = ", ".join(str(label) for label in labels[:3])
        raise ValueError(f"--user {user}: not in the data of this run; its users are {examples}, ...")
    mine = slice(interactions.indptr[position], interactions.indptr[position + 1])
    return _known(model, _names(interactions, mine), interactions.strengths[mine])


def history_from_file(model: TrainedModel, path: Path) -> History:
    """Read a history from a CSV with item ids and, optionally, strengths in a second column.

    Raises:
        ValueError: naming FILE:LINE, for a bad line or a file without items of the model.
        OSError: if the file cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: expected CSV in UTF-8, got {error}; convert it") from error
    if rows and rows[0][1][0].strip().lower() in ("item", "item_id", "itemid"):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path}: expected item ids, one per line, got none; add some")
    strengths = [_strength(row, f"{path}:{number}") for number, row in rows]
    history = _transformed([row[0].strip() for _, row in rows], strengths, model)
    return _known(model, _names(history), history.strengths)


def _strength(row: list[str], place: str) -> float:
    if len(row) < 2:
        return 1.0
    with contextlib.suppress(ValueError):
        if np.isfinite(value := float(row[1])):
            return value
    raise ValueError(f"{place}: expected item,strength with a finite number, got {row[1]!r}; correct it")


def _transformed(items: list[str], strengths: list[float], model: TrainedModel) -> Interactions:
    """Build the history of a single user, with strengths transformed as in training."""
    data = model.config.data
    history = Interactions.from_labels(["0"] * len(items), items, strengths, duplicates=data.duplicates)
    if data.feedback == "explicit":
        return transform_strengths(history, data)
    history = transform_strengths(history.drop_zeros(), data)
    check_implicit(history, alpha=model.config.model.alpha)
    return history


def _names(interactions: Interactions, part: slice = slice(None)) -> list[str]:
    """Return the original item ids of interactions as text."""
    ids, labels = interactions.item_ids[part], interactions.item_labels
    return [str(name) for name in (ids if labels is None else labels[ids])]


def _known(model: TrainedModel, items: list[str], strengths: np.ndarray) -> History:
    """Replace original item ids by those of the model, and leave out items that are not in it."""
    numbers = {str(label): number for number, label in enumerate(model.item_ids.tolist())}
    is_known = np.array([item in numbers for item in items], bool)
    if items and not is_known.any():
        raise ValueError(
            f"expected items of the model, got only unknown ones such as {items[0]}; correct them"
        )
    ids = np.array([numbers[item] for item in items if item in numbers], np.int32)
    order = np.argsort(ids)  # so that sums do not depend on the order of the history
    return History(ids[order], strengths[is_known][order], int((~is_known).sum()))
