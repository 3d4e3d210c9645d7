r"""The deterministic mode of a plain round: the cohort sum in integers, in any order the same.

    F = decode( scatter_{i in I_u} encode[ (e_ui + w0 s_ui) x_u ] ) - w0 Y decode( \sum_u encode[x_u x_u^T] )

Every number of a client is rounded to fixed point by itself and added mod 2^32, so the order of
addition and the number of devices change no bit of the sum. What a client contributes is still
solved in floating point, many clients at a time: packed into chunks of another size its last bits
may differ (matrix products then run in other blocks), and now and then a rounding with them.
"""

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from fcf_jax.core.client import describe, sent_norms
from fcf_jax.core.objective import gram, sparse_residuals
from fcf_jax.core.solve import owned_by, solve_rows, unseen_part
from fcf_jax.core.types import ClientData, Clip, CohortSum, PackedClients, Scalar, SentNorms, Weighting
from fcf_jax.privacy.secure_sum.fixed_point import check_formats, decode, encode


def deterministic_cohort_sum(
    item_factors: Float[Array, "items factors"],
    clients: PackedClients,
    weighting: Weighting,
    *,
    regularization: Scalar,
    formats: SentNorms,
    unobserved_weight: Scalar = 1.0,
    clip: Clip | None = None,
    mesh: Mesh | None = None,
) -> tuple[CohortSum, Float[Array, ""], Int[Array, ""]]:
    """Sum as `cohort_sum` does, in integers; other arguments as there.

    Args:
        formats: from `choose_formats` for all users; of the upload for its sparse part alone.

    Returns:
        The sums, the worst solve error, and how many entries were clipped to the formats' bounds.

    Raises:
        ValueError: for a piece without format, or sums that could overflow.
    """
    if any(number is None for number in formats):
        raise ValueError("expected a format for every piece of a plain round, got None; give it a bound")
    check_formats(formats, max_clients=clients.row_counts.shape[0])
    weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
    num_items, num_factors = item_factors.shape

    def share(item_factors: Array, clients: PackedClients) -> tuple[dict, dict, Array]:
        item_gram = gram(item_factors)
        unseen = unseen_part(item_gram, **weights)

        def add_chunk(total: tuple, chunk: tuple[ClientData, Array, Array]) -> tuple[tuple, None]:
            sums, counts, worst = total
            rows, owners, client_ids = chunk
            is_client = client_ids < clients.row_counts.shape[0]
            observations, row_sums = weighting(rows), owned_by(owners, num_clients=client_ids.shape[0])
            solution = solve_rows(
                item_factors, unseen, observations, row_sums, unobserved_weight=unobserved_weight
            )
            info = describe(solution, item_gram, observations, row_sums, **weights)
            factor = is_client.astype(item_factors.dtype)
            if clip is not None:
                of_upload = {"unobserved_weight": unobserved_weight}
                factor *= clip(
                    sent_norms(solution, item_gram, observations, row_sums, info.loss, **of_upload)
                )
            x = solution.user_factors
            of_rows = row_sums.spread(factor[:, None] * x)
            seen = sparse_residuals(solution.scores, observations, unobserved_weight=unobserved_weight)
            extra = jnp.where(observations.mask, observations.confidence - unobserved_weight, 0.0)
            pieces = {
                "upload": seen[:, :, None] * of_rows[:, None, :],
                "user_gram": factor[:, None, None] * x[:, :, None] * x[:, None, :],
                "confidence_sum": row_sums.spread(factor)[:, None] * extra,
                "loss": factor * info.loss,
            }
            words = {name: encode(piece, getattr(formats, name)) for name, piece in pieces.items()}
            items = observations.item_ids
            sums = {
                "upload": sums["upload"].at[items].add(words["upload"][0]),
                "user_gram": sums["user_gram"] + jnp.sum(words["user_gram"][0], axis=0, dtype=jnp.uint32),
                "confidence_sum": sums["confidence_sum"].at[items].add(words["confidence_sum"][0]),
                "loss": sums["loss"] + jnp.sum(words["loss"][0], dtype=jnp.uint32),
            }
            counts = {
                "num_clients": counts["num_clients"] + jnp.sum(is_client, dtype=jnp.int32),
                "num_clipped": counts["num_clipped"] + jnp.sum(is_client & (factor < 1), dtype=jnp.int32),
                "entries": counts["entries"] + sum(clipped for _, clipped in words.values()),
            }
            return (sums, counts, jnp.maximum(worst, jnp.max(info.solve_error))), None

        shapes = {
            "upload": (num_items, num_factors),
            "user_gram": (num_factors, num_factors),
            "confidence_sum": (num_items,),
            "loss": (),
        }
        counts = dict.fromkeys(("num_clients", "num_clipped", "entries"), jnp.zeros((), jnp.int32))
        nothing = {name: jnp.zeros(shape, jnp.uint32) for name, shape in shapes.items()}
        start = nothing, counts, jnp.zeros((), item_factors.dtype)
        chunks = clients.rows, clients.owners, clients.client_ids
        (sums, counts, worst), _ = jax.lax.scan(add_chunk, start, chunks)
        if mesh is not None:
            sums, counts = jax.lax.psum((sums, counts), "clients")
            worst = jax.lax.pmax(worst, "clients")
        return sums, counts, worst

    if mesh is not None:
        chunked, whole = PartitionSpec("clients"), PartitionSpec()
        specs = PackedClients(chunked, chunked, chunked, whole, whole)  # type: ignore[arg-type]
        share = jax.shard_map(  # type: ignore[assignment]
            share,
            mesh=mesh,
            in_specs=(whole, specs),
            out_specs=whole,
            axis_names={"clients"},
            check_vma=False,
        )
    words, counts, worst = share(item_factors, clients)
    sums = {name: decode(words[name], getattr(formats, name), item_factors.dtype) for name in words}
    unseen = unobserved_weight * jnp.matmul(item_factors, sums["user_gram"], precision="highest")
    sums["upload"] = sums["upload"] - unseen
    return (
        CohortSum(**sums, num_clients=counts["num_clients"], num_clipped=counts["num_clipped"]),
        worst,
        counts["entries"],
    )
