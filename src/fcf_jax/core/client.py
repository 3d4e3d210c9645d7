"""One client's round: receive Y, solve the user factor, send the item gradients.

Simulations and real deployments run the same functions.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.equations import RowSums, history_lengths, one_client, owned_by
from fcf_jax.core.features import prior_factors
from fcf_jax.core.linalg import safe_sqrt
from fcf_jax.core.objective import (
    catalogue_loss,
    extra_confidence,
    gram,
    history_loss,
    item_gradient,
    regularization_of,
    residuals,
    scores,
    sparse_residuals,
)
from fcf_jax.core.precision import in_one_precision
from fcf_jax.core.records import Broadcast, FeatureUploads, Model, Observations, Pieces, Scalar, Uploads
from fcf_jax.core.solve import Shared, Solution, solve_history, solve_rows

# Norms are rounded up so that float32 never understates one, for up to a million interactions. Relative
# errors allowed for: in any norm; in x^T G x and c (p - s), of what they would be if all signs agreed.
_ROUNDED_UP, _CANCELLATION, _ROUNDING = 1 + 1e-5, 4e-6, 1e-6


class ClientUpdate(NamedTuple):
    """Result of one client's round, in the compact form that a simulation needs.

    A real device keeps its user factor to itself, and sends `dense_upload`.

    Attributes:
        user_factor: x.
        residuals: e_i = c_i (p_i - x.y_i) on the observed items.
    """

    user_factor: Float[Array, "*batch factors"]
    residuals: Float[Array, "*batch slots"]


class ClientInfo(NamedTuple):
    """Report of one client's round.

    Attributes:
        loss: the client's share of J.
        solve_error: upper bound on the relative error of the user factor.
    """

    loss: Float[Array, "*batch"]
    solve_error: Float[Array, "*batch"]


@in_one_precision
def client_update(
    model: Model,
    item_factors: Float[Array, "items factors"],
    observations: Observations,
    item_gram: Float[Array, "factors factors"] | None = None,
    prior: Float[Array, "factors"] | None = None,
) -> tuple[ClientUpdate, ClientInfo]:
    """Solve the user factor and compute the residuals of the observed items.

    Args:
        model: gives lambda and w0.
        item_factors: Y, as received from the server.
        observations: the client's weighted history.
        item_gram: Y^T Y, if the server sends it; None: the client computes it.
        prior: A^T f of the client's features; None: 0.

    References:
        arXiv:1901.09888, Algorithm 1, the function run by each client.
    """
    item_gram = gram(item_factors) if item_gram is None else item_gram
    rows = jax.tree.map(lambda leaf: leaf[None], observations)
    solution = solve_history(model, item_factors, item_gram, observations, prior)
    num_items = item_factors.shape[0]
    loss = _loss(model, item_gram, solution, rows, one_client(), num_items=num_items, prior=prior)
    info = ClientInfo(loss, solution.error)
    return ClientUpdate(solution.user_factors, residuals(model, solution.scores[0], observations)), info


def chunk_uploads(
    broadcast: Broadcast,
    shared: Shared,
    observations: Observations,
    owners: Int[Array, "rows"],
    client_ids: Int[Array, "clients"],
    *,
    num_users: int,
    features: Float[Array, "clients features"] | None = None,
) -> Uploads:
    """Compute the uploads of all clients of a chunk at once, each as `client_update` does for one client.

    Args:
        broadcast: the message that the clients received.
        shared: `shared_part` of the round.
        observations: the weighted histories, [rows, slots].
        owners: position of the client that owns a row; `clients` for a padding row.
        client_ids: user id of each client; `num_users` for a padding client.
        num_users: N.
        features: f of each client; None: no features.
    """
    model, row_sums = broadcast.model, owned_by(owners, num_clients=client_ids.shape[0])
    num_items, prior, of_features = shared.catalogue.num_items, None, None
    if features is not None and broadcast.user_map is not None:
        prior = prior_factors(features, broadcast.user_map)
        own = regularization_of(model, history_lengths(observations, row_sums), num_items)
        of_features = FeatureUploads(
            features, jnp.broadcast_to(jnp.asarray(own, prior.dtype), client_ids.shape)
        )
    solution = solve_rows(model, shared, observations, row_sums, prior)
    is_client = client_ids < num_users
    return Uploads(
        broadcast=broadcast,
        client_ids=client_ids,
        is_client=is_client,
        owners=owners,
        observations=observations,
        scores=solution.scores,
        seen=sparse_residuals(model, solution.scores, observations),
        user_factors=solution.user_factors,
        weights=is_client.astype(solution.user_factors.dtype),
        is_clipped=jnp.zeros_like(is_client),
        loss=_loss(
            model,
            broadcast.item_gram,
            solution,
            observations,
            row_sums,
            num_items=num_items,
            prior=prior,
        ),
        solve_error=solution.error,
        features=of_features,
    )


def _loss(
    model: Model,
    item_gram: Float[Array, "factors factors"],
    solution: Solution,
    observations: Observations,
    row_sums: RowSums,
    *,
    num_items: Scalar,
    prior: Float[Array, "*clients factors"] | None = None,
) -> Float[Array, "*clients"]:
    """Compute each client's share of J."""
    of_history = jax.vmap(lambda scores, row: history_loss(model, scores, row))

    def of_catalogue(x: Array, regularization: Array, *prior: Array) -> Array:
        return catalogue_loss(model._replace(regularization=regularization), item_gram, x, *prior)

    observed = row_sums.total(of_history(solution.scores, observations))
    regularization = regularization_of(model, history_lengths(observations, row_sums), num_items)
    prior_of_each, signature = ((), "(k),()->()") if prior is None else ((prior,), "(k),(),(k)->()")
    each = jnp.vectorize(of_catalogue, signature=signature)
    unobserved = each(solution.user_factors, regularization, *prior_of_each)
    return observed + unobserved


