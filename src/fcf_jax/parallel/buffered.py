r"""Buffered asynchronous rounds (FedBuff): a federation whose clients compute with the Y that they received.

    timetable = simulate(key, seconds, num_rounds=500, buffer_size=10, concurrency=100)
    federation = buffered_rounds(federated_cf(..., cohort_size=10), timetable)
    state, info = run_rounds(federation, key, federation.init(key), clients, num_rounds=500)

A round computes the clients that start with its item factors, each upload weighed for its staleness, and adds
the sums to those that wait for the same step; then it takes the step that is due. The state holds the sums
that wait, not earlier item factors: each is read with the item factors that its clients received.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array

from fcf_jax.channel.dropouts import without
from fcf_jax.channel.link import link
from fcf_jax.channel.sent_rows import Sent, uploads_of, with_uploads
from fcf_jax.core import round_parts as rounds
from fcf_jax.core.accumulation import accumulation_of, received
from fcf_jax.core.checks import require_no_channel
from fcf_jax.core.cohorts import rows_needed, sum_over_cohort
from fcf_jax.core.federation import Federation, setup_of
from fcf_jax.core.precision import cast, cast_like, precision_of
from fcf_jax.core.records import (
    Accumulation,
    Cohort,
    Key,
    Link,
    Model,
    PackedClients,
    RoundInfo,
    ServerState,
    Uploads,
    as_pytree,
)
from fcf_jax.core.sampling import round_keys
from fcf_jax.core.setup import Setup
from fcf_jax.core.transformed import any_in_batch
from fcf_jax.parallel.timetable import Timetable


class Waiting(NamedTuple):
    """State of the channel of asynchronous rounds.

    Attributes:
        channel_state: state of the links.
        sums: sums that wait for their steps, one in each slot, as the server ends take them.
    """

    channel_state: Any
    sums: Any


_MOST_CODES = 2**31  # numbers of 32 bits


def buffered_rounds(
    federation: Federation, timetable: Timetable, *, num_slots: int | None = None
) -> Federation:
    """Make the rounds of a federation asynchronous.

    Args:
        federation: result of `federated_cf`. Its cohorts are those of the timetable, and the server ends of
            its channel work on the sum of a step. Its server step must do with cohorts, and the sums of its
            channel must add up once they are read, which robust ones do not.
        timetable: from `simulate`, for at least as many rounds as are run.
        num_slots: slots for sums that wait, the same for runs side by side; None: those of the timetable,
            which must not be traced then.

    Returns:
        A federation for `run_rounds`. The `client_ids` of its info are those whose uploads a step took; its
        state belongs to this timetable.

    Raises:
        ValueError: for a federation that `federated_cf` did not make, or whose users have features.
    """
    setup = setup_of(federation)
    require_no_channel(link(), num_user_features=setup.num_user_features)
    return Federation(
        init=Partial(partial(_init, num_slots or timetable.num_slots), setup, federation.init),
        round=Partial(_round, setup, as_pytree(timetable)),
    )


def rows_of_waves(timetable: Timetable, clients: PackedClients, *, num_shares: int = 1) -> int:
    """Compute the `row_capacity` that the waves of a timetable need; see `core.cohorts.rows_needed`."""
    return rows_needed(clients, jnp.asarray(timetable.starts), num_shares=num_shares)


def _init(
    num_slots: int, setup: Setup, init: Any, key: Key, item_factors: Array | None = None
) -> ServerState:
    state, adding = init(key, item_factors), accumulation_of(setup.channel)
    like = jax.ShapeDtypeStruct(state.item_factors.shape, precision_of(state.item_factors))

    def empty(item_factors: Array) -> Any:
        return adding.read(cast(setup.model, like.dtype), item_factors, adding.start(item_factors))

    sums = jax.tree.map(
        lambda leaf: jnp.zeros((num_slots, *leaf.shape), leaf.dtype), jax.eval_shape(empty, like)
    )
    return state._replace(channel_state=Waiting(state.channel_state, sums))


def _round(
    setup: Setup,
    timetable: Timetable,
    key: Key,
    state: ServerState,
    clients: PackedClients,
    *,
    row_capacity: int | None = None,
) -> tuple[ServerState, RoundInfo]:
    rounds.check_round(setup, state, clients, row_capacity=row_capacity)
    state, clients = as_pytree((state, clients))
    waiting, now = state.channel_state, jax.tree.map(lambda leaf: leaf[state.round_index], timetable)
    before = state._replace(channel_state=waiting.channel_state)
    num_slots = jax.tree.leaves(waiting.sums)[0].shape[0]
    totals, worst, num_left_out = _compute(setup, key, before, now, clients, row_capacity, num_slots)
    sums = _add_read(setup, key, before, now, waiting.sums, totals)
    due = jax.tree.map(lambda leaf: leaf[now.step_slots], sums)
    sums = jax.tree.map(lambda leaf: leaf.at[now.step_slots].set(0), sums)
    after, info = rounds.step(
        replace(setup, channel=_with_read_sums(setup.channel)),
        key,
        before,
        due,
        num_users=clients.row_counts.shape[0],
        item_counts=clients.item_counts,
    )
    is_whole = num_left_out == 0
    return after._replace(channel_state=Waiting(after.channel_state, sums)), info._replace(
        loss=jnp.where(is_whole, info.loss, jnp.nan),
        solve_error=jnp.where(is_whole, worst, jnp.inf),
        client_ids=now.received,
        num_left_out=num_left_out,
    )


def _compute(
    setup: Setup,
    key: Key,
    before: ServerState,
    now: Timetable,
    clients: PackedClients,
    row_capacity: int | None,
    num_slots: int,
) -> tuple[Any, Array, Array]:
    """Compute the clients that start now: the totals of all slots, the worst error, the clients left out."""
    num_users = clients.row_counts.shape[0]

    def of_wave(wave: Any) -> tuple[Any, Array, Array]:
        ids = jnp.asarray(now.starts)[wave]
        slot_of_user = jnp.zeros(num_users, jnp.int32).at[ids].set(now.slots[wave], mode="drop")
        weights = rounds.weights_of_users(Cohort(ids, jnp.asarray(now.weights)[wave]), num_users=num_users)
        by_slot = replace(setup, channel=_by_slot(setup.channel, slot_of_user, num_slots))
        collect_from = partial(rounds.collect, by_slot, key, before, weights)
        return sum_over_cohort(
            collect_from, clients, ids, row_capacity=row_capacity, num_shares=setup.num_shares
        )

    def add_wave(wave: Array, carry: tuple) -> tuple:
        (total, worst, left), (more, error, left_now) = carry, of_wave(wave)
        return jax.tree.map(jnp.add, total, more), jnp.maximum(worst, error), left + left_now

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_wave, 0))
    return jax.lax.fori_loop(0, now.num_waves, add_wave, nothing)


def _by_slot(channel: Link | None, slot_of_user: Array, num_slots: int) -> Link:
    """Let the channel add up uploads slot by slot."""
    inner, adding = link() if channel is None else channel, accumulation_of(channel)
    if num_slots * (len(slot_of_user) + 1) >= _MOST_CODES:
        raise ValueError(
            f"expected fewer than {_MOST_CODES} pairs of a slot and a user, got {num_slots} slots and "
            f"{len(slot_of_user)} users; lower concurrency"
        )
    return link(
        init=inner.init,
        client=Partial(_with_slots, inner.client, slot_of_user),
        item_weights=inner.item_weights,
        broadcast=inner.broadcast,
        accumulation=Accumulation(
            start=Partial(partial(_start_slots, num_slots), adding.start),
            add=Partial(partial(_add_to_slots, len(slot_of_user) + 1), adding.add),
            read=adding.read,
        ),
    )


def _with_slots(client: Any, slot_of_user: Array, key: Key | None, state: Any, uploads: Uploads) -> Sent:
    """Let uploads pass the client ends; then let their user ids carry the slots, too."""
    sent, num_codes = client(key, state, uploads), len(slot_of_user) + 1
    ids = uploads_of(sent).client_ids
    slots = slot_of_user.at[ids].get(mode="fill", fill_value=0)
    return with_uploads(sent, uploads_of(sent)._replace(client_ids=num_codes * slots + ids))


def _start_slots(num_slots: int, start: Any, item_factors: Array) -> Any:
    empty = start(item_factors)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_slots, *jnp.shape(leaf))), empty)


def _add_to_slots(num_codes: int, add: Any, totals: Any, sent: Sent) -> Any:
    """Add each upload to the total of its slot."""
    slots, ids = jnp.divmod(uploads_of(sent).client_ids, num_codes)
    uploads = uploads_of(sent)._replace(client_ids=ids)

    def of_slot(_: None, each: tuple) -> tuple[None, Any]:
        slot, total = each
        is_here = uploads.is_client & (slots == slot)

        def add_here() -> Any:
            return add(total, with_uploads(sent, without(uploads, ~is_here)))

        return None, jax.lax.cond(any_in_batch(jnp.any(is_here)), add_here, lambda: total)

    num_slots = jax.tree.leaves(totals)[0].shape[0]
    return jax.lax.scan(of_slot, None, (jnp.arange(num_slots), totals))[1]


def _add_read(setup: Setup, key: Key, before: ServerState, now: Timetable, sums: Any, totals: Any) -> Any:
    """Read the new totals with the item factors that clients received, and add them to the sums that wait."""
    precision = precision_of(before.item_factors)
    model, channel, item_factors = cast((setup.model, setup.channel, before.item_factors), precision)
    key_client = round_keys(key, before.round_index).client
    message = received(channel, key_client, cast(before.channel_state, precision), item_factors)

    def of_slot(_: None, each: tuple) -> tuple[None, Any]:
        slot, waiting, total = each

        def add() -> Any:
            read = accumulation_of(channel).read(model, message, total)
            return cast_like(jax.tree.map(jnp.add, waiting, read), waiting)

        is_new = jnp.any((now.slots == slot) & (now.weights > 0))
        return None, jax.lax.cond(any_in_batch(is_new), add, lambda: waiting)

    num_slots = jax.tree.leaves(sums)[0].shape[0]
    return jax.lax.scan(of_slot, None, (jnp.arange(num_slots), sums, totals))[1]


def _with_read_sums(channel: Link | None) -> Link:
    """Let the server ends take a sum that is read already."""
    inner = link() if channel is None else channel
    read = Accumulation(start=_unused, add=_unused, read=_as_it_is)
    return inner._replace(accumulation=as_pytree(read))


def _as_it_is(model: Model, item_factors: Array, total: Any) -> Any:
    return total


def _unused(*arguments: Any) -> Any:
    raise AssertionError("the sums are read already")
