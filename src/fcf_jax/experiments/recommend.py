"""Recommendations from a finished run: the client's side, on one history."""

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
from fcf_jax.experiments.build.models import configured_model
from fcf_jax.experiments.config.schema import DataConfig
from fcf_jax.experiments.store.run_directory import TrainedModel

Label = int | str


class History(NamedTuple):
    """What a user did, in the model's item numbers."""

    item_ids: np.ndarray  # [slots]
    strengths: np.ndarray  # [slots], transformed as in training
    num_unknown: int  # items that the model does not know


class Recommendation(NamedTuple):
    """One item, by its original id."""

    item: Label
    score: float


def recommend_items(model: TrainedModel, history: History, *, count: int) -> list[Recommendation]:
    """Solve the user's factor from its history and rank the items that are not in it.

    Returns:
        At most `count`, best first; none for a user who has everything.
    """
    shared = configured_model(model.config, model.mean_rating)
    slots = max(8, 1 << max(len(history.item_ids) - 1, 1).bit_length())  # few sizes to compile
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
    """Find a user's whole history in the data of the run.

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
    ids = interactions.item_ids[mine]
    names = ids if interactions.item_labels is None else interactions.item_labels[ids]
    return _known(model, [str(name) for name in names], interactions.strengths[mine])


def history_from_file(model: TrainedModel, path: Path) -> History:
    """Read a history from a CSV of item ids, with strengths in a second column if there is one.

    Raises:
        ValueError: naming FILE:LINE, for what is not a history of items that the model knows.
        OSError: when the file cannot be read.
    """
    items, strengths = [], []
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: expected CSV in UTF-8, got {error}; convert it") from error
    if rows and rows[0][1][0].strip().lower() in ("item", "item_id", "itemid"):
        rows = rows[1:]
    for number, row in rows:
        items.append(row[0].strip())
        strengths.append(_strength(row, f"{path}:{number}"))
    if not items:
        raise ValueError(f"{path}: expected item ids, one a line, found none; add some")
    return _known(model, *_transformed(items, strengths, model.config.data, model.config.model.alpha))


def _strength(row: list[str], place: str) -> float:
    if len(row) < 2:
        return 1.0
    try:
        value = float(row[1])
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{place}: expected item,strength with a finite number, got {row[1]!r}; correct it")
    return value


def _transformed(
    items: list[str], strengths: list[float], data: DataConfig, alpha: float
) -> tuple[list[str], np.ndarray]:
    alone = Interactions.from_labels(["0"] * len(items), items, strengths, duplicates=data.duplicates)
    if data.feedback == "implicit":
        alone = alone.drop_zeros()
    alone = transform_strengths(alone, data)
    if data.feedback == "implicit":
        check_implicit(alone, alpha=alpha)
    assert alone.item_labels is not None
    return [str(label) for label in alone.item_labels[alone.item_ids]], alone.strengths


def _known(model: TrainedModel, items: list[str], strengths: np.ndarray) -> History:
    numbers = {str(label): number for number, label in enumerate(model.item_ids.tolist())}
    is_known = np.array([item in numbers for item in items], bool)
    if items and not is_known.any():
        raise ValueError(
            f"expected items that the model knows, got only unknown ones such as {items[0]}; correct them"
        )
    ids = np.array([numbers[item] for item in items if item in numbers], np.int32)
    order = np.argsort(ids)  # sums then round alike, however the history was ordered
    return History(ids[order], strengths[is_known][order], int((~is_known).sum()))
