"""Side features of an experiment: files that the configuration names, matched to users and items by label."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from fcf_jax.data import Features, Interactions, read_features
from fcf_jax.data.formats.attributes import Entity
from fcf_jax.experiments.build.reading import path_of
from fcf_jax.experiments.config.schema import DataConfig
from fcf_jax.messages import count_of


class SideFeatures(NamedTuple):
    """Side features of users and items.

    Attributes:
        users: of users; None without.
        items: of items; None without.
        notes: what was taken for features and what was left out, a line each.
    """

    users: Features | None = None
    items: Features | None = None
    notes: tuple[str, ...] = ()

    def of_users(self, part: Interactions) -> Float32[np.ndarray, "users features"] | None:
        """Return f of the users of a part of the data; None without user features."""
        return None if self.users is None else self.users.of(user_labels_of(part))

    def of_items(self, part: Interactions) -> Float32[np.ndarray, "items features"] | None:
        """Return g of the items of a part of the data; None without item features."""
        return None if self.items is None else self.items.of(item_labels_of(part))

    @property
    def counts(self) -> dict[str, int]:
        """Number of features of each kind, for those that there are."""
        named = {"num_user_features": self.users, "num_item_features": self.items}
        return {name: one.num_features for name, one in named.items() if one is not None}


def user_labels_of(part: Interactions) -> np.ndarray:
    """Return the labels of users: without any, their numbers."""
    return np.arange(part.num_users) if part.user_labels is None else part.user_labels


def item_labels_of(part: Interactions) -> np.ndarray:
    """Return the labels of items: without any, their numbers."""
    return np.arange(part.num_items) if part.item_labels is None else part.item_labels


def features_of(data: DataConfig, *parts: Interactions) -> SideFeatures:
    """Read the side features that the configuration names.

    Args:
        data: section of the configuration.
        *parts: of the data, whose users and items need features.

    Raises:
        ValueError: in one line, for bad data, or features of no user or item of the data.
        OSError: if a file cannot be read.
    """
    users, of_users = _read(data, "user", data.user_features, [user_labels_of(part) for part in parts])
    items, of_items = _read(data, "item", data.item_features, [item_labels_of(part) for part in parts])
    return SideFeatures(users, items, (*of_users, *of_items))


def file_of(data: DataConfig, name: str) -> Path:
    """Return the file of features: a bare name is looked for in the folder of the data first."""
    path = Path(name)
    if path.name == name and data.source != "simulated":
        source = Path(path_of(data))
        beside = (source if source.is_dir() else source.parent) / name
        return beside if beside.is_file() else path
    return path


def _read(
    data: DataConfig, entity: Entity, name: str | None, labels: Sequence[np.ndarray]
) -> tuple[Features | None, tuple[str, ...]]:
    if name is None:
        return None, ()
    path, key = file_of(data, name), f"data.{entity}_features"
    try:
        features = read_features(path, entity=entity)
        wanted = np.unique(np.concatenate([one.astype(np.str_) for one in labels]))
        features.check_some_known(wanted, entity=entity)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{key}: expected a file of attributes, got no file {path}; correct it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    notes = [f"{entity} features ({path.name}): {features.summary}"]
    if missing := features.num_missing(wanted):
        notes.append(
            f"{missing:,} of {count_of(wanted.size, entity)} are not in {path.name}: their features are 0, "
            "the constant apart"
        )
    return features, tuple(notes)
