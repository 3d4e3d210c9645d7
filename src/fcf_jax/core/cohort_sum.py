r"""The cohort sum, in sparse + Gram form, over packed clients.

    \sum_u e_u x_u^T  =  scatter_{i in I_u} [ (e_ui + w0 s_ui) x_u ]  -  w0 Y (\sum_u x_u x_u^T)

and so for any weights of the clients, such as the factors that clip them.

What a client sends about the items it never touched is -w0 s_i x, which the sum of all x x^T
gives for everybody at once. So no array of [clients, items] is ever built.

Over several devices each takes its share of the chunks, and one sum over the devices ends a round.

`solve_chunks` is the frame of all that clients do: what becomes of a chunk's solutions is a callable.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from fcf_jax.core.client import describe, sent_norms
from fcf_jax.core.objective import gram, sparse_residuals
from fcf_jax.core.records import (
    Accumulation,
    ClientData,
    Clip,
    CohortSum,
    PackedClients,
    Scalar,
    SentNorms,
    Solved,
    Weighting,
)
from fcf_jax.core.solve import RowSums, Unseen, owned_by, solve_rows, unseen_part

Total = TypeVar("Total")


def cohort_sum(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    item_weights: Float[Array, "items"] | None = None,
    accumulation: Accumulation | None = None,
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
        item_weights: by which items count in those norms; None: all alike.
        accumulation: how it is added up (`fcf_jax.privacy.secure_sum.fixed_point_sums`); None: in floats.
        mesh: devices over which the chunks are split, along an axis "clients"; None: one device.

    Returns:
        The sums that reach the server, and the worst client's solve error.

    References:
        arXiv:1901.09888, Algorithm 1: the server's sum over the users' gradients.
    """
    accumulation = FLOAT_SUMS if accumulation is None else accumulation
    weights: dict[str, Any] = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    options: dict[str, Any] = {"clip": clip, "item_weights": item_weights, "mesh": mesh, **weights}
    total, worst = accumulate(item_factors, clients, weighting, accumulation, **options)
    return accumulation.read(item_factors, total, unobserved_weight), worst


def accumulate(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    accumulation: Accumulation,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    item_weights: Float[Array, "items"] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Any, Float[Array, ""]]:
    """Let all packed clients solve, and add up what they send in any way; other arguments as `cohort_sum`.

    Args:
        accumulation: how it is added up; totals of different clients may be added as they are.

    Returns:
        The total, not yet read, and the worst client's solve error.
    """
    weights: dict[str, Any] = {"regularization": regularization, "unobserved_weight": unobserved_weight}

    def add(total: Any, solved: Solved) -> tuple[Any, None]:
        return accumulation.add(total, solved), None

    def share(item_factors: Array, clients: PackedClients) -> tuple[Any, Array]:
        start = accumulation.start(item_factors)
        total, _, worst = solve_chunks(
            item_factors, clients, weighting, add, start, clip=clip, item_weights=item_weights, **weights
        )
        if _is_split(mesh):
            total, worst = jax.lax.psum(total, "clients"), jax.lax.pmax(worst, "clients")
        return total, worst

    return _split(share, mesh)(item_factors, clients)


def solve_chunks(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    use: Callable[[Total, Solved], tuple[Total, Any]],
    start: Total,
    *,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    item_weights: Float[Array, "items"] | None = None,
) -> tuple[Total, Any, Float[Array, ""]]:
    """Let the clients of one chunk after the other solve, and do something with each chunk.

    Args:
        use: from what there is so far and a solved chunk to what there is then, and an outcome.
        start: what there is before the first chunk; other arguments as for `cohort_sum`.

    Returns:
        What there is at the end, the outcomes stacked, and the worst client's solve error.
    """
    weights: dict[str, Any] = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    item_gram, num_users = gram(item_factors), clients.row_counts.shape[0]
    unseen = unseen_part(item_gram, **weights)
    norm_gram = item_gram if item_weights is None else gram(item_weights[:, None] * item_factors)
    measure = partial(sent_norms, item_gram=norm_gram, item_weights=item_weights)

    def step(carry: tuple[Total, Array], chunk: tuple) -> tuple[tuple[Total, Array], Any]:
        so_far, worst = carry
        solved = _solve_chunk(
            item_factors, item_gram, unseen, chunk, weighting, clip, measure, num_users=num_users, **weights
        )
        so_far, outcome = use(so_far, solved)
        return (so_far, jnp.maximum(worst, jnp.max(solved.solve_error))), outcome

    chunks = clients.rows, clients.owners, clients.client_ids
    (end, worst), outcomes = jax.lax.scan(step, (start, jnp.zeros((), item_factors.dtype)), chunks)
    return end, outcomes, worst


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
    weights: dict[str, Any] = {"regularization": regularization, "unobserved_weight": unobserved_weight}

    def place(total: tuple[Array, Array], solved: Solved) -> tuple[tuple[Array, Array], None]:
        everyone, loss = total
        everyone = everyone.at[solved.client_ids].set(solved.user_factors, mode="drop")
        return (everyone, loss + jnp.sum(solved.loss)), None

    def share(factors: Array, clients: PackedClients) -> tuple[Array, Array]:
        everyone = jnp.zeros((clients.row_counts.shape[0], factors.shape[1]), factors.dtype)
        start = everyone, jnp.zeros((), factors.dtype)
        solved, _, _ = solve_chunks(factors, clients, weighting, place, start, clip=None, **weights)
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


