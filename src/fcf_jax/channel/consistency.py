r"""The self-consistency check: a server's test of single plain uploads.

An honest upload F_u = e x^T comes from a minimum of the client's share of J. With Y known to the server,

    Y^T F_u = lambda_u x x^T,   F_u = e x^T,   e_i = -w0 x.y_i for every item i outside the history

since the gradient of J by x is -2 (Y^T e - lambda_u x). So F_u alone gives x up to its sign: its direction is
that of any row, and its length follows from the rows outside the history (w0 > 0), or from the trace of
Y^T F_u. Then e = F_u x / |x|^2; the items with e_i + w0 x.y_i != 0 are the history; and e_i = c_i (p_i -
x.y_i) must lie in the range that the weighting gives to strengths from r_min to r_max. With an exponent,
lambda_u follows from the length of the history. F_u has rank one here by construction: uploads travel in
factored form.

The link computes all this from x and the sparse part e_i + w0 x.y_i, which is what the server would find. An
honest protocol on a made-up history passes: no check of a single upload can tell it from a true one.
"""

from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from fcf_jax.channel.link import link
from fcf_jax.core.equations import RowSums, owned_by
from fcf_jax.core.linalg import einsum, safe_sqrt
from fcf_jax.core.objective import observe, regularization_of
from fcf_jax.core.records import Broadcast, ClientData, Key, Link, Scalar, Uploads

_TOLERANCE = 1e-3  # of float32 with heavy confidence; what passes below it moves the model as little


def consistency_check(*, strength_range: tuple[Scalar, Scalar], tolerance: Scalar = _TOLERANCE) -> Link:
    """Build a link that drops uploads that no history explains; they do not count as clients of the round.

    It belongs after attacks and before clipping, whose factor an upload does not survive. It needs single
    uploads in the clear, neither secure sums nor noise at the clients, and clients that solve exactly, with
    `Model.solve_tolerance` = 0.

    Args:
        strength_range: smallest and largest strength r that an interaction can have, such as (1, 5) for
            ratings.
        tolerance: relative deviation up to which an upload passes.
    """
    return link(client=Partial(_drop_inconsistent, strength_range, tolerance))


def _drop_inconsistent(
    strength_range: tuple, tolerance: Scalar, key: Key | None, state: tuple, uploads: Uploads
) -> Uploads:
    passes = is_consistent(uploads, strength_range=strength_range, tolerance=tolerance)
    return uploads._replace(
        weights=jnp.where(passes, uploads.weights, 0.0), is_client=uploads.is_client & passes
    )


def is_consistent(
    uploads: Uploads, *, strength_range: tuple[Scalar, Scalar], tolerance: Scalar = _TOLERANCE
) -> Bool[Array, "clients"]:
    """Return whether each upload is what some history makes of the Y that clients received.

    Args:
        uploads: before any clipping.
        strength_range: as for `consistency_check`.
        tolerance: as for `consistency_check`.

    Raises:
        ValueError: for another objective than squared errors, pairs, biases or features of users.
    """
    _require_plain(uploads)
    row_sums = owned_by(uploads.owners, num_clients=len(uploads.user_factors))
    broadcast, x, seen = uploads.broadcast, uploads.user_factors, uploads.seen
    gathered = broadcast.item_factors[uploads.observations.item_ids]
    from_history = row_sums.total(einsum("rsk,rs->rk", gathered, seen))
    from_others = -broadcast.model.unobserved_weight * einsum("ck,kl->cl", x, broadcast.item_gram)
    ridge = _ridge(uploads, row_sums)
    stationary = from_history + from_others  # Y^T e
    along = jnp.sum(stationary * x, axis=-1)
    stretch = _stretch(broadcast, along, ridge * jnp.sum(x**2, axis=-1))
    missed = _length(stationary - (stretch**2 * ridge)[:, None] * x)
    size = _length(from_history) + _length(from_others)
    is_stationary = missed <= tolerance * size
    return is_stationary & _explained(uploads, row_sums, stretch, strength_range, tolerance)


def _length(vectors: Float[Array, "clients factors"]) -> Float[Array, "clients"]:
    return safe_sqrt(jnp.sum(vectors**2, axis=-1))


def _ridge(uploads: Uploads, row_sums: RowSums) -> Float[Array, "clients"]:
    """Compute lambda_u from the rows that deviate, which are all that F_u shows of a history."""
    broadcast = uploads.broadcast
    counts = row_sums.total(jnp.sum(uploads.seen != 0, axis=1, dtype=jnp.int32))
    ridge = regularization_of(broadcast.model, counts, broadcast.item_factors.shape[0])
    return jnp.broadcast_to(jnp.asarray(ridge, uploads.seen.dtype), counts.shape)


def _stretch(
    broadcast: Broadcast, along: Float[Array, "clients"], expected: Float[Array, "clients"]
) -> Float[Array, "clients"]:
    """Compute the factor on the record's x that F_u implies: 1 if unobserved items tell its length.

    Without them, e / b and b x make the same upload, and b^2 = x.Y^T e / (lambda |x|^2).
    """
    ratio = along / jnp.where(expected > 0, expected, 1.0)
    free = safe_sqrt(jnp.maximum(ratio, 0.0))
    return jnp.where(jnp.asarray(broadcast.model.unobserved_weight) > 0, 1.0, free)


def _explained(
    uploads: Uploads,
    row_sums: RowSums,
    stretch: Float[Array, "clients"],
    strength_range: tuple[Scalar, Scalar],
    tolerance: Scalar,
) -> Bool[Array, "clients"]:
    """Return whether each e_i is c (p - s_i) for a strength in the range."""
    model, dtype = uploads.broadcast.model, uploads.seen.dtype
    ends = jnp.stack([jnp.asarray(end, dtype) for end in strength_range])
    of_ends = observe(model, ClientData(jnp.zeros(2, jnp.int32), ends, jnp.ones(2, bool)))
    of_rows = row_sums.spread(stretch)[:, None]
    scores = of_rows * uploads.scores
    bounds = of_ends.confidence[:, None, None, None] * (of_ends.preference[:, None, None] - scores)
    sent = uploads.seen / jnp.where(of_rows > 0, of_rows, 1.0) - model.unobserved_weight * uploads.scores
    slack = tolerance * (
        jnp.max(of_ends.confidence) * (jnp.max(jnp.abs(of_ends.preference)) + jnp.abs(scores))
    )
    inside = (sent >= bounds.min((0, 1)) - slack) & (sent <= bounds.max((0, 1)) + slack)
    outside = ~inside & (uploads.seen != 0)
    return row_sums.total(jnp.sum(outside, axis=1, dtype=jnp.int32)) == 0


def _require_plain(uploads: Uploads) -> None:
    model = uploads.broadcast.model
    others = {
        "another objective": model.objective is not None,
        "biases": model.biases is not None,
        "features of users": uploads.features is not None,
    }
    found = [name for name, is_there in others.items() if is_there]
    if found:
        raise ValueError(
            f"expected squared errors, whose uploads the server can check, got {found[0]}; "
            "use another defence"
        )
