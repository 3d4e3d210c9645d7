r"""Centralised training of users and items at once, by L-BFGS on J(X, Y): a baseline for every objective.

ALS solves items as it solves users, which pairs of items do not allow. This descends J itself, with the
derivatives that JAX takes of it. Only the loss and the solve of the first user factors are those of a round.

    item_factors, losses = fit_jointly(model, start, clients, num_steps=500)

References:
    Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.
"""

from functools import partial
from typing import Any

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.biases import with_constant
from fcf_jax.core.checks import require, require_catalogue
from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.linalg import einsum
from fcf_jax.core.objective import (
    catalogue_loss,
    for_items,
    gram,
    history_loss,
    observe,
    of_items,
    of_slots,
    regularization_of,
    total_loss,
)
from fcf_jax.core.records import Model, PackedClients, as_pytree

__all__ = ["fit_jointly", "joint_loss"]

_MEMORY = 10  # steps that the approximation of the Hessian rests on
Factors = tuple[Float[Array, "users factors"], Float[Array, "items factors"]]


def joint_loss(model: Model, factors: Factors, clients: PackedClients) -> Float[Array, ""]:
    """Compute J(X, Y), with constant coordinates of biases at 1 whatever they are.

    Args:
        model: weighting, lambda, w0, objective and biases.
        factors: X and Y.
        clients: the histories.
    """
    user_factors = with_constant(factors[0], model.biases)
    item_factors = with_constant(factors[1], of_items(model).biases)
    num_users, num_items = user_factors.shape[0], clients.item_counts.shape[0]

    def add(total: tuple[Array, Array], chunk: tuple) -> tuple[tuple[Array, Array], None]:
        (loss, lengths), (rows, owners, client_ids) = total, chunk
        observations = observe(model, rows)
        users = client_ids.at[owners].get(mode="fill", fill_value=num_users)
        observed = of_slots(item_factors, observations.item_ids, observations.negative_ids)
        scores = einsum("rsk,rk->rs", observed, user_factors.at[users].get(mode="fill", fill_value=0.0))
        lengths = lengths.at[users].add(jnp.sum(rows.mask, axis=1, dtype=jnp.int32), mode="drop")
        losses = jax.vmap(partial(history_loss, model))(scores, observations)
        return (loss + jnp.sum(losses), lengths), None

    start = jnp.zeros((), item_factors.dtype), jnp.zeros(num_users, jnp.int32)
    chunks = clients.rows, clients.owners, clients.client_ids
    (of_histories, lengths), _ = jax.lax.scan(add, start, chunks)
    own = jnp.broadcast_to(jnp.asarray(regularization_of(model, lengths, num_items)), lengths.shape)

    def of_catalogue(factor: Array, regularization: Array) -> Array:
        return catalogue_loss(model._replace(regularization=regularization), item_gram, factor)

    item_gram = gram(item_factors)
    of_users = of_histories + jnp.sum(jax.vmap(of_catalogue)(user_factors, own))
    return total_loss(for_items(model, clients.item_counts, num_users), item_factors, of_users)


def fit_jointly(
    model: Model,
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    *,
    num_steps: int,
) -> tuple[Float[Array, "items factors"], Float[Array, "steps"]]:
    """Minimize J over X and Y, from these item factors and the user factors that minimize J with them.

    Args:
        model: weighting, lambda, w0, objective and biases.
        item_factors: Y to begin with.
        clients: the users' histories.
        num_steps: number of steps; each looks for a step length along its direction.

    Returns:
        Y, and the loss before each step.

    Raises:
        ValueError: for clients of another catalogue, or a negative number.
    """
    require(model=model, num_rounds=num_steps)
    require_catalogue(item_factors.shape[0], name="item_factors", clients=clients)
    return _descend(num_steps, as_pytree(model), item_factors, clients._replace(items=None))


@partial(jax.jit, static_argnums=0)
def _descend(
    num_steps: int, model: Model, item_factors: Array, clients: PackedClients
) -> tuple[Array, Array]:
    def loss_of(factors: Factors) -> Array:
        return joint_loss(model, factors, clients)

    optimizer = optax.lbfgs(memory_size=_MEMORY)
    value_and_grad = optax.value_and_grad_from_state(loss_of)

    def step(at: tuple[Any, optax.OptState], _: None) -> tuple[tuple, Any]:
        factors, state = at
        value, gradient = value_and_grad(factors, state=state)
        updates, state = optimizer.update(
            gradient, state, factors, value=value, grad=gradient, value_fn=loss_of
        )
        return (optax.apply_updates(factors, updates), state), value

    user_factors, _ = solve_clients(model, item_factors, clients)
    factors = user_factors, item_factors
    ((_, item_factors), _), losses = jax.lax.scan(step, (factors, optimizer.init(factors)), length=num_steps)
    return item_factors, losses
