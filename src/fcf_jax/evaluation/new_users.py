"""The factors of users that come a few at a time: what their own devices would compute from Y."""

import dataclasses

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float

from fcf_jax.core.cohort_sum import solve_clients
from fcf_jax.core.packing import batch_clients
from fcf_jax.core.records import PackedClients, Scalar, Weighting
from fcf_jax.core.sampling import fill_up
from fcf_jax.core.weighting import as_pytree
from fcf_jax.data.interactions import Interactions

_ROW_WIDTH = 32  # of any history, and sizes are rounded up: few programs are compiled for many requests
_FEWEST = 8  # users, and rows


def solve_new_users(
    item_factors: Float[Array, "items factors"],
    histories: Interactions,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
) -> npt.NDArray[np.floating]:
    """Solve the factor of every user from its history, [users, factors]; 0 for an empty one.

    For requests of changing size. `solve_clients` does the same for clients that are packed already.

    Args:
        item_factors: Y, trained on any users.
        histories: one row a user.
        weighting: as in training.
        regularization: lambda, at least 0.
        unobserved_weight: w0.
    """
    num_missing = power_of_two(histories.num_users, least=_FEWEST) - histories.num_users
    indptr = np.pad(histories.indptr, (0, num_missing), mode="edge")
    clients = batch_clients(
        dataclasses.replace(histories, indptr=indptr, user_labels=None), row_width=_ROW_WIDTH
    )
    clients = fill_up(clients, num_rows=power_of_two(clients.owners.shape[1], least=_FEWEST))
    solved = _solve(item_factors, clients, as_pytree(weighting), regularization, unobserved_weight)
    return np.asarray(solved)[: histories.num_users]


def power_of_two(number: int, *, least: int = 1) -> int:
    """Round up to a power of two, at least this one."""
    return 1 << (max(number, least) - 1).bit_length()


@jax.jit
def _solve(
    item_factors: Array,
    clients: PackedClients,
    weighting: Weighting,
    regularization: Scalar,
    unobserved_weight: Scalar,
) -> Array:
    solved, _ = solve_clients(
        item_factors,
        clients,
        weighting,
        regularization=regularization,
        unobserved_weight=unobserved_weight,
    )
    return solved
