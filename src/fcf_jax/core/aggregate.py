r"""The cohort sum, in sparse + Gram form, over packed clients.

    \sum_u e_u x_u^T  =  scatter_{i in I_u} [ (e_ui + w0 s_ui) x_u ]  -  w0 Y (\sum_u x_u x_u^T)

and so for any weights of the clients, such as the factors that clip them.

What a client sends about the items it never touched is -w0 s_i x, which the sum of all x x^T
gives for everybody at once. So no array of [clients, items] is ever built.

Over several devices each takes its share of the chunks, and one sum over the devices ends a round.
"""

from collections.abc import Callable

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from fcf_jax.core.client import describe, sent_norms
from fcf_jax.core.objective import gram, sparse_residuals
from fcf_jax.core.solve import RowSums, Solution, Unseen, owned_by, solve_rows, unseen_part
from fcf_jax.core.types import (
    ClientData,
    Clip,
    CohortSum,
    Observations,
    PackedClients,
    Scalar,
    Weighting,
)


def cohort_sum(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    mesh: Mesh | None = None,
) -> tuple[CohortSum, Float[Array, ""]]:
    """Let all packed clients solve, and sum what they send.

    Args:
        item_factors: Y.
        clients: who takes part.
        weighting: how their strengths become confidence and preference.
        regularization: lambda, at least 0.
        unobserved_weight: w0, the confidence of items outside a history.
        clip: from the norms of what a client sends to the factor that scales all of it.
        mesh: devices over which the chunks are split, along an axis "clients"; None: one device.

    Returns:
        The sums that reach the server, and the worst client's solve error.

    References:
        arXiv:1901.09888, Algorithm 1: the server's sum over the users' gradients.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}

    def share(item_factors: Array, clients: PackedClients) -> tuple[CohortSum, Array]:
        item_gram = gram(item_factors)
        unseen = unseen_part(item_gram, **weights)

        def add_chunk(total: tuple[CohortSum, Array], chunk: tuple) -> tuple[tuple[CohortSum, Array], None]:
            sums, worst = total
            solution, observations, row_sums = _solve_chunk(
                item_factors, unseen, chunk, weighting, unobserved_weight
            )
            info = describe(solution, item_gram, observations, row_sums, **weights)
            _, owners, client_ids = chunk
            is_client = client_ids < clients.row_counts.shape[0]
            extra = jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0)
            loss, factors, num_clipped = info.loss, solution.user_factors, sums.num_clipped
            if clip is not None:
                norms = sent_norms(
                    solution, item_gram, observations, row_sums, loss, unobserved_weight=unobserved_weight
                )
                share = jnp.where(is_client, clip(norms), 0.0)
                num_clipped += jnp.sum(is_client & (share < 1), dtype=jnp.int32)
                loss, factors = share * loss, share[:, None] * factors
                extra *= row_sums.spread(share)[:, None]
            return (
                CohortSum(
                    upload=_add_seen(sums.upload, solution, factors, observations, owners, unobserved_weight),
                    user_gram=sums.user_gram
                    + jnp.matmul(factors.T, solution.user_factors, precision="highest"),
                    confidence_sum=sums.confidence_sum.at[observations.item_ids].add(extra),
                    loss=sums.loss + jnp.sum(loss),
                    num_clients=sums.num_clients + jnp.sum(is_client, dtype=jnp.int32),
                    num_clipped=num_clipped,
                ),
                jnp.maximum(worst, jnp.max(info.solve_error)),
            ), None

        nothing = _empty_sum(item_factors), jnp.zeros((), item_factors.dtype)
        (sums, worst), _ = jax.lax.scan(add_chunk, nothing, _chunks(clients))
        if _is_split(mesh):
            sums, worst = jax.lax.psum(sums, "clients"), jax.lax.pmax(worst, "clients")
        return sums, worst

    sums, worst = _split(share, mesh)(item_factors, clients)
    unseen = unobserved_weight * jnp.matmul(item_factors, sums.user_gram, precision="highest")
    return sums._replace(upload=sums.upload - unseen), worst


def solve_clients(
    factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "users factors"], Float[Array, ""]]:
    """Solve the factor of every packed client, 0 for a user that is not among them.

    For ALS, whose items are the clients of the user factors in turn, and for the fold-in of
    evaluation; a real server never sees a user factor. Arguments as for `cohort_sum`.

    Returns:
        The factors, and the sum of the clients' losses.
    """
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}

    def share(factors: Array, clients: PackedClients) -> tuple[Array, Array]:
        own_gram = gram(factors)
        unseen = unseen_part(own_gram, **weights)
        everyone = jnp.zeros((clients.row_counts.shape[0], factors.shape[1]), factors.dtype)

        def place_chunk(total: tuple[Array, Array], chunk: tuple) -> tuple[tuple[Array, Array], None]:
            solved, loss = total
            solution, observations, row_sums = _solve_chunk(
                factors, unseen, chunk, weighting, unobserved_weight
            )
            info = describe(solution, own_gram, observations, row_sums, **weights)
            solved = solved.at[chunk[2]].set(solution.user_factors, mode="drop")
            return (solved, loss + jnp.sum(info.loss)), None

        solved = jax.lax.scan(place_chunk, (everyone, jnp.zeros((), factors.dtype)), _chunks(clients))[0]
        return jax.lax.psum(solved, "clients") if _is_split(mesh) else solved

    return _split(share, mesh)(factors, clients)


def _is_split(mesh: Mesh | None) -> bool:
    """Say whether several devices share the chunks: of a mesh, the axis "clients" may be of size 1."""
    return mesh is not None and mesh.shape["clients"] > 1


def _split(share: Callable, mesh: Mesh | None) -> Callable:
    """Let each device of the mesh's axis "clients" work on its share of the chunks."""
    if not _is_split(mesh):
        return share
    chunked, whole = PartitionSpec("clients"), PartitionSpec()
    specs = PackedClients(chunked, chunked, chunked, whole, whole)  # type: ignore[arg-type]
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, specs),
        out_specs=whole,
        axis_names={"clients"},
        check_vma=False,  # every share begins with the same zeros
    )