def upload_norms(uploads: Uploads) -> Pieces[Float[Array, "clients"]]:
    r"""Compute the Frobenius norm of each piece that each client sends, without building the pieces.

        |W e x^T| = |x| \sqrt{ w0^2 (x^T G x - \sum_{i in I_u} w_i^2 s_i^2) + \sum_{i in I_u} w_i^2 e_i^2 }

    with G = Y^T W^2 Y, since items outside a history have e_i = -w0 s_i; and |x x^T| = |x|^2. The scores
    s_i = x.y_i are those of the factor that is sent, not those that the solve carried along, and e_i is what
    is sent. A bound on the rounding error of float32 is added, so that no norm is understated.
    """
    broadcast, observations, factors = uploads.broadcast, uploads.observations, uploads.user_factors
    if observations.negative_ids is not None:
        raise ValueError(
            "expected interactions that stand alone, got pairs, whose norms have no short formula; "
            "do not clip a pairwise objective"
        )
    w0, item_weights = broadcast.model.unobserved_weight, broadcast.item_weights
    row_sums = owned_by(uploads.owners, num_clients=factors.shape[0])
    importance = 1.0 if item_weights is None else item_weights[observations.item_ids] ** 2

    def of_history(values: Array) -> Array:
        return row_sums.total(jnp.sum(jnp.where(observations.mask, importance * values, 0.0), axis=-1))

    gram_matrix = broadcast.norm_gram
    of_rows = factors.at[uploads.owners].get(mode="clip")
    own_scores = jax.vmap(partial(scores, broadcast.item_factors))(of_rows, observations)
    sizes = jax.vmap(partial(scores, jnp.abs(broadcast.item_factors)))(jnp.abs(of_rows), observations)
    squared_scores = jnp.sum(jnp.matmul(factors, gram_matrix, precision="highest") * factors, axis=-1)
    lengths = jnp.sqrt(jnp.diagonal(gram_matrix))
    squared_sizes = jnp.matmul(jnp.abs(factors), lengths, precision="highest") ** 2
    unobserved = jnp.maximum(squared_scores - of_history(own_scores**2), 0.0)
    unobserved = unobserved + _CANCELLATION * squared_sizes
    observed = of_history((uploads.seen - w0 * own_scores) ** 2)
    minuends = observations.confidence * (jnp.abs(observations.preference) + sizes) + w0 * sizes
    rounding = _ROUNDING * safe_sqrt(of_history(minuends**2))  # of c (p - s), however small that is
    residual_norm = safe_sqrt(w0**2 * unobserved + observed) + rounding
    squared_length = jnp.sum(factors**2, axis=-1)
    confidence = of_history(extra_confidence(broadcast.model, observations) ** 2)
    return Pieces(
        upload=_ROUNDED_UP * safe_sqrt(squared_length) * residual_norm,
        user_gram=_ROUNDED_UP * squared_length,
        confidence_sum=_ROUNDED_UP * safe_sqrt(confidence),
        loss=_ROUNDED_UP * jnp.abs(uploads.loss),
    )


@in_one_precision
def dense_upload(
    model: Model,
    item_factors: Float[Array, "items factors"],
    update: ClientUpdate,
    observations: Observations,
) -> Float[Array, "items factors"]:
    """Return the upload of one client: f(u, i) = c_i (p_i - x.y_i) x for every item i.

    Args:
        model: gives w0.
        item_factors: Y.
        update: result of `client_update`.
        observations: the client's weighted history.

    References:
        arXiv:1901.09888, the item gradient f(i, j).
    """
    return -0.5 * item_gradient(model, item_factors, update.user_factor, observations)
