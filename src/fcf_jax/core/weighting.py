"""From interaction strengths to confidence and preference: what the model believes of the data.

A weighting is a `Partial`: it crosses `jit` as a pytree, its hyperparameters traced, so another
alpha compiles nothing.
"""

from collections.abc import Callable
from typing import Any

from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.core.records import ClientData, Observations, Scalar, Weighting


def confidence(strengths: Float[Array, "*batch"], *, alpha: Scalar) -> Float[Array, "*batch"]:
    """Compute c = 1 + alpha r, the confidence that an interaction of strength r earns.

    References:
        Hu, Koren & Volinsky, ICDM 2008, section 4.
    """
    return 1.0 + alpha * strengths


def implicit_feedback(*, alpha: Scalar) -> Weighting:
    """Weigh a history as implicit feedback: c = 1 + alpha r and p = 1.

    Items outside the history have p = 0 and the confidence `unobserved_weight` = 1.

    Args:
        alpha: how much one unit of strength adds to the confidence, at least 0; may be traced.
    """
    return Partial(_weigh_implicit, alpha=alpha)


def explicit_ratings(*, mean: Scalar = 0.0) -> Weighting:
    """Weigh a history as explicit ratings: c = 1 and p = r - mean.

    Goes with `unobserved_weight=0`: what was not rated says nothing.

    Args:
        mean: what is taken off every rating, usually the mean training rating; may be traced.
    """
    return Partial(_weigh_explicit, mean=mean)


def _weigh_implicit(data: ClientData, *, alpha: Scalar) -> Observations:
    return Observations(
        item_ids=data.item_ids,
        confidence=confidence(data.strengths, alpha=alpha),
        preference=jnp.ones_like(data.strengths),
        mask=data.mask,
    )


def _weigh_explicit(data: ClientData, *, mean: Scalar) -> Observations:
    return Observations(
        item_ids=data.item_ids,
        confidence=jnp.ones_like(data.strengths),
        preference=data.strengths - mean,
        mask=data.mask,
    )


def as_pytree(function: Callable[..., Any] | None) -> Any:
    """Let a plain function, too, cross `jit` as a weighting does; and None, where there is no function."""
    return function if function is None or isinstance(function, Partial) else Partial(function)
