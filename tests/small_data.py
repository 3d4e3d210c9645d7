"""One small set for many tests, so that few shapes are compiled."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import references
from jax import numpy as jnp
from references import ALPHA, NUM_FACTORS, REGULARIZATION

from fcf_jax.core.objective import implicit_feedback
from fcf_jax.core.packing import pack_clients, pack_items
from fcf_jax.core.records import Model, Observations
from fcf_jax.data import Interactions

MODEL = Model(implicit_feedback(alpha=ALPHA), REGULARIZATION)


class Small(NamedTuple):
    """The set in every form: as interactions, dense, packed by user and by item; c and p of `references`."""

    interactions: Interactions
    strengths: np.ndarray  # [users, items], dense
    clients: object
    items: object
    item_factors: np.ndarray  # float64
    c: np.ndarray
    p: np.ndarray


def make_small(num_users=13, num_items=17, seed=0):
    """User 3 has no history and user 5 nearly all items: several rows of width 4."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(num_users, 3)) @ rng.normal(size=(3, num_items))
    seen = taste > 0.8
    seen[3], seen[5, : num_items - 2] = False, True
    users, ids = np.nonzero(seen)
    strengths = np.where(seen, rng.integers(1, 6, seen.shape), 0).astype(np.float64)
    interactions = Interactions.from_arrays(
        users, ids, strengths[users, ids], num_users=num_users, num_items=num_items
    )
    c, p = references.dense_weights(strengths, seen, alpha=ALPHA)
    item_factors = rng.normal(size=(num_items, NUM_FACTORS))
    options = {"row_width": 4, "chunk_slots": 32, "chunk_clients": 5}
    return Small(
        interactions, strengths, pack_clients(interactions, **options), pack_items(interactions, **options),
        item_factors, c, p,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small():
    return make_small()


@pytest.fixture
def observed():
    """Build one client's observations from its dense rows, with `slots` places."""

    def build(item_ids, confidence, preference, *, slots=None, dtype=jnp.float32):
        empty = (slots or len(item_ids)) - len(item_ids)
        return Observations(
            item_ids=jnp.asarray(np.pad(item_ids, (0, empty)), jnp.int32),
            confidence=jnp.asarray(np.pad(confidence, (0, empty)), dtype),
            preference=jnp.asarray(np.pad(preference, (0, empty)), dtype),
            mask=jnp.arange(len(item_ids) + empty) < len(item_ids),
        )

    return build


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def in_float64(float64):
    """Cast every floating leaf of a pytree."""

    def cast(tree):
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
        )

    return cast
