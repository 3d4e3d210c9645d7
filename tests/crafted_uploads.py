"""Uploads of the small set with two malicious clients, under every attack: one program for many tests."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from small_data import MODEL

from fcf_jax.channel import attack, consistency_check, is_consistent
from fcf_jax.core.client import upload_norms
from fcf_jax.core.cohort_sum import broadcast_of, solve_chunks
from fcf_jax.core.records import ClientData

KEY = jax.random.key(5)
TARGETS = np.array([16, 2])
ROLES = np.full(13, -1, np.int32)
ROLES[[5, 8]] = TARGETS  # user 5 has several rows
FILLERS = np.array([2, 4, 6, 8, 10])
POPULARITY = np.linspace(0.1, 0.9, 17)
PUBLIC = ClientData(
    jnp.array([[0, 1, 0], [3, 16, 5], [7, 0, 0]]), jnp.ones((3, 3)),
    jnp.array([[True, True, False], [True, True, True], [True, False, False]]),
)  # fmt: skip
STRENGTH = 2.0
ATTACKS = {
    "poisoned_history": lambda: attack.poisoned_history(KEY, ROLES, fillers=FILLERS, strength=STRENGTH),
    "explicit_boosting": lambda: attack.explicit_boosting(ROLES, strength=STRENGTH),
    "rank_one": lambda: attack.rank_one(ROLES, POPULARITY, strength=STRENGTH),
    "fed_rec_attack": lambda: attack.fed_rec_attack(ROLES, PUBLIC, targets=TARGETS, strength=STRENGTH),
    "untargeted_noise": lambda: attack.untargeted_noise(ROLES, strength=STRENGTH),
}


RANGE = (1.0, 5.0)  # strengths of the small set


class Sent(NamedTuple):
    """What each user sends: x, e_i + w0 s_i of all items, F dense in float64; and what the code says of it.

    `passes` is the server's check; `remain` says whether the link of that check lets a client through.
    """

    x: np.ndarray
    seen: np.ndarray
    dense: np.ndarray
    norms: np.ndarray
    passes: np.ndarray
    remain: np.ndarray


def false_uploads(uploads):
    """Return uploads that are nearly right."""
    return {
        "honest": uploads,
        "longer": uploads._replace(user_factors=1.02 * uploads.user_factors),
        "heavier": uploads._replace(seen=uploads.seen.at[:, 0].multiply(1.05)),
    }


def by_user(values, client_ids, num_users=13):
    values, ids = np.asarray(values), np.asarray(client_ids)
    return values[ids < num_users][np.argsort(ids[ids < num_users])]


def dense_seen(uploads, num_items=17):
    """Spread e_i + w0 s_i over all items, [clients, items]."""
    empty = jnp.zeros((len(uploads.client_ids), num_items))
    ids = uploads.observations.item_ids
    return empty.at[uploads.owners[:, None], ids].add(uploads.seen, mode="drop")


def sent(uploads):
    through = consistency_check(strength_range=RANGE).client(None, (), uploads)
    return (
        uploads.user_factors, dense_seen(uploads), upload_norms(uploads).upload,
        is_consistent(uploads, strength_range=RANGE), through.is_client & (through.weights > 0),
        uploads.client_ids,
    )  # fmt: skip


def sent_by_all(small, model, links):
    """Return what each user sends, by the name of an attack or of a false upload."""
    y = jnp.asarray(small.item_factors, jnp.float32)
    w0, result = float(model.unobserved_weight), {}
    for name, (x, seen, *rest, ids) in _all_sent(model, links, y, small.clients).items():
        x, seen = (by_user(each, ids).astype(np.float64) for each in (x, seen))
        dense = np.einsum("ui,uk->uik", seen - w0 * x @ small.item_factors.T, x)
        result[name] = Sent(x, seen, dense, *(by_user(each, ids) for each in rest))
    return result


@jax.jit
def _all_sent(model, links, y, clients):
    def use(total, uploads):
        ends = {name: link.client(KEY, (), uploads) for name, link in links.items()}
        return total, {name: sent(each) for name, each in {**false_uploads(uploads), **ends}.items()}

    return solve_chunks(broadcast_of(model, y), clients, use, ())[1]


@pytest.fixture(scope="session")
def crafted(small):
    """What is sent under each attack: a function of w0."""
    links = {name: build() for name, build in ATTACKS.items()}

    @functools.cache
    def of(unobserved_weight=1.0):
        return sent_by_all(small, MODEL._replace(unobserved_weight=unobserved_weight), links)

    return of
