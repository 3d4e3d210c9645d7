"""Malicious clients and their target items, drawn from a key.

A role is a number for each user: the target item that a malicious user promotes, -1 for an honest user. Roles
are traced arrays, so attacks by other shares of the users compile nothing and run side by side.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fcf_jax.core.histories import Histories
from fcf_jax.core.records import ClientData, Key, Scalar, Uploads

HONEST = -1
_UNPOPULAR = 0.5  # share of the items with a history that count as unpopular


def draw_targets(
    key: Key, item_counts: Int[np.ndarray | Array, "items"], *, num_targets: int
) -> Int[Array, "targets"]:
    """Draw target items among the less popular half of the items that anyone has.

    Args:
        key: key of the draw.
        item_counts: number of users with each item.
        num_targets: at least 1.

    Raises:
        ValueError: for more targets than such items.
    """
    counts = np.asarray(item_counts)
    known = np.flatnonzero(counts)
    unpopular = known[np.argsort(counts[known], kind="stable")][: int(np.ceil(_UNPOPULAR * len(known)))]
    if not 1 <= num_targets <= len(unpopular):
        raise ValueError(
            f"expected num_targets from 1 to {len(unpopular)}, the less popular half of the items, "
            f"got {num_targets}; lower num_targets or give targets"
        )
    return jax.random.choice(key, jnp.asarray(unpopular, jnp.int32), (num_targets,), replace=False)


def draw_malicious(
    key: Key,
    history_lengths: Int[np.ndarray | Array, "users"],
    *,
    share: Scalar,
    targets: Int[Array | np.ndarray, "targets"],
) -> Int[Array, "users"]:
    """Draw malicious users, and share the targets out among them.

    With the same key, the malicious users of a smaller share are among those of a larger one.

    Args:
        key: key of the draw.
        history_lengths: number of interactions of each user; one without any sends nothing, and is not drawn.
        share: of the users that have a history, from 0 to 1; at least one user if it is above 0. May be
            traced.
        targets: target items.

    Returns:
        The role of each user.
    """
    lengths = jnp.asarray(history_lengths)
    can_act = lengths > 0
    lots = jnp.where(can_act, jax.random.uniform(key, lengths.shape), 2.0)
    place = jnp.argsort(jnp.argsort(lots))
    share = jnp.asarray(share, float)
    num_malicious = jnp.where(share > 0, jnp.maximum(jnp.round(share * jnp.sum(can_act)), 1), 0)
    targets = jnp.asarray(targets, jnp.int32)
    return jnp.where(place < num_malicious, targets[place % targets.shape[0]], HONEST)


def public_interactions(
    interactions: Histories, *, share: float, max_users: int = 256, seed: int = 0
) -> ClientData:
    """Draw the interactions that are public, such as reviews, for `fed_rec_attack`.

    Args:
        interactions: histories of all users.
        share: chance of each interaction to be public, above 0 and at most 1.
        max_users: most users to return, drawn at random; more cost time in every chunk with a malicious user.
        seed: of the draw, at least 0.

    Returns:
        The public histories of users that have one, [public users, slots].

    Raises:
        ValueError: for a share outside (0, 1], or if no interaction is public.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a public share in (0, 1], got {share}")
    random = np.random.default_rng(seed)
    is_public = random.random(len(interactions.item_ids)) < share
    users = np.repeat(np.arange(interactions.num_users), np.diff(interactions.indptr))[is_public]
    if users.size == 0:
        raise ValueError(f"expected a public interaction, got none of share {share}; raise the public share")
    known = random.permutation(np.unique(users))[:max_users]
    rows = [np.flatnonzero(users == user) for user in known]
    shape = len(known), max(map(len, rows))
    item_ids, strengths, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    for place, row in enumerate(rows):
        here = place, slice(len(row))
        item_ids[here] = interactions.item_ids[is_public][row]
        strengths[here] = interactions.strengths[is_public][row]
        mask[here] = True
    return ClientData(jnp.asarray(item_ids), jnp.asarray(strengths), jnp.asarray(mask))


class Placed(NamedTuple):
    """Roles of the clients and rows of a chunk.

    Attributes:
        of_clients: role of each client.
        of_rows: role of the client that owns a row.
        at: True in the slot that takes the target: the first of each malicious client.
        is_first: whether a row is the first of its client.
    """

    of_clients: Int[Array, "clients"]
    of_rows: Int[Array, "rows"]
    at: Bool[Array, "rows slots"]
    is_first: Bool[Array, "rows"]

    @property
    def is_malicious(self) -> Bool[Array, "clients"]:
        """Whether a client is malicious."""
        return self.of_clients >= 0

    @property
    def is_malicious_row(self) -> Bool[Array, "rows 1"]:
        """Whether a row is that of a malicious client."""
        return self.of_rows[:, None] >= 0


def place(roles: Int[Array, "users"], uploads: Uploads) -> Placed:
    """Look up the roles of a chunk."""
    of_clients = roles.at[uploads.client_ids].get(mode="fill", fill_value=HONEST)
    of_rows = of_clients.at[uploads.owners].get(mode="fill", fill_value=HONEST)
    is_first = is_first_row(uploads.owners)
    slots = jnp.arange(uploads.seen.shape[1])
    at = (of_rows >= 0)[:, None] & is_first[:, None] & (slots == 0)
    return Placed(of_clients, of_rows, at, is_first)


def is_first_row(owners: Int[Array, "rows"]) -> Bool[Array, "rows"]:
    """Return whether a row is the first of its client; owners are in ascending order."""
    return jnp.concatenate([jnp.ones(1, bool), owners[1:] != owners[:-1]])


def row_in_history(owners: Int[Array, "rows"]) -> Int[Array, "rows"]:
    """Count the rows of the same client before each row."""
    rows = jnp.arange(owners.shape[0])
    first = jax.lax.cummax(jnp.where(is_first_row(owners), rows, 0))
    return rows - first


def of_rows(owners: Int[Array, "rows"], values: Float[Array, "clients *rest"]) -> Float[Array, "rows *rest"]:
    """Repeat a client's value for its rows."""
    return values.at[owners].get(mode="clip")
