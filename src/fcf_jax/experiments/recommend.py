"""Recommendations from a finished run, computed as on the clients: for one user, a new one, or all."""

import contextlib
import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from fcf_jax.data import Interactions, check_implicit, read_features
from fcf_jax.data.feedback import at_least
from fcf_jax.data.rows import first_of
from fcf_jax.data.selection import of_users, positions_of, with_items
from fcf_jax.data.titles import find_titles
from fcf_jax.evaluation.recommend import Recommendations, recommend_many, solve_new_users
from fcf_jax.experiments.build.dataset import (
    load_interactions,
    load_published,
    transform_strengths,
)
from fcf_jax.experiments.build.histories import compared_histories
from fcf_jax.experiments.build.problem import model_of
from fcf_jax.experiments.build.reading import path_of
from fcf_jax.experiments.build.side_features import file_of, user_labels_of
from fcf_jax.experiments.candidates import candidates_of
from fcf_jax.experiments.store.run_directory import TrainedModel
from fcf_jax.messages import count_of
from fcf_jax.recommender import FederatedCollaborativeFilter

if TYPE_CHECKING:
    import pandas as pd

Label = int | str
_BLOCK_USERS = 4096


class Histories(NamedTuple):
    """Histories of users over the items of a model.

    Attributes:
        interactions: with strengths transformed as in training.
        num_unknown: number of interactions left out because their items are not in the model.
        features: f of each user, for a run with user features; None: 0 but for the constant.
        seen: items that are never recommended, over the items that can be; None: those of `interactions`.
    """

    interactions: Interactions
    num_unknown: int
    features: Float32[np.ndarray, "users features"] | None = None
    seen: Interactions | None = None

    @property
    def user_labels(self) -> np.ndarray:
        """Original id of each user."""
        return user_labels_of(self.interactions)

    def of_users(self, user_ids: np.ndarray) -> "Histories":
        """Return the histories of some users; the count stays that of all."""
        return self._replace(
            interactions=of_users(self.interactions, user_ids),
            features=None if self.features is None else self.features[user_ids],
            seen=None if self.seen is None else of_users(self.seen, user_ids),
        )


class Recommendation(NamedTuple):
    """A recommended or similar item, by its original id.

    Attributes:
        item: original id.
        score: x.y, a rating where the run is of explicit ratings; or the cosine of two items.
        title: None where the data has none.
    """

    item: Label
    score: float
    title: str | None = None


def recommend_items(
    model: TrainedModel, histories: Histories, *, count: int, titles: dict[str, str] | None = None
) -> list[list[Recommendation]]:
    """Solve the user factors from the histories, and rank the items that are not in them.

    Args:
        model: of the run.
        histories: one row for each user.
        count: items for each user, at least 1.
        titles: by original id.

    Returns:
        For each user, at most `count` items, best first; none for a user with all items.
    """
    found = _recommended(model, histories, count=count)
    return [_named(model, *row, titles=titles) for row in zip(*found, strict=True)]


def recommend_in_blocks(
    model: TrainedModel, histories: Histories, *, count: int, titles: dict[str, str]
) -> "Iterator[tuple[int, pd.DataFrame]]":
    """Recommend to many users, a block at a time; arguments as for `recommend_items`.

    Yields:
        The number of users done, and a table of user, rank (from 1), item and score, with a title if the data
        has titles.
    """
    import pandas as pd

    item_ids = candidates_of(model).item_ids
    of_items = np.array([titles.get(str(label), "") for label in item_ids.tolist()], object)
    for first in range(0, histories.interactions.num_users, _BLOCK_USERS):
        users = np.arange(first, min(first + _BLOCK_USERS, histories.interactions.num_users))
        ids, scores = _recommended(model, histories.of_users(users), count=count)
        rows, ranks = np.nonzero(ids >= 0)
        items = ids[rows, ranks]
        table = pd.DataFrame(
            {
                "user": histories.user_labels[users[rows]],
                "rank": ranks + 1,
                "item": item_ids[items],
                "score": scores[rows, ranks],
            }
        )
        yield int(users[-1]) + 1, table.assign(title=of_items[items]) if titles else table


def _recommended(model: TrainedModel, histories: Histories, *, count: int) -> Recommendations:
    shared = model_of(model.config.model, model.config.data.feedback, model.mean_rating)
    item_factors = jnp.asarray(model.item_factors)
    user_map = None if model.features is None else model.features.user_map
    features = histories.features
    if user_map is not None and features is None:
        features = np.eye(1, len(user_map), dtype=np.float32).repeat(histories.interactions.num_users, axis=0)
    compared = compared_histories(model.config.model, histories.interactions, seed=model.config.data.seed)
    user_factors = solve_new_users(shared, item_factors, compared, features=features, user_map=user_map)
    candidates = jnp.asarray(candidates_of(model).item_factors)
    seen = histories.interactions if histories.seen is None else histories.seen
    found = recommend_many(candidates, user_factors, seen, k=count)
    return found._replace(scores=found.scores + model.mean_rating)  # 0 for implicit feedback


