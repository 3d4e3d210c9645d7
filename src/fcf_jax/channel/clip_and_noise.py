r"""Clipping at the client and Gaussian noise on the sum: the two ends of differential privacy in a round.

Each piece f that a client sends has a clip norm C_f. A client is clipped by a single factor on all pieces,

    a_u = min(1, 1 / n_u),   n_u = \sqrt{ \sum_f (|piece_f| / C_f)^2 }

so the vector of all sums, each divided by its C_f, has sensitivity 1 to a client. Noise of standard
deviation sigma C_f on every number of piece f is then one Gaussian mechanism with noise multiplier sigma.
The noise is discrete, on a grid (`fcf_jax.channel.noise`), and larger by what rounding adds.
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.channel.link import link
from fcf_jax.channel.noise import coarsened, grid_step, release
from fcf_jax.channel.sent_rows import Sent, SentRows, norms_of_rows, uploads_of, with_uploads
from fcf_jax.core.client import upload_norms
from fcf_jax.core.linalg import safe_sqrt
from fcf_jax.core.records import CohortSum, Key, Link, Pieces, Scalar

# both from Andrew et al., section 3.1
_COUNT_NOISE = 0.05  # standard deviation of the noise on the count of clipped clients, in expected cohorts
_ADAPTATION = 0.2  # eta_C, the learning rate of the clip norms' logarithm

ClipNorms = Pieces[Any]  # a number above 0 for each piece; None for a piece that is not sent


class ClippingState(NamedTuple):
    """State of `adaptive_clip_and_noise`.

    Attributes:
        scale: factor on all clip norms.
    """

    scale: Float[Array, ""]


def joint_norm(norms: Pieces, clip_norms: ClipNorms) -> Float[Array, "*clients"]:
    """Compute n_u, the joint norm of all pieces of each client, each piece in units of its clip norm.

    Args:
        norms: norms of the pieces of each client.
        clip_norms: C_f of each piece, above 0; None for a piece that is not sent.
    """
    pairs = zip(norms, clip_norms, strict=True)
    squares = [(norm / clip_norm) ** 2 for norm, clip_norm in pairs if clip_norm is not None]
    return safe_sqrt(sum(squares, jnp.zeros((), squares[0].dtype)) if squares else jnp.zeros(()))


def clip_factor(norms: Pieces, clip_norms: ClipNorms) -> Float[Array, "*clients"]:
    """Compute a_u in [0, 1], the factor on everything that a client sends; arguments as for `joint_norm`."""
    return 1.0 / jnp.maximum(joint_norm(norms, clip_norms), 1.0)


def clip(clip_norms: ClipNorms) -> Link:
    """Build a link that clips to fixed norms and adds no noise: a bound on what a single client can do.

    This is no differential privacy: the server divides by the clients that took part, and the info counts
    those that were clipped.

    Args:
        clip_norms: C_f of each piece, above 0; None for a piece that is sent but does not count.
    """
    return link(client=Partial(_clip, clip_norms))


def clip_and_noise(
    *,
    clip_norms: ClipNorms,
    noise_multiplier: Scalar,
    expected_cohort_size: Scalar,
    item_weights: Float[Array, "items"] | None = None,
    is_local: bool = False,
) -> Link:
    """Build a link that clips to fixed norms and adds Gaussian noise to the sum.

    Args:
        clip_norms: C_f of each piece, above 0, chosen without looking at the data; None for a piece that is
            not sent, whose sum is then nan (which pieces are needed depends on the server step).
        noise_multiplier: sigma, at least 0.
        expected_cohort_size: q N, by which the server divides instead of by the realized cohort size.
        item_weights: w_i, the weight of item i in a client's norms; row i of a sum gets noise of standard
            deviation sigma C_f / w_i. An item of weight 0 is not sent. None: all 1.
        is_local: simulate noise that each client adds to its own upload: the variance of the sum's noise is
            then that of one client times the number of clients.

    References:
        Dwork & Roth 2014, appendix A; McMahan et al., ICLR 2018, on clipped sums of users.
    """
    release = _release_local if is_local else _release
    return link(
        client=Partial(_clip, clip_norms),
        server=Partial(release, clip_norms, noise_multiplier, expected_cohort_size, item_weights),
        item_weights=item_weights,
    )


def adaptive_clip_and_noise(
    *,
    clip_norms: ClipNorms,
    noise_multiplier: Scalar,
    expected_cohort_size: Scalar,
    quantile: Scalar = 0.5,
    item_weights: Float[Array, "items"] | None = None,
) -> Link:
    """Build a link that clips to norms that follow a quantile of the clients' norms, and adds noise to sums.

    Each client also reports whether it was clipped. The count of clipped clients gets noise of standard
    deviation sigma_c = 0.05 q N, and the sums get sigma_s with 1 / sigma^2 = 1 / sigma_s^2 + 1 / (2
    sigma_c)^2. Both releases together then cost as much as one Gaussian mechanism with sigma. sigma_s exists
    only if sigma < 2 sigma_c = 0.1 q N.

    Args:
        clip_norms: C_f of the first round, later all scaled by one factor; None as in `clip_and_noise`.
        noise_multiplier: sigma of sums and count together, above 0.
        expected_cohort_size: q N, by which the server divides.
        quantile: gamma, the share of clients to leave unclipped, in (0, 1).
        item_weights: w_i, as for `clip_and_noise`.

    References:
        Andrew et al., NeurIPS 2021, algorithm 1 and theorem 1.
    """
    count_noise = _count_noise(expected_cohort_size)
    sums_multiplier = (jnp.asarray(noise_multiplier, float) ** -2 - (2 * count_noise) ** -2) ** -0.5
    return link(
        init=_first_scale,
        client=Partial(_clip_scaled, clip_norms),
        server=Partial(
            _release_adaptive,
            clip_norms,
            sums_multiplier,
            expected_cohort_size,
            quantile,
            item_weights,
        ),
        item_weights=item_weights,
    )


def _count_noise(expected_cohort_size: Scalar) -> Array:
    """Compute the noise on the count of clipped clients."""
    return _COUNT_NOISE * jnp.asarray(expected_cohort_size, float)


def _clip(clip_norms: ClipNorms, key: Key | None, state: tuple, sent: Sent) -> Sent:
    uploads = uploads_of(sent)
    norms = norms_of_rows(sent) if isinstance(sent, SentRows) else upload_norms(uploads)
    norms = jax.tree.map(lambda norm: uploads.weights * norm, norms)
    factor = clip_factor(norms, clip_norms)
    clipped = uploads._replace(
        weights=jnp.where(uploads.is_client, factor * uploads.weights, 0.0),
        is_clipped=uploads.is_clipped | (factor < 1),
    )
    return with_uploads(sent, clipped)


def _first_scale() -> ClippingState:
    return ClippingState(jnp.ones(()))


def _scaled(clip_norms: ClipNorms, state: ClippingState) -> ClipNorms:
    return jax.tree.map(lambda norm: state.scale * norm, clip_norms)


def _clip_scaled(clip_norms: ClipNorms, key: Key | None, state: ClippingState, sent: Sent) -> Sent:
    return _clip(_scaled(clip_norms, state), key, (), sent)


def _release(
    clip_norms: ClipNorms,
    noise_multiplier: Scalar,
    expected_cohort_size: Scalar,
    item_weights: Array | None,
    key: Key,
    state: tuple,
    sums: CohortSum,
) -> tuple[CohortSum, tuple]:
    noised = add_noise(key, sums, clip_norms, noise_multiplier=noise_multiplier, item_weights=item_weights)
    return _as_released(noised, expected_cohort_size), state


def _as_released(noised: CohortSum, expected_cohort_size: Scalar) -> CohortSum:
    """Leave out what the server does not learn: how many clients there are, and how many are clipped."""
    num_clients = jnp.asarray(expected_cohort_size, noised.upload.dtype)
    return noised._replace(num_clients=num_clients, num_clipped=jnp.asarray(jnp.nan))


def _release_local(
    clip_norms: ClipNorms,
    noise_multiplier: Scalar,
    expected_cohort_size: Scalar,
    item_weights: Array | None,
    key: Key,
    state: tuple,
    sums: CohortSum,
) -> tuple[CohortSum, tuple]:
    noised = add_noise(
        key,
        sums,
        clip_norms,
        noise_multiplier=noise_multiplier,
        item_weights=item_weights,
        num_shares=sums.num_clients,
    )
    return _as_released(noised, expected_cohort_size), state


def _release_adaptive(
    clip_norms: ClipNorms,
    noise_multiplier: Array,
    expected_cohort_size: Scalar,
    quantile: Scalar,
    item_weights: Array | None,
    key: Key,
    state: ClippingState,
    sums: CohortSum,
) -> tuple[CohortSum, ClippingState]:
    key_sums, key_count = jax.random.split(key)
    precision = state.scale.dtype
    count_noise = _count_noise(expected_cohort_size).astype(precision)
    norms = _scaled(clip_norms, state)
    noised, _ = _release(norms, noise_multiplier, expected_cohort_size, item_weights, key_sums, (), sums)
    clipped, clients = (count.astype(precision) for count in (sums.num_clipped, sums.num_clients))
    centered = clipped - 0.5 * clients  # a client changes this by at most 1/2
    step = grid_step(2.0 * count_noise, 0.5, 1).astype(precision)
    num_clipped = coarsened(release(key_count, centered, step), step) + 0.5 * expected_cohort_size
    share_unclipped = 1.0 - num_clipped / expected_cohort_size
    scale = state.scale * jnp.exp(-_ADAPTATION * (share_unclipped - quantile))
    return noised._replace(num_clipped=num_clipped), ClippingState(scale)


def add_noise(
    key: Key,
    sums: CohortSum,
    clip_norms: ClipNorms,
    *,
    noise_multiplier: Scalar,
    item_weights: Float[Array, "items"] | None = None,
    num_shares: Scalar = 1,
) -> CohortSum:
    """Add noise of variance (sigma C_f)^2 to every number of each piece, as `fcf_jax.channel.noise` does.

    The noise on user_gram is then made symmetric, as user_gram is.

    Args:
        key: key of the noise.
        sums: sums over a cohort.
        clip_norms: C_f of each piece; a piece whose C_f is None becomes nan.
        noise_multiplier: sigma, at least 0.
        item_weights: w_i: the row of item i gets noise sigma C_f / w_i, and becomes 0 if w_i = 0.
        num_shares: number of draws that the noise is the sum of, simulated by one of the same variance.
    """
    pieces = {name: getattr(sums, name) for name in Pieces._fields}
    keys = dict(zip(pieces, jax.random.split(key, len(pieces)), strict=True))
    sent = [piece for name, piece in pieces.items() if getattr(clip_norms, name) is not None]
    num_numbers = sum(piece.size for piece in sent)

    def noised(name: str, piece: Array) -> Array:
        clip_norm = getattr(clip_norms, name)
        if clip_norm is None:
            return jnp.full_like(piece, jnp.nan)
        weights = jnp.ones((), piece.dtype)
        if item_weights is not None and name in ("upload", "confidence_sum"):
            weights = _row_weights(item_weights, piece)
        unit = clip_norm / jnp.where(weights > 0, weights, 1.0)
        step = jnp.sqrt(jnp.asarray(num_shares, float)) * grid_step(noise_multiplier, unit, num_numbers)
        released = release(keys[name], piece, step.astype(piece.dtype))
        if name == "user_gram":
            released = 0.5 * (released + released.T)
        return jnp.where(weights > 0, coarsened(released, step), 0.0)

    return sums._replace(**{name: noised(name, piece) for name, piece in pieces.items()})


def _row_weights(item_weights: Float[Array, "items"], piece: Float[Array, "items ..."]) -> Array:
    """Return the weight of each row of a piece, 0 for the padding rows of a mesh."""
    weights = jnp.pad(jnp.asarray(item_weights, piece.dtype), (0, len(piece) - len(item_weights)))
    return weights.reshape(-1, *[1] * (piece.ndim - 1))
