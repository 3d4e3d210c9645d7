"""Links of the channel, and chains of links.

A link has two ends, as an optax transformation has `init` and `update`. Uploads pass the client ends in the
order of the chain; their sum passes the server ends in reverse order.

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
    """Build a link; functions that are left out pass their input on unchanged.

    Numbers that are bound by a `jax.tree_util.Partial` are traced: a link with other numbers does not
    recompile.

    Args:
        init: () -> the first state.
        client: (key, state, uploads of a chunk) -> uploads.
        server: (key, state, sums) -> (sums, next state).
        payload: payload of a client before the link -> after it.
        item_weights: w_i, the weight of each item in a client's norms; 0 for an item that is never sent.
        accumulation: rule for adding up uploads; None: in floating point.
    """
    return as_pytree(Link(init, client, server, payload, item_weights, accumulation))


def chain(*links: Link) -> Link:
    """Chain links into one: client ends in this order, server ends in reverse order.

    A chain of one link is that link, and draws the same random numbers.

    Raises:
        ValueError: if more than one link has an accumulation, or item weights.
    """
    if len(links) == 1:
        return links[0]
    return link(
        init=Partial(_init_all, tuple(each.init for each in links)),
        client=Partial(_client_ends, tuple(each.client for each in links)),
        server=Partial(_server_ends, tuple(each.server for each in links)),
        payload=Partial(_payload_of_all, tuple(each.payload for each in links)),
        item_weights=_only("item_weights", links),
        accumulation=_only("accumulation", links),
    )


def _only(name: str, links: tuple[Link, ...]) -> Any:
    """Return the value of the only link with this field, None if no link has it."""
    values = [getattr(each, name) for each in links if getattr(each, name) is not None]
    if len(values) > 1:
        raise ValueError(f"expected one link of the chain with {name}, got {len(values)}; remove the others")
    return values[0] if values else None


def _init_all(inits: tuple) -> tuple:
    return tuple(init() for init in inits)


def _client_ends(clients: tuple, key: Key | None, states: tuple, uploads: Uploads) -> Uploads:
    keys = [None] * len(clients) if key is None else jax.random.split(key, len(clients))
    for client, client_key, state in zip(clients, keys, states, strict=True):
        uploads = client(client_key, state, uploads)
    return uploads


def _server_ends(servers: tuple, key: Key, states: tuple, sums: CohortSum) -> tuple[CohortSum, tuple]:
    keys, next_states = jax.random.split(key, len(servers)), []
    for server, server_key, state in reversed(list(zip(servers, keys, states, strict=True))):
        sums, next_state = server(server_key, state, sums)
        next_states.append(next_state)
    return sums, tuple(reversed(next_states))


def _payload_of_all(payloads: tuple, payload: Payload) -> Payload:
    for of_link in payloads:
        payload = of_link(payload)
    return payload
