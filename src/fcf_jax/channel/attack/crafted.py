r"""Crafted uploads: malicious clients that send what no history explains.

An upload is a_u (scatter(seen x^T) - w0 Y x x^T), of rank one, so a malicious client chooses a user factor x
and what it adds to the rows of its items. Its first slot takes the target item t: the row of t then is `seen`
x^T - w0 (x.y_t) x^T. A positive `seen` moves y_t along x and raises the score of t for users like x.

The strength is the length of the added row (for noise: of all rows) in units of the length |F_u| of the
client's own honest upload. At strength 1 a norm tells a crafted upload from none.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.channel.attack.roles import Placed, of_rows, place, row_in_history
from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import user_keys
from fcf_jax.core.client import upload_norms
from fcf_jax.core.equations import owned_by
from fcf_jax.core.linalg import add_ridge, einsum, matmul, safe_sqrt, solve_definite
from fcf_jax.core.objective import observe, sparse_residuals
from fcf_jax.core.records import Broadcast, ClientData, Key, Link, Scalar, Uploads
from fcf_jax.core.solve import shared_part, solve_rows
from fcf_jax.core.transformed import any_in_batch

_FAINT = (
    1e-3  # length of x, in units of the honest one, where a client wants to touch no row but the target's
)
_LIST_LENGTH = 10  # of the recommendations that a target is to enter, as in the published attack


def explicit_boosting(roles: Int[Array | np.ndarray, "users"], *, strength: Scalar) -> Link:
    r"""Build a link whose malicious clients add a boosted gradient of their target to their honest upload.

    Client u keeps its x_u and its history, and adds to the row of its target t

        strength |F_u| (1 - \sigma(x_u.y_t)) x_u / |x_u|

    the direction of the gradient of log \sigma(x_u.y_t), which fades as the score of t rises.

    Args:
        roles: result of `draw_malicious`.
        strength: in lengths of the honest upload, at least 0.

    References:
        Zhang et al., WSDM 2022 (PipAttack), arXiv:2110.10926, section 4, explicit promotion with boosted
        gradients; there of a neural recommender, which sends dense gradients.
    """
    return _crafted(_boost, roles, strength)


def rank_one(
    roles: Int[Array | np.ndarray, "users"],
    popularity: Float[Array | np.ndarray, "items"],
    *,
    strength: Scalar,
) -> Link:
    r"""Build a link whose malicious clients pose as the mean user, with a target in place of a history.

    x points along the solution for the mean history, in which each item has its popularity q_i as a weight,

        (w0 G + lambda I + \sum_i q_i (c - w0) y_i y_i^T) x = \sum_i q_i c y_i

    with the c of strength 1. |x| stays that of the honest factor. What is popular is public in most services;
    the direction is then close to that of the mean user factor, and the target comes to score well for most.

    Args:
        roles: result of `draw_malicious`.
        popularity: share of the users with each item.
        strength: in lengths of the honest upload, at least 0.
    """
    return _crafted(Partial(_pose_as_mean, jnp.asarray(popularity, float)), roles, strength)


def fed_rec_attack(
    roles: Int[Array | np.ndarray, "users"],
    public: ClientData,
    *,
    targets: Int[Array | np.ndarray, "targets"],
    strength: Scalar,
) -> Link:
    r"""Build a link whose malicious clients follow FedRecAttack, adapted to uploads of rank one.

    The attacker solves user factors x_v of the public histories with the Y of the round (in the paper by
    stochastic gradients, here exactly), and descends

        \sum_v g(x_v.y_j - x_v.y_t),   g(d) = d for d >= 0, exp(d) - 1 below

    where j is the last item of the ten that v would be recommended. Its gradient with respect to y_t is
    -\sum_v g'(.) x_v over the users without t. Client u sends it for its own target, in the length
    `strength` |F_u|: the paper bounds the length of a row, and a rank-one upload has one direction for all
    rows, so targets are shared out among the clients. x is faint, so that hardly another row is touched.

    Args:
        roles: result of `draw_malicious`.
        public: public histories, from `public_interactions`.
        targets: all target items.
        strength: in lengths of the honest upload, at least 0.

    References:
        Rong et al., ICDE 2022, arXiv:2204.01499, section IV.
    """
    return _crafted(Partial(_follow_public, public, jnp.asarray(targets, jnp.int32)), roles, strength)


def untargeted_noise(roles: Int[Array | np.ndarray, "users"], *, strength: Scalar) -> Link:
    """Build a link whose malicious clients send a random x and random rows for the items of their history.

    |x| stays that of the honest factor.

    Args:
        roles: result of `draw_malicious`; which target a user has does not matter.
        strength: length of all rows of the history together, in lengths of the honest upload, at least 0.
    """
    return _crafted(_randomize, roles, strength)


def _crafted(craft: Callable, roles: Int[Array | np.ndarray, "users"], strength: Scalar) -> Link:
    return link(client=Partial(_client_end, craft, jnp.asarray(roles, jnp.int32), strength))


def _client_end(
    craft: Callable, roles: Array, strength: Scalar, key: Key | None, state: tuple, uploads: Uploads
) -> Uploads:
    require_plain(uploads)
    placed = place(roles, uploads)
    length = jnp.asarray(strength, uploads.seen.dtype) * upload_norms(uploads).upload
    return craft(key, placed, length, uploads)


def require_plain(uploads: Uploads) -> None:
    """Refuse models whose uploads an attack cannot craft.

    Raises:
        ValueError: for another objective than squared errors, or for biases.
    """
    model = uploads.broadcast.model
    if model.objective is not None or model.biases is not None:
        kind = "biases" if model.objective is None else model.objective.name
        raise ValueError(
            f"expected squared errors without biases under attack, got {kind}; attack that model"
        )


def _boost(key: Key | None, placed: Placed, length: Array, uploads: Uploads) -> Uploads:
    x = uploads.user_factors
    scores = _target_scores(placed, x, uploads)
    size = safe_sqrt(jnp.sum(x**2, axis=-1))
    wanted = length * jax.nn.sigmoid(-scores) / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    return _with_target(placed, wanted, uploads)


def _pose_as_mean(
    popularity: Array, key: Key | None, placed: Placed, length: Array, uploads: Uploads
) -> Uploads:
    size = safe_sqrt(jnp.sum(uploads.user_factors**2, axis=-1, keepdims=True))
    along = size * mean_direction(uploads.broadcast, popularity)
    return _with_target_only(placed, along, length, uploads)


def _follow_public(
    public: ClientData,
    targets: Array,
    key: Key | None,
    placed: Placed,
    length: Array,
    uploads: Uploads,
) -> Uploads:
    directions = jax.lax.cond(
        any_in_batch(jnp.any(placed.is_malicious)),
        lambda: promoting_directions(uploads.broadcast, public, targets),
        lambda: jnp.zeros((len(targets), uploads.user_factors.shape[1]), uploads.seen.dtype),
    )
    size = safe_sqrt(jnp.sum(uploads.user_factors**2, axis=-1, keepdims=True))
    which = jnp.argmax(placed.of_clients[:, None] == targets[None, :], axis=1)
    along = _FAINT * size * directions[which]
    return _with_target_only(placed, along, length, uploads)


def _randomize(key: Key | None, placed: Placed, length: Array, uploads: Uploads) -> Uploads:
    dtype, num_slots = uploads.seen.dtype, uploads.seen.shape[1]
    of_users = user_keys(key, uploads)
    of_row = jax.vmap(jax.random.fold_in)(
        of_users.at[uploads.owners].get(mode="clip"), 1 + row_in_history(uploads.owners)
    )
    drawn = jax.vmap(lambda one: jax.random.normal(one, uploads.user_factors.shape[1:], dtype))(of_users)
    size = safe_sqrt(jnp.sum(uploads.user_factors**2, axis=-1, keepdims=True))
    x = size * _unit(drawn)
    noise = jax.vmap(lambda one: jax.random.normal(one, (num_slots,), dtype))(of_row)
    lengths = owned_by(uploads.owners, num_clients=len(x)).total(
        jnp.sum(uploads.observations.mask, axis=1, dtype=jnp.int32)
    )
    scale = length / jnp.maximum(size[:, 0], jnp.finfo(dtype).tiny) * jax.lax.rsqrt(jnp.maximum(lengths, 1.0))
    seen = of_rows(uploads.owners, scale)[:, None] * noise
    return _replaced(placed, x, seen, placed.is_malicious_row, uploads)


def _with_target(placed: Placed, wanted: Float[Array, "clients"], uploads: Uploads) -> Uploads:
    """Put the target into the first slot, with `wanted` added to its row; the rest of the upload stays."""
    observations = uploads.observations
    is_target = (observations.item_ids == placed.of_rows[:, None]) & placed.is_malicious_row
    seen = jnp.where(placed.at, of_rows(uploads.owners, wanted)[:, None], 0.0)
    kept = observations.mask & ~is_target
    return _replaced(placed, uploads.user_factors, seen, placed.at, _retargeted(placed, kept, uploads))


def _with_target_only(
    placed: Placed, x: Float[Array, "clients factors"], length: Float[Array, "clients"], uploads: Uploads
) -> Uploads:
    """Send x and a row of the given length for the target, and nothing of the history."""
    size = safe_sqrt(jnp.sum(x**2, axis=-1))
    wanted = length / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    seen = jnp.where(placed.at, of_rows(uploads.owners, wanted)[:, None], 0.0)
    kept = uploads.observations.mask & ~placed.is_malicious_row
    return _replaced(placed, x, seen, placed.is_malicious_row, _retargeted(placed, kept, uploads))


def _retargeted(placed: Placed, kept: Bool[Array, "rows slots"], uploads: Uploads) -> Uploads:
    """Put the target into the first slot of each malicious client; of the other slots, `kept` stay."""
    observations = uploads.observations
    item_ids = jnp.where(placed.at, placed.of_rows[:, None], observations.item_ids)
    return uploads._replace(observations=observations._replace(item_ids=item_ids, mask=kept | placed.at))


def _replaced(
    placed: Placed,
    x: Float[Array, "clients factors"],
    seen: Float[Array, "rows slots"],
    where: Bool[Array, "rows _slots"],
    uploads: Uploads,
) -> Uploads:
    """Replace x of malicious clients, and what they add in the slots `where`.

    A confidence of w0 and a preference to match stand for `seen`, so that norms, sums and checks see what is
    sent.
    """
    model, observations = uploads.broadcast.model, uploads.observations
    x = jnp.where(placed.is_malicious[:, None], x, uploads.user_factors)
    gathered = uploads.broadcast.item_factors[observations.item_ids]
    scores = jnp.where(
        placed.is_malicious_row, einsum("rsk,rk->rs", gathered, of_rows(uploads.owners, x)), uploads.scores
    )
    w0 = jnp.asarray(model.unobserved_weight, seen.dtype)
    weight = jnp.where(w0 > 0, w0, 1.0)
    crafted = observations._replace(
        confidence=jnp.where(where, weight, observations.confidence),
        preference=jnp.where(where, scores + (seen - w0 * scores) / weight, observations.preference),
    )
    return uploads._replace(
        observations=crafted,
        scores=scores,
        seen=jnp.where(placed.is_malicious_row, sparse_residuals(model, scores, crafted), uploads.seen),
        user_factors=x,
    )


def _target_scores(placed: Placed, x: Float[Array, "clients factors"], uploads: Uploads) -> Array:
    of_targets = uploads.broadcast.item_factors.at[placed.of_clients].get(mode="clip")
    return jnp.sum(x * of_targets, axis=-1)


def mean_direction(broadcast: Broadcast, popularity: Float[Array, "items"]) -> Float[Array, "factors"]:
    """Estimate the direction of the mean user factor, of length 1, as `rank_one` says."""
    model, y = broadcast.model, broadcast.item_factors
    once = observe(model, ClientData(jnp.zeros(1, jnp.int32), jnp.ones(1, y.dtype), jnp.ones(1, bool)))
    confidence, weights = once.confidence[0], jnp.pad(popularity, (0, len(y) - len(popularity)))
    extra = (confidence - model.unobserved_weight) * weights
    matrix = model.unobserved_weight * broadcast.item_gram + matmul(y.T * extra, y)
    right = confidence * matmul(weights[None, :].astype(y.dtype), y)[0]
    return _unit(solve_definite(add_ridge(matrix, model.regularization), right))


def _unit(vectors: Float[Array, "*n factors"]) -> Float[Array, "*n factors"]:
    lengths = safe_sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))
    return vectors / jnp.maximum(lengths, jnp.finfo(vectors.dtype).tiny)


def promoting_directions(
    broadcast: Broadcast, public: ClientData, targets: Int[Array, "targets"]
) -> Float[Array, "targets factors"]:
    """Compute the directions that raise each target into the lists of the public users, of length 1."""
    model, y = broadcast.model, broadcast.item_factors
    num_public = public.mask.shape[0]
    people = jnp.arange(num_public, dtype=jnp.int32)
    shared = shared_part(model, y, broadcast.item_gram)
    x = solve_rows(
        model, shared, observe(model, public), owned_by(people, num_clients=num_public)
    ).user_factors
    scores = matmul(x, y.T)
    held = jnp.zeros(scores.shape, bool).at[people[:, None], public.item_ids].max(public.mask)
    others = jnp.where(held.at[:, targets].set(True), -jnp.inf, scores)
    last = _nth_largest(others, min(_LIST_LENGTH, others.shape[1]))
    missed = last[:, None] - scores[:, targets]
    pull = jnp.where(held[:, targets], 0.0, jnp.exp(jnp.minimum(missed, 0.0)))
    return _unit(matmul(pull.T, x))


def _nth_largest(values: Float[Array, "rows items"], count: int) -> Float[Array, "rows"]:
    """Return the n-th largest of the different values of each row; on CPUs much faster than `top_k`."""

    def next_smaller(largest: Array, _: None) -> tuple[Array, None]:
        return jnp.max(jnp.where(values < largest[:, None], values, -jnp.inf), axis=1), None

    return jax.lax.scan(next_smaller, jnp.max(values, axis=1), length=count - 1)[0]