def similar_items(
    model: TrainedModel, item: str, *, count: int, titles: dict[str, str] | None = None
) -> list[Recommendation]:
    """Find the items with the most similar factors, without the item itself.

    Raises:
        ValueError: for an item that is not in the model.
    """
    (position,) = positions_of([item], model.item_ids)
    if position < 0:
        raise ValueError(
            f"--item {item}: not among the {count_of(len(model.item_ids), 'item')} of this run; they are "
            f"{first_of(model.item_ids)}"
        )
    factors = model.item_factors[:, : model.config.model.num_factors]  # biases say nothing about taste
    estimator = FederatedCollaborativeFilter().with_item_factors(factors)
    ids, scores = estimator.similar_items(int(position), N=count, filter_items=[position])
    return _named(model, ids, scores, titles=titles)


def titles_of(model: TrainedModel) -> dict[str, str]:
    """Return the titles of the items, by original id; none where the data has none, or is gone."""
    if model.config.data.source == "simulated":
        return {}
    with contextlib.suppress(ValueError, OSError):
        return find_titles(Path(path_of(model.config.data)))
    return {}


def histories_of_all(model: TrainedModel) -> Histories:
    """Read the whole histories of all users in the data of the run, and their features.

    Raises:
        ValueError: in one line, for bad data.
        OSError: if the data cannot be read.
    """
    interactions = _all_interactions(model)
    labeled = dataclasses.replace(interactions, user_labels=user_labels_of(interactions))  # kept by blocks
    return _with_features(model, _known(model, labeled))


def _all_interactions(model: TrainedModel) -> Interactions:
    data = model.config.data
    return load_published(data) if data.split == "published" else load_interactions(data)[0]


def _with_features(model: TrainedModel, histories: Histories) -> Histories:
    """Add the features of users, from the file that the run read."""
    data = model.config.data
    if data.user_features is None or model.features is None:
        return histories
    path, codes = file_of(data, data.user_features), model.features.user_codes
    try:
        features = read_features(path, entity="user", codes=codes)
    except ValueError as error:
        raise ValueError(f"data.user_features: {error}") from error
    return histories._replace(features=features.of(histories.user_labels))


def history_of_user(model: TrainedModel, user: str) -> Histories:
    """Return a user's whole history in the data of the run.

    Raises:
        ValueError: for a user that is not in the data.
    """
    interactions = _all_interactions(model)
    labels = user_labels_of(interactions)
    (position,) = positions_of([user], labels)
    if position < 0:
        raise ValueError(f"--user {user}: not in the data of this run; its users are {first_of(labels)}")
    history = of_users(interactions, np.array([position]))
    return _with_features(model, _known(model, dataclasses.replace(history, user_labels=labels[[position]])))


def history_from_file(model: TrainedModel, path: Path) -> Histories:
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
    return _known(model, _transformed([row[0].strip() for _, row in rows], strengths, model))


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
    history = transform_strengths(at_least(history.drop_zeros(), data.min_strength), data)
    check_implicit(history, alpha=model.config.model.alpha)
    return history


def _known(model: TrainedModel, interactions: Interactions) -> Histories:
    """Replace original item ids by those of the model, and leave out items that are not in it."""
    known = with_items(interactions, model.item_ids)
    seen = with_items(interactions, candidates_of(model).item_ids)
    num_unknown = interactions.num_interactions - seen.num_interactions
    if num_unknown and not seen.num_interactions:
        labels = interactions.item_labels
        unknown = interactions.item_ids[0] if labels is None else labels[interactions.item_ids[0]]
        raise ValueError(
            f"expected items of the model, got only unknown ones such as {unknown}; correct them"
        )
    return Histories(known, num_unknown, seen=seen)


def _named(
    model: TrainedModel, ids: np.ndarray, scores: np.ndarray, *, titles: dict[str, str] | None
) -> list[Recommendation]:
    """Return original ids and titles for ids of the model; places without an item are left out."""
    is_item = ids >= 0
    labels = candidates_of(model).item_ids[ids[is_item]].tolist()
    named = [None if titles is None else titles.get(str(label)) for label in labels]
    return [Recommendation(*one) for one in zip(labels, scores[is_item].tolist(), named, strict=True)]
