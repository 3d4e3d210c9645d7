"""Knowledge of a curious server: the shared model, the public configuration, and the uploads it receives."""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.packing import pack_one_by_one
from fcf_jax.core.records import ClientData, Model
from fcf_jax.data import Interactions
from fcf_jax.privacy.secure_sum.uploads import client_uploads


class Public(NamedTuple):
    """The server's knowledge before it sees anything of the clients.

    Attributes:
        item_factors: Y as it was sent to the clients, in float64.
        regularization: lambda.
        unobserved_weight: w0, the confidence of items outside a history.
        alpha: of the confidence 1 + alpha r; None for explicit ratings.
        mean_rating: subtracted from explicit ratings.
    """

    item_factors: Float[np.ndarray, "items factors"]
    regularization: float
    unobserved_weight: float = 1.0
    alpha: float | None = 4.0
    mean_rating: float = 0.0


class RankOneUploads(NamedTuple):
    """Rank-one uploads e x^T of some clients.

    Attributes:
        residuals: e of each client.
        user_factors: x of each client.
    """

    residuals: Float[Array, "clients items"]
    user_factors: Float[Array, "clients factors"]

    @property
    def dense(self) -> Float[Array, "clients items factors"]:
        """The outer products, which clients send unless configured otherwise."""
        return self.residuals[:, :, None] * self.user_factors[:, None, :]


def weigh(
    public: Public, strengths: Float[np.ndarray, "*shape"]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Return confidence c and preference p of observed strengths, as clients compute them."""
    if public.alpha is None:
        return np.ones_like(strengths), strengths - public.mean_rating
    return 1.0 + public.alpha * strengths, np.ones_like(strengths)


def strengths_from_residuals(
    public: Public, residuals: Float[np.ndarray, "held"], scores: Float[np.ndarray, "held"]
) -> Float[np.ndarray, "held"]:
    """Invert e = c (p - s) for held items; nan where alpha = 0 hides the strengths."""
    if public.alpha is None:
        return residuals + scores + public.mean_rating
    if public.alpha == 0:
        return np.full_like(residuals, np.nan)
    errors = 1.0 - scores
    errors = np.where(np.abs(errors) < 1e-9, 1e-9, errors)
    return (residuals / errors - 1.0) / public.alpha


def solve_user(
    public: Public, item_ids: Int[np.ndarray, "held"], strengths: Float[np.ndarray, "held"]
) -> Float[np.ndarray, "factors"]:
    """Solve, in float64, the factor that a client with this history would have."""
    c, p = weigh(public, strengths)
    observed = public.item_factors[item_ids]
    w0, num_factors = public.unobserved_weight, observed.shape[1]
    matrix = w0 * public.item_factors.T @ public.item_factors + (observed.T * (c - w0)) @ observed
    return np.linalg.solve(matrix + public.regularization * np.eye(num_factors), observed.T @ (c * p))


def histories(interactions: Interactions, user_ids: Int[np.ndarray, "clients"]) -> ClientData:
    """Return the histories of these users, padded to one length: [clients, slots]."""
    lengths = interactions.history_lengths[user_ids]
    slots = np.arange(max(int(interactions.history_lengths.max(initial=1)), 1))
    mask = slots < lengths[:, None]
    places = np.where(mask, interactions.indptr[:-1][user_ids][:, None] + slots, 0)
    return ClientData(
        jnp.asarray(np.where(mask, interactions.item_ids[places], 0)),
        jnp.asarray(np.where(mask, interactions.strengths[places], 0.0), jnp.float32),
        jnp.asarray(mask),
    )


@jax.jit
def uploads_of(
    model: Model, item_factors: Float[Array, "items factors"], clients: ClientData
) -> RankOneUploads:
    """Compute what clients send, as in a round; one client at a time, to save memory."""
    uploads, _ = client_uploads(model, item_factors, pack_one_by_one(clients, num_items=len(item_factors)))
    return RankOneUploads(uploads.residuals, uploads.user_factors)


def held_and_strengths(
    interactions: Interactions, user_ids: Int[np.ndarray, "clients"]
) -> tuple[Bool[np.ndarray, "clients items"], Float[np.ndarray, "clients items"]]:
    """Return the truth in dense form: which items each client holds, and their strengths, 0 elsewhere."""
    shape = (len(user_ids), interactions.num_items)
    is_held, strengths = np.zeros(shape, bool), np.zeros(shape)
    for row, user in enumerate(user_ids):
        span = slice(interactions.indptr[user], interactions.indptr[user + 1])
        is_held[row, interactions.item_ids[span]] = True
        strengths[row, interactions.item_ids[span]] = interactions.strengths[span]
    return is_held, strengths
