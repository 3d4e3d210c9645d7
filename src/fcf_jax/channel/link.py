"""Links and chains of them.

A link has two ends, as an optax transformation has `init` and `update`. An upload passes the client ends in
the order of the chain; its sum passes the server ends in the reverse order, as layers are taken off.

    channel = chain(clip_and_noise(...), fixed_point(...))
    federation = federated_cf(model, optimizer, channel=channel, num_items=..., num_factors=...)
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.core.records import Accumulation, CohortSum, Key, Link, Payload, Uploads, as_pytree


def _no_state() -> tuple:
    return ()


def _pass_uploads(key: Key | None, state: Any, uploads: Uploads) -> Uploads:
    return uploads


def _pass_sums(key: Key, state: Any, sums: CohortSum) -> tuple[CohortSum, Any]:
    return sums, state


def _pass_bytes(payload: Payload) -> Payload:
    return payload


def link(
    *,
    init: Callable[[], Any] = _no_state,
    client: Callable[[Key | None, Any, Uploads], Uploads] = _pass_uploads,
    server: Callable[[Key, Any, CohortSum], tuple[CohortSum, Any]] = _pass_sums,
    payload: Callable[[Payload], Payload] = _pass_bytes,
    item_weights: Float[Array, "items"] | None = None,
    accumulation: Accumulation | None = None,
) -> Link:
    """Build a link; what is left out passes everything on unchanged.

    Give numbers that may change as arguments of a `jax.tree_util.Partial`, so that they are traced: a link
    with other numbers then compiles nothing.

    Args:
        init: () -> the first state.
        client: (key, state, uploads) -> uploads, for the clients of one chunk.
        server: (key, state, sums) -> (sums, next state).
        payload: bytes of a client before -> after.
        item_weights: w_i in a client's norms; 0 for an item that is never sent.
        accumulation: how uploads are added up, where not in floating point.
    """
    return as_pytree(Link(init, client, server, payload, item_weights, accumulation))


def chain(*links: Link) -> Link:
    """Chain links into one: client ends in this order, server ends in reverse.

    A chain of one link is that link, with its random numbers.

    Raises:
        ValueError: when two links want sums or item weights of their own.
    """
    if len(links) == 1:
        return links[0]
    return link(
        init=Partial(_init_all, tuple(one.init for one in links)),
        client=Partial(_client_ends, tuple(one.client for one in links)),
        server=Partial(_server_ends, tuple(one.server for one in links)),
        payload=Partial(_payload_of_all, tuple(one.payload for one in links)),
        item_weights=_only("item_weights", links),
        accumulation=_only("accumulation", links),
    )


def _only(name: str, links: tuple[Link, ...]) -> Any:
    """Return the value of the only link that has one."""
    values = [getattr(one, name) for one in links if getattr(one, name) is not None]
    if len(values) > 1:
        raise ValueError(
            f"expected one link of the chain with {name}, got {len(values)}; leave the others out"
        )
    return values[0] if values else None


def _init_all(inits: tuple) -> tuple:
    return tuple(init() for init in inits)


def _client_ends(clients: tuple, key: Key | None, states: tuple, uploads: Uploads) -> Uploads:
    keys = [None] * len(clients) if key is None else jax.random.split(key, len(clients))
    for client, own_key, state in zip(clients, keys, states, strict=True):
        uploads = client(own_key, state, uploads)
    return uploads


def _server_ends(servers: tuple, key: Key, states: tuple, sums: CohortSum) -> tuple[CohortSum, tuple]:
    keys, next_states = jax.random.split(key, len(servers)), []
    for server, own_key, state in reversed(list(zip(servers, keys, states, strict=True))):
        sums, next_state = server(own_key, state, sums)
        next_states.append(next_state)
    return sums, tuple(reversed(next_states))


def _payload_of_all(payloads: tuple, payload: Payload) -> Payload:
    for one in payloads:
        payload = one(payload)
    return payload