def _solve_chunk(
    item_factors: Float[Array, "items factors"],
    item_gram: Float[Array, "factors factors"],
    unseen: Unseen,
    chunk: tuple[ClientData, Int[Array, "rows"], Int[Array, "clients"]],
    weighting: Weighting,
    clip: Clip | None,
    measure: Callable[..., SentNorms],
    *,
    num_users: int,
    regularization: Scalar,
    unobserved_weight: Scalar,
) -> Solved:
    """Weigh, solve, describe and clip: the work of the clients in one chunk."""
    rows, owners, client_ids = chunk
    of_unseen = {"unobserved_weight": unobserved_weight}
    observations, row_sums = weighting(rows), owned_by(owners, num_clients=client_ids.shape[0])
    solution = solve_rows(item_factors, unseen, observations, row_sums, **of_unseen)
    info = describe(solution, item_gram, observations, row_sums, regularization=regularization, **of_unseen)
    solved = Solved(
        client_ids=client_ids,
        is_client=client_ids < num_users,
        owners=owners,
        item_ids=observations.item_ids,
        seen=sparse_residuals(solution.scores, observations, **of_unseen),
        extra=jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0),
        user_factors=solution.user_factors,
        clipped_factors=solution.user_factors,
        loss=info.loss,
        is_clipped=jnp.zeros(client_ids.shape, bool),
        solve_error=info.solve_error,
    )
    if clip is None:
        return solved
    norms = measure(solution, observations=observations, row_sums=row_sums, loss=info.loss, **of_unseen)
    return _clipped(solved, row_sums, clip(norms))


def _clipped(solved: Solved, row_sums: RowSums, share: Float[Array, "clients"]) -> Solved:
    """Scale all that each client sends by its factor a_u, nobody's by 0."""
    share = jnp.where(solved.is_client, share, 0.0)
    return solved._replace(
        extra=solved.extra * row_sums.spread(share)[:, None],
        clipped_factors=share[:, None] * solved.user_factors,
        loss=share * solved.loss,
        is_clipped=solved.is_client & (share < 1),
    )


def _nothing(item_factors: Float[Array, "items factors"]) -> CohortSum:
    num_items, num_factors = item_factors.shape
    dtype = item_factors.dtype
    return CohortSum(
        upload=jnp.zeros((num_items, num_factors), dtype),
        user_gram=jnp.zeros((num_factors, num_factors), dtype),
        confidence_sum=jnp.zeros(num_items, dtype),
        loss=jnp.zeros((), dtype),
        num_clients=jnp.zeros((), jnp.int32),
        num_clipped=jnp.zeros((), jnp.int32),
        num_clipped_entries=jnp.zeros((), jnp.int32),
    )


def _add(sums: CohortSum, solved: Solved) -> CohortSum:
    """Add a chunk; of the upload only what the clients' own items have beyond -w0 s x."""
    factors, item_ids = solved.clipped_factors, solved.item_ids
    of_rows = factors.at[solved.owners].get(mode="clip")
    gram_of_chunk = jnp.matmul(factors.T, solved.user_factors, precision="highest")
    return sums._replace(
        upload=sums.upload.at[item_ids].add(solved.seen[:, :, None] * of_rows[:, None, :]),
        user_gram=sums.user_gram + gram_of_chunk,
        confidence_sum=sums.confidence_sum.at[item_ids].add(solved.extra),
        loss=sums.loss + jnp.sum(solved.loss),
        num_clients=sums.num_clients + jnp.sum(solved.is_client, dtype=jnp.int32),
        num_clipped=sums.num_clipped + jnp.sum(solved.is_clipped, dtype=jnp.int32),
    )


def add_unseen(
    item_factors: Float[Array, "items factors"], sums: CohortSum, unobserved_weight: Scalar
) -> CohortSum:
    """Give every item of the upload the -w0 s x of all clients, -w0 Y (sum of x x^T)."""
    unseen = unobserved_weight * jnp.matmul(item_factors, sums.user_gram, precision="highest")
    return sums._replace(upload=sums.upload - unseen)


FLOAT_SUMS = Accumulation(start=_nothing, add=_add, read=add_unseen)
