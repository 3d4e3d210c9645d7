r"""The deterministic mode of a plain round: the cohort sum in integers, in any order the same.

    F = decode( scatter_{i in I_u} encode[ (e_ui + w0 s_ui) x_u ] ) - w0 Y decode( \sum_u encode[x_u x_u^T] )

Every number of a client is rounded to fixed point by itself and added mod 2^32, so the order of
addition and the number of devices change no bit of the sum. What a client contributes is still
solved in floating point, many clients at a time: packed into chunks of another size its last bits
may differ (matrix products then run in other blocks), and now and then a rounding with them.
"""

from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.cohort_sum import add_unseen
from fcf_jax.core.records import Accumulation, CohortSum, Scalar, SentNorms, Solved
from fcf_jax.privacy.secure_sum.fixed_point import check_formats, encode
from fcf_jax.privacy.secure_sum.pieces import piece_shapes, read_pieces


def fixed_point_sums(formats: SentNorms, *, max_clients: int) -> Accumulation:
    """Add clients up in integers, whatever their order; for `cohort_sum` and `federated_cf`.

    Args:
        formats: from `choose_formats`; of the upload for its sparse part alone.
        max_clients: n, the most clients of a sum.

    Raises:
        ValueError: for a piece without format, or sums that could overflow.
    """
    check_formats(formats, max_clients=max_clients)
    if any(number is None for number in formats):
        raise ValueError("expected a format for every piece of a plain round, got None; give it a bound")

    def start(item_factors: Float[Array, "items factors"]) -> CohortSum:
        shapes = piece_shapes(*item_factors.shape)
        counts = dict.fromkeys(
            ("num_clients", "num_clipped", "num_clipped_entries"), jnp.zeros((), jnp.int32)
        )
        return CohortSum(**{name: jnp.zeros(shape, jnp.uint32) for name, shape in shapes.items()}, **counts)

    def read(item_factors: Float[Array, "items factors"], total: CohortSum, w0: Scalar) -> CohortSum:
        pieces = read_pieces(total._asdict(), formats, item_factors=item_factors)
        return add_unseen(item_factors, total._replace(**pieces), w0)

    return Accumulation(start=start, add=lambda total, solved: _add(total, solved, formats), read=read)


def _add(total: CohortSum, solved: Solved, formats: SentNorms) -> CohortSum:
    """Round every number of every client by itself, and add the words."""
    factors, item_ids = solved.clipped_factors, solved.item_ids
    of_rows = factors.at[solved.owners].get(mode="clip")
    pieces = SentNorms(
        upload=solved.seen[:, :, None] * of_rows[:, None, :],
        user_gram=factors[:, :, None] * solved.user_factors[:, None, :],
        confidence_sum=solved.extra,
        loss=solved.loss,
    )
    encoded = [encode(piece, number) for piece, number in zip(pieces, formats, strict=True)]
    words, num_clipped_entries = SentNorms(*(one[0] for one in encoded)), sum(one[1] for one in encoded)
    return CohortSum(
        upload=total.upload.at[item_ids].add(words.upload),
        user_gram=total.user_gram + jnp.sum(words.user_gram, axis=0, dtype=jnp.uint32),
        confidence_sum=total.confidence_sum.at[item_ids].add(words.confidence_sum),
        loss=total.loss + jnp.sum(words.loss, dtype=jnp.uint32),
        num_clients=total.num_clients + jnp.sum(solved.is_client, dtype=jnp.int32),
        num_clipped=total.num_clipped + jnp.sum(solved.is_clipped, dtype=jnp.int32),
        num_clipped_entries=total.num_clipped_entries + num_clipped_entries,
    )
