r"""The normal equations A x = b of the clients that own a batch of rows.

    A_u = M + \sum_{i in I_u} (c_i - w0) y_i y_i^T,   M = w0 G + lambda I,   b_u = \sum_{i in I_u} c_i p_i y_i

In whitened terms, with M = L L^T, z = L^-1 y and x = L^-T x', they are

    (I + \sum_{i in I_u} (c_i - w0) z_i z_i^T) x' = \sum_{i in I_u} c_i p_i z_i,   x.y_i = x'.z_i
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from fcf_jax.core.linalg import einsum
from fcf_jax.core.records import Model


class RowSums(NamedTuple):
    """The two maps between the rows of a batch and its clients.

    Attributes:
        owners: client of each row, in ascending order, `num_clients` for padding rows; None: one client.
        num_clients: number of clients.
    """

    owners: Int[Array, "rows"] | None
    num_clients: int

    def total(self, values: Shaped[Array, "rows ..."]) -> Shaped[Array, "..."]:
        """Sum over each client's rows: [rows, ...] -> [*clients, ...]."""
        if self.owners is None:
            return jnp.sum(values, axis=0)
        return jax.ops.segment_sum(values, self.owners, self.num_clients, indices_are_sorted=True)

    def spread(self, values: Shaped[Array, "..."]) -> Shaped[Array, "rows ..."]:
        """Repeat each client's value for its rows: [*clients, ...] -> [rows, ...]."""
        return values[None] if self.owners is None else values.at[self.owners].get(mode="clip")


def one_client() -> RowSums:
    """Assign all rows to one client."""
    return RowSums(None, 1)


def owned_by(owners: Int[Array, "rows"], *, num_clients: int) -> RowSums:
    """Assign row r to client `owners[r]`; owners are in ascending order, `num_clients` for padding rows."""
    return RowSums(owners, num_clients)


class Equations(NamedTuple):
    """The normal equations of the clients in a batch of rows, A x = b + right.

    Attributes:
        observed_factors: y_i of the observed items; z_i in whitened terms.
        targets: c p, 0 in empty slots.
        extra: c - w0, 0 in empty slots.
        shared: M; None in whitened terms, where it is the identity.
        right: more of the right-hand side.
    """

    observed_factors: Float[Array, "rows slots factors"]
    targets: Float[Array, "rows slots"]
    extra: Float[Array, "rows slots"]
    shared: Float[Array, "factors factors"] | None
    right: Float[Array, "*clients factors"]


def shared_matrix(
    model: Model, item_gram: Float[Array, "factors factors"]
) -> Float[Array, "factors factors"]:
    """Compute M = w0 G + lambda I, the part of A that all clients share."""
    identity = jnp.eye(item_gram.shape[0], dtype=item_gram.dtype)
    return model.unobserved_weight * item_gram + model.regularization * identity


def normal_matrices(equations: Equations, row_sums: RowSums) -> Float[Array, "*clients factors factors"]:
    """Compute A of every client."""

    def of_row(factors: Float[Array, "slots factors"], extra: Float[Array, "slots"]) -> Array:
        return jnp.matmul(factors.T * extra[None, :], factors, precision="highest")

    seen = row_sums.total(jax.vmap(of_row)(equations.observed_factors, equations.extra))
    return seen + (jnp.eye(seen.shape[-1]) if equations.shared is None else equations.shared)


def observed_scores(
    equations: Equations, row_sums: RowSums, user_factors: Float[Array, "*clients factors"]
) -> Float[Array, "rows slots"]:
    """Compute x.y_i of the observed items."""
    return einsum("rsk,rk->rs", equations.observed_factors, row_sums.spread(user_factors))


def product(
    equations: Equations,
    row_sums: RowSums,
    user_factors: Float[Array, "*clients factors"],
    scores: Float[Array, "rows slots"],
) -> Float[Array, "*clients factors"]:
    """Compute A x; `scores` are those of x."""
    of_history = row_sums.total(einsum("rsk,rs->rk", equations.observed_factors, equations.extra * scores))
    return of_history + _times_shared(equations, user_factors)


def first_residual(equations: Equations, row_sums: RowSums) -> Float[Array, "*clients factors"]:
    """Compute the right-hand side, the residual at x = 0."""
    total = row_sums.total(einsum("rsk,rs->rk", equations.observed_factors, equations.targets))
    return total + equations.right


def residual_at(
    equations: Equations,
    row_sums: RowSums,
    user_factors: Float[Array, "*clients factors"],
    scores: Float[Array, "rows slots"],
) -> Float[Array, "*clients factors"]:
    """Compute the residual at x, summed over the history item by item, so that large terms cancel first."""
    left = equations._replace(targets=equations.targets - equations.extra * scores)
    return first_residual(left, row_sums) - _times_shared(equations, user_factors)


def _times_shared(equations: Equations, user_factors: Float[Array, "*clients factors"]) -> Array:
    if equations.shared is None:
        return user_factors
    return einsum("...k,kl->...l", user_factors, equations.shared)
