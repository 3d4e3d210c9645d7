r"""The normal equations A x = b of the clients that own a batch of rows.

    A_u = w0 G + lambda_u I + \sum_{i in I_u} (c_i - w0) y_i y_i^T,   b_u = \sum_{i in I_u} c_i p_i y_i

In whitened terms, with w0 G + lambda I = L L^T, z = L^-1 y and x = L^-T x', they are

    (D_u + \sum_{i in I_u} (c_i - w0) z_i z_i^T) x' = \sum_{i in I_u} c_i p_i z_i,   x.y_i = x'.z_i

where D_u = I if lambda_u = lambda for all, and is diagonal if L comes from the eigenvectors of G.
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from fcf_jax.core.linalg import einsum
from fcf_jax.core.records import Observations, Scalar


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

    def largest(self, values: Shaped[Array, "rows ..."]) -> Shaped[Array, "..."]:
        """Return the largest of each client's rows, at least 0: [rows, ...] -> [*clients, ...]."""
        if self.owners is None:
            return jnp.max(values, axis=0)
        found = jax.ops.segment_max(values, self.owners, self.num_clients, indices_are_sorted=True)
        return jnp.maximum(found, 0)

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
        shared: w0 G; None in whitened terms: 0.
        ridge: lambda_u; in whitened terms D_u, whose numbers are all 1 or one for each factor.
        right: more of the right-hand side.
    """

    observed_factors: Float[Array, "rows slots factors"]
    targets: Float[Array, "rows slots"]
    extra: Float[Array, "rows slots"]
    shared: Float[Array, "factors factors"] | None
    ridge: Scalar | Float[Array, "*clients 1"] | Float[Array, "*clients factors"]
    right: Float[Array, "*clients factors"]


def history_lengths(observations: Observations, row_sums: RowSums) -> Int[Array, "*clients"]:
    """Count the interactions of each client."""
    return row_sums.total(jnp.sum(observations.mask, axis=-1, dtype=jnp.int32))


def normal_matrices(equations: Equations, row_sums: RowSums) -> Float[Array, "*clients factors factors"]:
    """Compute A of every client."""

    def of_row(factors: Float[Array, "slots factors"], extra: Float[Array, "slots"]) -> Array:
        return jnp.matmul(factors.T * extra[None, :], factors, precision="highest")

    seen = row_sums.total(jax.vmap(of_row)(equations.observed_factors, equations.extra))
    ridge = jnp.asarray(equations.ridge)[..., None] * jnp.eye(seen.shape[-1], dtype=seen.dtype)
    return seen + ridge + (0.0 if equations.shared is None else equations.shared)


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
    return of_history + times_common(equations, user_factors)


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
    return first_residual(left, row_sums) - times_common(equations, user_factors)


def times_common(
    equations: Any, user_factors: Float[Array, "*clients factors"]
) -> Float[Array, "*clients factors"]:
    """Compute (w0 G + lambda_u I) x, the part of A x that no history enters."""
    shrunk = equations.ridge * user_factors
    if equations.shared is None:
        return shrunk
    return shrunk + einsum("...k,kl->...l", user_factors, equations.shared)
