"""What a run has learned from features: the maps to factors, and the factors of items nobody interacted with.

`features.json` has how attributes become numbers, `features.npz` the maps A and B.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from fcf_jax.data.encoding import ColumnCode, Kind
from fcf_jax.experiments.store.files import Arrays, Document, File


class _Code(TypedDict):
    name: str
    kind: Kind
    values: list[str]
    mean: float
    scale: float


class _Codes(TypedDict):
    users: list[_Code] | None
    items: list[_Code] | None


FEATURE_CODES = File[Document]("features.json", schema=_Codes)
FEATURE_MAPS = File[Arrays]("features.npz", required=("new_item_ids", "new_item_factors"))


class TrainedFeatures(NamedTuple):
    """Features of a finished run.

    Attributes:
        user_codes: how attributes of users become features; None: users have none.
        item_codes: likewise, of items.
        user_map: A [features, factors]; None: users have no features.
        item_map: B [features, factors]; None: items have no features.
        new_item_ids: labels of the items with features and without training interactions.
        new_item_factors: B^T g of these items.
    """

    user_codes: tuple[ColumnCode, ...] | None
    item_codes: tuple[ColumnCode, ...] | None
    user_map: np.ndarray | None
    item_map: np.ndarray | None
    new_item_ids: np.ndarray
    new_item_factors: np.ndarray


def write_features(folder: Path, features: TrainedFeatures) -> None:
    """Write what a run has learned from features.

    Raises:
        OSError: when it cannot be written.
    """
    maps = {"user_map": features.user_map, "item_map": features.item_map}
    labels = features.new_item_ids
    new = {
        "new_item_ids": labels.astype(str) if labels.dtype == object else labels,
        "new_item_factors": features.new_item_factors,
    }
    FEATURE_MAPS.write(folder, {name: one for name, one in maps.items() if one is not None} | new)
    codes = {"users": _documents(features.user_codes), "items": _documents(features.item_codes)}
    FEATURE_CODES.write(folder, codes)


def read_features_of_run(folder: Path) -> TrainedFeatures | None:
    """Read them back; None for a run without features.

    Raises:
        ValueError: when a file is damaged.
        OSError: when a file is missing or cannot be read.
    """
    if not FEATURE_MAPS.is_in(folder):
        return None
    maps, codes = FEATURE_MAPS.read(folder), FEATURE_CODES.read(folder)
    return TrainedFeatures(
        _codes(codes["users"]),
        _codes(codes["items"]),
        maps.get("user_map"),
        maps.get("item_map"),
        maps["new_item_ids"],
        maps["new_item_factors"],
    )


def _documents(codes: Sequence[ColumnCode] | None) -> list[dict[str, Any]] | None:
    if codes is None:
        return None
    return [dataclasses.asdict(code) | {"values": list(code.values)} for code in codes]


def _codes(documents: list[dict[str, Any]] | None) -> tuple[ColumnCode, ...] | None:
    if documents is None:
        return None
    return tuple(
        ColumnCode(one["name"], one["kind"], tuple(one["values"]), one["mean"], one["scale"])
        for one in documents
    )
