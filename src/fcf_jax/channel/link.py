"""Links of the channel, and chains of links.

A link has two ends, as an optax transformation has `init` and `update`. Uploads pass the client ends in the
order of the chain; their sum passes the server ends in reverse order, and so do the item factors on their way
to the clients, where links have a broadcast end.

    channel = chain(clip_and_noise(...), fixed_point(...))
    federation = federated_cf(model, optimizer, channel=channel, num_items=..., num_factors=...)
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.channel.sent_rows import ROW_SUMS, Sent, is_row_sums
from fcf_jax.core.records import Accumulation, CohortSum, Key, Link, Payload, as_pytree


def _no_state() -> tuple:
    return ()


def _pass_uploads(key: Key | None, state: Any, sent: Sent) -> Sent:
    return sent


def _pass_sums(key: Key, state: Any, sums: Any) -> tuple[Any, Any]:
    return sums, state


def _pass_bytes(payload: Payload) -> Payload:
    return payload


def link(
    *,
    init: Callable[[], Any] = _no_state,
    client: Callable[[Key | None, Any, Any], Any] = _pass_uploads,
    server: Callable[[Key, Any, Any], tuple[Any, Any]] = _pass_sums,
    payload: Callable[[Payload], Payload] = _pass_bytes,
    item_weights: Float[Array, "items"] | None = None,
    accumulation: Accumulation | None = None,
    broadcast: Callable[[Key | None, Any, Array], Array] | None = None,
) -> Link:
    """Build a link; functions that are left out pass their input on unchanged.

    Numbers that are bound by a `jax.tree_util.Partial` are traced: a link with other numbers does not
    recompile.

    Args:
        init: () -> the first state.
        client: (key, state, uploads of a chunk) -> uploads. Behind a link that compresses, uploads may be a
            `SentRows`.
        server: (key, state, sums) -> (sums, next state).
        payload: payload of a client before the link -> after it.
        item_weights: w_i, the weight of each item in a client's norms; 0 for an item that is never sent.
        accumulation: rule for adding up uploads; None: in floating point.
        broadcast: (key, state, Y) -> the item factors that clients receive; None: Y.
    """
    return as_pytree(Link(init, client, server, payload, item_weights, accumulation, broadcast))


def chain(*links: Link) -> Link:
    """Chain links into one: client ends in this order, server ends in reverse order.

    A chain of one link is that link, and draws the same random numbers. Links that send rows share one
    accumulation, which another one, such as that of `fixed_point`, replaces.

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
        accumulation=_only("accumulation", links) or _row_sums_of(links),
        broadcast=_broadcast_of_all(links),
    )


def _only(name: str, links: tuple[Link, ...]) -> Any:
    """Return the value of the only link with this field, None if no link has it."""
    values = [value for each in links if (value := getattr(each, name)) is not None and not _is_shared(value)]
    if len(values) > 1:
        raise ValueError(f"expected one link of the chain with {name}, got {len(values)}; remove the others")
    return values[0] if values else None


def _is_shared(value: Any) -> bool:
    return isinstance(value, Accumulation) and is_row_sums(value)


def _row_sums_of(links: tuple[Link, ...]) -> Accumulation | None:
    return ROW_SUMS if any(_is_shared(each.accumulation) for each in links) else None


def _init_all(inits: tuple) -> tuple:
    return tuple(init() for init in inits)


def _broadcast_of_all(links: tuple[Link, ...]) -> Partial | None:
    ends = tuple(each.broadcast for each in links)
    return Partial(_broadcast_ends, ends) if any(end is not None for end in ends) else None


def _broadcast_ends(ends: tuple, key: Key | None, states: tuple, item_factors: Array) -> Array:
    for end, end_key, state in reversed(list(zip(ends, _keys_of(key, len(ends)), states, strict=True))):
        item_factors = item_factors if end is None else end(end_key, state, item_factors)
    return item_factors


def _keys_of(key: Key | None, num_links: int) -> Any:
    return [None] * num_links if key is None else jax.random.split(key, num_links)


def _client_ends(clients: tuple, key: Key | None, states: tuple, uploads: Sent) -> Sent:
    for client, client_key, state in zip(clients, _keys_of(key, len(clients)), states, strict=True):
        uploads = client(client_key, state, uploads)
    return uploads


def _server_ends(servers: tuple, key: Key, states: tuple, sums: Any) -> tuple[CohortSum, tuple]:
    keys, next_states = jax.random.split(key, len(servers)), []
    for server, server_key, state in reversed(list(zip(servers, keys, states, strict=True))):
        sums, next_state = server(server_key, state, sums)
        next_states.append(next_state)
    return sums, tuple(reversed(next_states))


def _payload_of_all(payloads: tuple, payload: Payload) -> Payload:
    for of_link in payloads:
        payload = of_link(payload)
    return payload