def _chunks(clients: PackedClients) -> tuple[ClientData, Array, Array]:
    return clients.rows, clients.owners, clients.client_ids


def _solve_chunk(
    item_factors: Float[Array, "items factors"],
    unseen: Unseen,
    chunk: tuple[ClientData, Int[Array, "rows"], Int[Array, "clients"]],
    weighting: Weighting,
    unobserved_weight: Scalar,
) -> tuple[Solution, Observations, RowSums]:
    rows, owners, client_ids = chunk
    observations, row_sums = weighting(rows), owned_by(owners, num_clients=client_ids.shape[0])
    solution = solve_rows(item_factors, unseen, observations, row_sums, unobserved_weight=unobserved_weight)
    return solution, observations, row_sums


def _add_seen(
    upload: Float[Array, "items factors"],
    solution: Solution,
    factors: Float[Array, "clients factors"],
    observations: Observations,
    owners: Int[Array, "rows"],
    unobserved_weight: Scalar,
) -> Float[Array, "items factors"]:
    """Scatter (e + w0 s) x of the clients' own items; `factors` are x, clipped."""
    weights = sparse_residuals(solution.scores, observations, unobserved_weight=unobserved_weight)
    of_rows = factors.at[owners].get(mode="clip")
    return upload.at[observations.item_ids].add(weights[:, :, None] * of_rows[:, None, :])


def _empty_sum(item_factors: Float[Array, "items factors"]) -> CohortSum:
    num_items, num_factors = item_factors.shape
    dtype = item_factors.dtype
    return CohortSum(
        upload=jnp.zeros((num_items, num_factors), dtype),
        user_gram=jnp.zeros((num_factors, num_factors), dtype),
        confidence_sum=jnp.zeros(num_items, dtype),
        loss=jnp.zeros((), dtype),
        num_clients=jnp.zeros((), jnp.int32),
        num_clipped=jnp.zeros((), jnp.int32),
    )
