"""Popularity as a recommender: the floor that a model has to beat.

Items are ranked for everybody by the number of users that chose them. Nothing is learned about a user; only
the user's own training items are left out.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.records import Model
from fcf_jax.data.interactions import Interactions
from fcf_jax.evaluation.packed import evaluation_data
from fcf_jax.evaluation.ranking import Lengths, user_metrics_of_scores
from fcf_jax.evaluation.summary import summarize


def popularity(train: Interactions) -> Float[Array, "items"]:
    """Compute the share of users that chose each item in training, in [0, 1].

    It ranks the items as the count of their training interactions does, and is the best constant estimate of
    a binary preference.
    """
    return jnp.asarray(train.item_counts, jnp.float32) / max(train.num_users, 1)


def evaluate_popularity(
    model: Model, train: Interactions, test: Interactions, k: Lengths = 10
) -> dict[str, float]:
    """Evaluate the ranking by `popularity`, with the masks and metrics of `evaluate`.

    Args:
        model: its weighting gives the preferences of the test items, for `rmse`.
        train: training histories, which are counted, and never recommended.
        test: items to find, disjoint from `train`.
        k: length of the ranked list, at least 1, or several.

    Returns:
        The means by name, as defined by `summarize`. `rmse` takes the share of users for a prediction of the
        preference, which suits implicit feedback only.

    Raises:
        ValueError: as for `evaluation_data`, and for k below 1.

    Example:
        >>> from fcf_jax.core.objective import implicit_feedback
        >>> train = Interactions.from_arrays([0, 1, 2], [1, 1, 0], [1.0, 1.0, 1.0], num_users=4, num_items=3)
        >>> test = Interactions.from_arrays([3], [1], [1.0], num_users=4, num_items=3)
        >>> evaluate_popularity(Model(implicit_feedback(alpha=1.0), 1.0), train, test, k=1)["precision_at_1"]
        1.0
    """
    data = evaluation_data(train, test)
    return summarize(user_metrics_of_scores(model, popularity(train), data, k=k))
