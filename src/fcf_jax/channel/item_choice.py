r"""Choices of the items of a round: at random, by popularity, and by the bandit of FCF-BTS.

FCF-BTS takes items for the arms of a bandit with a Gaussian prior N(0, 1) on the mean reward of each. After n
rewards of mean r, an item's posterior is N(n r / (1 + n), 1 / (1 + n)); Thompson sampling draws one number
from each, and sends the items with the largest. The reward of a sent item with gradient g in round t is

    (1 - gamma) t cos(v, g) + (gamma / t) |g - g'|_1,   gamma = 0.999

divided by the largest of the round, where g' is the gradient when the item was last sent, and v = the
exponential average of squared gradients, with decay 0.99 and Adam's correction of its start.

References:
    Khan et al., RecSys 2021, "A Payload Optimization Method for Federated Recommender Systems",
    arXiv:2107.13078. Its body could not be consulted: the formulas are those of a public implementation,
    whose first term is named a cosine, as here, but computed as an L1 distance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.linalg import safe_sqrt
from fcf_jax.core.records import Key

_GAMMA, _DECAY = 0.999, 0.99


class Learned(NamedTuple):
    """What the sums of a round tell about the items that were sent.

    Attributes:
        is_sent: whether an item was.
        upload: sums of the item gradients; 0 for items that were not sent.
        confidence_sum: sums of c - w0.
    """

    is_sent: Bool[Array, "items"]
    upload: Float[Array, "items factors"]
    confidence_sum: Float[Array, "items"]


class Choice(NamedTuple):
    """A way to choose items, from what the server has learned in earlier rounds.

    Attributes:
        start: (num_items, num_factors) -> what the server knows at first.
        learn: (knowledge, `Learned`) -> next knowledge.
        draw: (key, knowledge, num_items) -> a number for each item; those with the largest are sent.
    """

    start: Callable[[int, int], Any]
    learn: Callable[[Any, Learned], Any]
    draw: Callable[[Key, Any, int], Float[Array, "items"]]


class Popularity(NamedTuple):
    """What the server knows of popularity.

    Attributes:
        total: sum of each item's confidence sums.
        count: rounds in which it was sent.
    """

    total: Float[Array, "items"]
    count: Int[Array, "items"]


class Bandit(NamedTuple):
    """State of FCF-BTS.

    Attributes:
        reward_sum: sum of each item's rewards.
        count: n, rounds in which it was sent.
        last_gradient: g'.
        square_average: v without correction.
        round_index: rounds so far.
    """

    reward_sum: Float[Array, "items"]
    count: Int[Array, "items"]
    last_gradient: Float[Array, "items factors"]
    square_average: Float[Array, "items factors"]
    round_index: Int[Array, ""]


def _draw_uniform(key: Key, knowledge: tuple, num_items: int) -> Float[Array, "items"]:
    return jax.random.uniform(key, (num_items,))


def _first_popularity(num_items: int, num_factors: int) -> Popularity:
    return Popularity(jnp.zeros(num_items), jnp.zeros(num_items, jnp.int32))


def _learn_popularity(known: Popularity, learned: Learned) -> Popularity:
    return Popularity(known.total + learned.confidence_sum, known.count + learned.is_sent)


def _draw_popular(key: Key, known: Popularity, num_items: int) -> Float[Array, "items"]:
    """Draw without replacement, by mean confidence sums; an item never sent counts as an average one."""
    is_known = known.count > 0
    mean = jnp.maximum(known.total, 0.0) / jnp.maximum(known.count, 1)
    average = jnp.sum(jnp.where(is_known, mean, 0.0)) / jnp.maximum(jnp.sum(is_known), 1)
    weight = jnp.where(is_known, mean, jnp.where(average > 0, average, 1.0))
    smallest = jnp.finfo(weight.dtype).tiny
    return jnp.log(jnp.maximum(weight, smallest)) + jax.random.gumbel(key, (num_items,), weight.dtype)


def _first_bandit(num_items: int, num_factors: int) -> Bandit:
    """Return the first state, whose arrays are distinct: it may be donated."""
    shape = num_items, num_factors
    return Bandit(
        reward_sum=jnp.zeros(num_items),
        count=jnp.zeros(num_items, jnp.int32),
        last_gradient=jnp.zeros(shape),
        square_average=jnp.zeros(shape),
        round_index=jnp.zeros((), jnp.int32),
    )


def rewards(bandit: Bandit, learned: Learned) -> tuple[Float[Array, "items"], Bandit]:
    """Compute the rewards of the round's items, 0 for others, and the averages after the round."""
    is_sent, time = learned.is_sent[:, None], bandit.round_index + 1
    gradient = jnp.where(is_sent, learned.upload, bandit.last_gradient)
    average = _DECAY * bandit.square_average + (1 - _DECAY) * gradient**2
    corrected = average / (1 - _DECAY**time)
    product = safe_sqrt(jnp.sum(corrected**2, axis=1) * jnp.sum(gradient**2, axis=1))
    cosine = jnp.sum(corrected * gradient, axis=1) / jnp.where(product > 0, product, 1.0)
    change = jnp.sum(jnp.abs(gradient - bandit.last_gradient), axis=1)
    reward = (1 - _GAMMA) * time * cosine + (_GAMMA / time) * change
    reward = jnp.where(learned.is_sent, reward, 0.0)
    largest = jnp.max(reward)
    reward = reward / jnp.where(largest > 0, largest, 1.0)
    return reward, bandit._replace(
        last_gradient=gradient, square_average=average, round_index=bandit.round_index + 1
    )


def _learn_bandit(bandit: Bandit, learned: Learned) -> Bandit:
    reward, bandit = rewards(bandit, learned)
    return bandit._replace(reward_sum=bandit.reward_sum + reward, count=bandit.count + learned.is_sent)


def _draw_from_posterior(key: Key, bandit: Bandit, num_items: int) -> Float[Array, "items"]:
    precision = 1.0 + bandit.count.astype(bandit.reward_sum.dtype)
    drawn = jax.random.normal(key, (num_items,), precision.dtype)
    return bandit.reward_sum / precision + drawn / jnp.sqrt(precision)


CHOICES = {
    "uniform": Choice(
        start=lambda num_items, num_factors: (),
        learn=lambda knowledge, learned: (),
        draw=_draw_uniform,
    ),
    "popularity": Choice(_first_popularity, _learn_popularity, _draw_popular),
    "bandit": Choice(_first_bandit, _learn_bandit, _draw_from_posterior),
}
