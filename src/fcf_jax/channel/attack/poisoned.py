"""Poisoned histories: malicious clients that follow the protocol on a made-up history."""

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Int

from fcf_jax.channel.attack.crafted import require_plain
from fcf_jax.channel.attack.roles import Placed, place
from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import user_keys
from fcf_jax.core.client import chunk_uploads
from fcf_jax.core.objective import observe
from fcf_jax.core.records import ClientData, Key, Link, Observations, Scalar, Uploads
from fcf_jax.core.solve import shared_part
from fcf_jax.core.transformed import any_in_batch


def poisoned_history(
    key: Key,
    roles: Int[Array | np.ndarray, "users"],
    *,
    fillers: Int[Array | np.ndarray, "fillers"],
    strength: Scalar = 1.0,
) -> Link:
    """Build a link whose malicious clients hold their target and popular items, and are honest otherwise.

    The made-up history fills the first row of the client's own history: the target with the given strength,
    then fillers of strength 1, drawn once for each client. Everything sent is what the protocol makes of that
    history, so no check of a single upload can tell it from an honest one.

    Args:
        key: key of the fillers.
        roles: result of `draw_malicious`.
        fillers: items to choose from, such as the most popular ones.
        strength: strength r of the interaction with the target.
    """
    ids = jnp.asarray(roles, jnp.int32), jnp.asarray(fillers, jnp.int32)
    return link(client=Partial(_client_end, key, *ids, strength))


def _client_end(
    key_of_fillers: Key,
    roles: Array,
    fillers: Array,
    strength: Scalar,
    key: Key | None,
    state: tuple,
    uploads: Uploads,
) -> Uploads:
    require_plain(uploads)
    placed = place(roles, uploads)

    def of_lies() -> tuple:
        observations = _made_up(key_of_fillers, fillers, strength, placed, uploads)
        broadcast = uploads.broadcast
        shared = shared_part(broadcast.model, broadcast.item_factors, broadcast.item_gram)
        solved = chunk_uploads(
            broadcast,
            shared,
            observations,
            uploads.owners,
            uploads.client_ids,
            num_users=roles.shape[0],
        )
        return _content(_only_malicious(placed, solved, uploads))

    any_malicious = any_in_batch(jnp.any(placed.is_malicious))
    content = jax.lax.cond(any_malicious, of_lies, lambda: _content(uploads))
    return uploads._replace(**dict(zip(_CONTENT, content, strict=True)))


_CONTENT = ("observations", "scores", "seen", "user_factors", "loss", "solve_error")


def _content(uploads: Uploads) -> tuple:
    return tuple(getattr(uploads, name) for name in _CONTENT)


def _only_malicious(placed: Placed, solved: Uploads, honest: Uploads) -> Uploads:
    """Take what malicious clients send from `solved`; honest clients keep their bits."""
    rows, clients = placed.is_malicious_row, placed.is_malicious
    return solved._replace(
        scores=jnp.where(rows, solved.scores, honest.scores),
        seen=jnp.where(rows, solved.seen, honest.seen),
        user_factors=jnp.where(clients[:, None], solved.user_factors, honest.user_factors),
        loss=jnp.where(clients, solved.loss, honest.loss),
        solve_error=jnp.where(clients, solved.solve_error, honest.solve_error),
    )


def _made_up(key: Key, fillers: Array, strength: Scalar, placed: Placed, uploads: Uploads) -> Observations:
    """Replace the histories of malicious clients."""
    observations, num_slots = uploads.observations, uploads.seen.shape[1]
    keys = user_keys(key, uploads)
    drawn = jax.vmap(lambda one: jax.random.permutation(one, fillers))(keys)[:, : num_slots - 1]
    num_empty = num_slots - 1 - drawn.shape[1]
    target = jnp.maximum(placed.of_clients, 0)[:, None]
    item_ids = jnp.pad(jnp.concatenate([target, drawn], axis=1), ((0, 0), (0, num_empty)))
    filled = jnp.arange(num_slots) <= drawn.shape[1]
    is_target = jnp.arange(num_slots) == 0
    mask = filled & (is_target | (item_ids != target))
    strengths = jnp.broadcast_to(jnp.where(is_target, strength, 1.0), item_ids.shape)

    def of_rows(values: Array) -> Array:
        return values.at[uploads.owners].get(mode="clip")

    lies = ClientData(
        of_rows(item_ids),
        of_rows(strengths).astype(uploads.seen.dtype),
        of_rows(mask) & placed.is_first[:, None],
    )
    made_up = observe(uploads.broadcast.model, lies)
    return jax.tree.map(
        lambda lie, truth: jnp.where(placed.is_malicious_row, lie, truth), made_up, observations
    )
