r"""Biases of users and items: two coordinates of the factors, of which each side learns one.

    x_u.y_i + b_u + b_i = [x_u, 1, b_u] . [y_i, b_i, 1]

So biases need no code of their own in scores, sums, gradients and recommendations. Who solves a factor holds
its constant coordinate at 1. What that coordinate adds to the scores is an offset, o_i = b_i for users and
o_u = b_u for items, and the remaining coordinates solve the normal equations of c (p - o - x.y)^2. A user's
bias stays on its device with its factor.

References:
    Koren, Bell & Volinsky, Computer 2009, "Adding biases".
"""

from dataclasses import dataclass
from functools import partial

from jax import numpy as jnp
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float, Shaped

NUM_COORDINATES = 2  # that biases add to the factors


@partial(register_dataclass, data_fields=[], meta_fields=["is_of_items"])
@dataclass(frozen=True)
class Biases:
    """Marks a model with biases.

    Attributes:
        is_of_items: whether items are solved, with user factors given, as in ALS and in the server's step.
    """

    is_of_items: bool = False

    @property
    def constant(self) -> int:
        """Coordinate of the solved factors that is 1."""
        return -1 if self.is_of_items else -2


def biases() -> Biases:
    """Return the mark of a model with biases, for `Model(..., biases=biases())`."""
    return Biases()


def num_columns(num_factors: int, biases: Biases | None) -> int:
    """Return the number of coordinates of a factor: K, and those of biases."""
    return num_factors + (0 if biases is None else NUM_COORDINATES)


def with_biases(
    item_factors: Float[Array, "items factors"], biases: Biases | None
) -> Float[Array, "items columns"]:
    """Append biases of 0 and the constant to drawn factors; without biases, return them."""
    if biases is None:
        return item_factors
    return jnp.concatenate(
        [item_factors, jnp.zeros_like(item_factors[:, :1]), jnp.ones_like(item_factors[:, :1])], axis=1
    )


def without_constant(factors: Shaped[Array, "..."], biases: Biases | None) -> Shaped[Array, "..."]:
    """Set the constant coordinate of factors, gradients or steps to 0; without biases, return them."""
    return factors if biases is None else factors.at[..., biases.constant].set(0.0)


def with_constant(factors: Shaped[Array, "..."], biases: Biases | None) -> Shaped[Array, "..."]:
    """Set the constant coordinate of solved factors to 1; without biases, return them."""
    return factors if biases is None else factors.at[..., biases.constant].set(1.0)
