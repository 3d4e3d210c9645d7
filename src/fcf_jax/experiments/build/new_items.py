"""Metrics of new items apart: cold items, held out whole, and warm ones, with few training interactions.

Items are ranked among those of their group alone, for the users with a test item in it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from fcf_jax.core.biases import with_constant
from fcf_jax.core.features import fit_map, prior_factors
from fcf_jax.core.records import Model
from fcf_jax.data import Interactions
from fcf_jax.data.selection import of_items, of_users
from fcf_jax.evaluation import (
    EvaluationData,
    UserMetrics,
    evaluate_chance,
    evaluation_data,
    popularity,
    summarize,
    user_metrics_of_factors,
    user_metrics_of_scores,
)
from fcf_jax.experiments.build.dataset import Dataset
from fcf_jax.experiments.config.schema import DataConfig, EvaluationConfig

OF_NEW_ITEMS = ("cold_", "warm_")  # beginnings of the names of their metrics
_MOST_WARM_INTERACTIONS = 10
_LEFT_OUT = ("f1", "rmse", "normalized")  # metrics that are shown of all items alone

Factors = Float[np.ndarray, "_rows factors"]


class _Group(NamedTuple):
    """Items that are ranked among themselves.

    Attributes:
        prefix: of the names of their metrics.
        data: of the users with a test item in the group.
        num_relevant: test items of each user.
        num_items: of the group.
        features: of its items; None: they have factors of their own, or no features.
        is_member: of the items of the training set; None for cold items, which are not among them.
    """

    prefix: str
    data: EvaluationData
    num_relevant: Int[np.ndarray, "users"]
    num_items: int
    features: Float32[np.ndarray, "items features"] | None
    is_member: Bool[np.ndarray, "train_items"] | None


class NewItems(NamedTuple):
    """Cold and warm items of a data set, ready to be ranked.

    Attributes:
        user_ids: users with a test item in one of the groups, whose factors are needed.
        groups: those that have test items.
        features: of the items of the training set; None without.
        shares: popularity of the items of the training set.
        lengths: of the ranked lists.
    """

    user_ids: Int[np.ndarray, "users"]
    groups: tuple[_Group, ...]
    features: Float32[np.ndarray, "train_items features"] | None
    shares: Float[np.ndarray, "train_items"]
    lengths: tuple[int, ...]

    def metrics(self, of_items: Model, user_factors: Factors, item_factors: Factors) -> dict[str, float]:
        """Compute the metrics of each group, such as `cold_recall_at_20`.

        Cold items need features, and have none of these metrics without.

        Args:
            of_items: the model as `core.objective.for_items` gives it.
            user_factors: X of `user_ids`, solved from their training histories.
            item_factors: Y of the items of the training set.
        """
        item_map = None if self.features is None else fit_map(of_items, item_factors, self.features)

        def ranked(group: _Group) -> UserMetrics | None:
            if group.is_member is not None:
                factors = item_factors[group.is_member]
            elif item_map is not None and group.features is not None:
                factors = factors_of(of_items, group.features, item_map)
            else:
                return None
            return user_metrics_of_factors(
                of_items, jnp.asarray(user_factors), jnp.asarray(factors), group.data, k=self.lengths
            )

        return self._named(ranked)

    def popularity(self, model: Model) -> dict[str, float]:
        """Compute the metrics of the ranking by popularity: of cold items, all orders are equally likely."""
        found = {}
        for group in self.groups:
            if group.is_member is None:
                floor = evaluate_chance(group.num_relevant, group.num_items, k=self.lengths)
                found |= _prefixed(group.prefix, floor)
        return found | self._named(
            lambda group: (
                None
                if group.is_member is None
                else self._of_scores(model, group, self.shares[group.is_member])
            )
        )

    def feature_popularity(self, model: Model) -> dict[str, float]:
        """Compute the metrics of cold items ranked by the popularity that their features predict.

        A linear map predicts the popularity of the items of the training set by least squares, with the
        weight 1 on its squared norm. Nothing is learned about a user.
        """
        if self.features is None:
            return {}
        plain = model._replace(
            regularization=1.0, regularization_exponent=None, biases=None, feature_regularization=1.0
        )
        weights = np.asarray(fit_map(plain, self.shares[:, None], self.features))

        def ranked(group: _Group) -> UserMetrics | None:
            if group.features is None:
                return None
            return self._of_scores(model, group, group.features @ weights[:, 0])

        return self._named(ranked)

    def _of_scores(self, model: Model, group: _Group, scores: npt.NDArray[np.floating]) -> UserMetrics:
        return user_metrics_of_scores(model, jnp.asarray(scores, jnp.float32), group.data, k=self.lengths)

    def _named(self, ranked: Callable[[_Group], UserMetrics | None]) -> dict[str, float]:
        each = {group.prefix: ranked(group) for group in self.groups}
        found = {prefix: summarize(metrics) for prefix, metrics in each.items() if metrics is not None}
        return {
            name: value
            for prefix, values in found.items()
            for name, value in _prefixed(prefix, values).items()
        }


def factors_of(
    of_items: Model, features: Float32[np.ndarray, "items features"], item_map: Factors | Array
) -> Array:
    """Compute the factors of items without interactions, B^T g.

    Args:
        of_items: the model as `core.objective.for_items` gives it.
        features: g of each item.
        item_map: B.
    """
    return with_constant(prior_factors(features, item_map), of_items.biases)


def new_items_of(
    dataset: Dataset, data: DataConfig, evaluation: EvaluationConfig, *, seed: int
) -> NewItems | None:
    """Prepare the cold and the warm items of a data set; None without any that are measured.

    Args:
        dataset: whose split holds out items whole.
        data: section of the configuration.
        evaluation: likewise.
        seed: of the sample of users, if not all are evaluated.
    """
    split, cold = dataset.split, dataset.split.cold
    if cold is None:
        return None
    is_warm = (split.train.item_counts <= (data.warm_interactions or _MOST_WARM_INTERACTIONS)) & (
        split.train.item_counts > 0
    )
    parts = {
        "cold": (Interactions.from_arrays([], [], num_users=cold.num_users, num_items=cold.num_items), cold),
        "warm": (of_items(split.train, is_warm), of_items(split.test, is_warm)),
    }
    has_test = {prefix: test.history_lengths > 0 for prefix, (_, test) in parts.items()}
    user_ids = np.flatnonzero(np.any(list(has_test.values()), axis=0))
    groups = []
    for prefix, (train, test) in parts.items():
        if not has_test[prefix].any():
            continue
        wanted = of_users(test, user_ids)
        of_cold = prefix == "cold"
        groups.append(
            _Group(
                prefix,
                evaluation_data(of_users(train, user_ids), wanted, max_users=evaluation.max_users, seed=seed),
                wanted.history_lengths,
                test.num_items,
                dataset.features.of_items(cold) if of_cold else None,
                None if of_cold else is_warm,
            )
        )
    return NewItems(
        user_ids,
        tuple(groups),
        dataset.features.of_items(split.train),
        np.asarray(popularity(split.train)),
        evaluation.lengths,
    )


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items() if not name.startswith(_LEFT_OUT)}
