"""What the server sees, made by the very functions that clients run in a round: uploads one by one."""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from fcf_jax.core.packing import pack_one_by_one
from fcf_jax.core.records import ClientData, Model
from fcf_jax.data import Interactions
from fcf_jax.privacy.attacks.knowledge import Floats
from fcf_jax.privacy.secure_sum.uploads import client_uploads


class Uploads(NamedTuple):
    """Rank-one uploads of some clients; the dense ones are their outer products."""

    residuals: Float[Array, "clients items"]
    user_factors: Float[Array, "clients factors"]

    @property
    def dense(self) -> Float[Array, "clients items factors"]:
        """What a client sends unless configured otherwise."""
        return self.residuals[:, :, None] * self.user_factors[:, None, :]


def histories(interactions: Interactions, user_ids: Floats) -> ClientData:
    """Pad the histories of these users to one length, [clients, slots]."""
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
def uploads_of(model: Model, item_factors: Float[Array, "items factors"], clients: ClientData) -> Uploads:
    """Solve these clients, and return what each sends."""
    uploads, _ = client_uploads(model, item_factors, pack_one_by_one(clients))
    return Uploads(uploads.residuals, uploads.user_factors)


def held_and_strengths(interactions: Interactions, user_ids: Floats) -> tuple[Floats, Floats]:
    """Give the truth in dense form: bool [clients, items], and strengths, 0 where not held."""
    shape = (len(user_ids), interactions.num_items)
    is_held, strengths = np.zeros(shape, bool), np.zeros(shape)
    for row, user in enumerate(user_ids):
        span = slice(interactions.indptr[user], interactions.indptr[user + 1])
        is_held[row, interactions.item_ids[span]] = True
        strengths[row, interactions.item_ids[span]] = interactions.strengths[span]
    return is_held, strengths
