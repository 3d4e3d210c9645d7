"""The federation: rounds of client updates, their sum and a server step, compiled as one.

federation = federated_cf(optax.adam(0.05), implicit_feedback(alpha=4.0), num_items=..., ...)
state = federation.init(key)
state, info = federation.round(key, state, clients)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import optax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from fcf_jax.core.cohort_sum import FLOAT_SUMS, accumulate
from fcf_jax.core.records import (
    Accumulation,
    CohortSum,
    Key,
    Mechanism,
    PackedClients,
    RoundInfo,
    Scalar,
    Weighting,
)
from fcf_jax.core.sampling import Sampling, draw_cohort, gather_cohort, noise_key, rows_needed
from fcf_jax.core.server import ServerInfo, ServerState, draw_item_factors, server_init, server_update


class Federation(NamedTuple):
    """A federated optimisation of shared item factors, as pure functions.

    A round draws a cohort, collects the total of its uploads, reads it as sums and steps; the four are
    there apart for those who move the data themselves (`fcf_jax.parallel.stream`).
    """

    init: Callable[[Key], ServerState]
    round: Callable[..., tuple[ServerState, RoundInfo]]  # (key, state, clients, *, row_capacity=None)
    draw: Callable[[Key, Int[Array, ""], int], Int[Array, "clients"]]  # (key, round_index, num_users)
    collect: Callable[..., tuple[Any, Array]]  # (state, clients), all of these; totals may be added
    read: Callable[[ServerState, Any], CohortSum]  # (state, total)
    step: Callable[..., tuple[ServerState, ServerInfo]]  # (key, state, sums, *, num_users)
    takes_everybody: bool
    num_shares: int  # devices that share the clients of a round


def federated_cf(
    optimizer: optax.GradientTransformation,
    weighting: Weighting,
    *,
    num_items: int,
    num_factors: int,
    regularization: Scalar,
    unobserved_weight: Scalar = 1.0,
    cohort_size: int | None = None,
    sampling: Sampling = "shuffled",
    init_scale: Scalar = 0.1,
    mechanism: Mechanism | None = None,
    accumulation: Accumulation = FLOAT_SUMS,
    mesh: Mesh | None = None,
) -> Federation:
    """Set up Federated Collaborative Filtering.

    Args:
        optimizer: the server's step: the paper's Adam (`optax.adam`, `paper_adam`), one of ours
            (`guarded_gram`, `running_sums`, ...) or any other optax transformation.
        weighting: how strengths become confidence and preference (`implicit_feedback`).
        num_items: M, the size of the catalogue.
        num_factors: K.
        regularization: lambda, at least 0, on the squared norms; the sums are not averaged.
        unobserved_weight: w0, the confidence of items outside a history; 0 for explicit ratings.
        cohort_size: Theta, the different clients of each round; None: everybody.
        sampling: how cohorts are drawn, "shuffled", "independent" or "poisson": see `draw_cohort`;
            the last makes Theta the number expected.
        init_scale: standard deviation of the first item factors.
        mechanism: clips what each client sends and adds noise to the sum (`fcf_jax.privacy`); the
            server then steps on, and the info tells of, what it releases; None: neither.
        accumulation: how a round is summed: in floating point, or in integers, which no order changes
            (`fixed_point_sums` of `fcf_jax.privacy.secure_sum`).
        mesh: devices to share a round's work, from `fcf_jax.parallel.mesh.client_mesh`; place state and
            clients there too. The outcome is that of one device, but for the order of sums. Where
            the items are split as well, rows of zeros fill up the item factors of the last device.

    Returns:
        `init(key)` draws the first state. `round(key, state, clients)` runs one round; the same
        key may be given to every round, for each derives its own from the state's round index.

    Raises:
        ValueError: for a size below 1.

    References:
        arXiv:1901.09888, Algorithm 1.
    """
    sizes = {"num_items": num_items, "num_factors": num_factors}
    for name, size in (sizes if cohort_size is None else sizes | {"cohort_size": cohort_size}).items():
        if size < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}")

    num_padded = 0 if mesh is None else -num_items % mesh.shape["items"]
    item_weights = None if mechanism is None else mechanism.item_weights
    if item_weights is not None:
        item_weights = jnp.pad(item_weights, (0, num_padded))

    def init(key: Key) -> ServerState:
        item_factors = draw_item_factors(
            key, num_items=num_items, num_factors=num_factors, init_scale=init_scale
        )
        item_factors = jnp.pad(item_factors, ((0, num_padded), (0, 0)))
        if item_weights is not None:  # what nobody sends stays 0
            item_factors = jnp.where(item_weights[:, None] > 0, item_factors, 0.0)
        state = server_init(item_factors, optimizer)
        return state if mechanism is None else state._replace(mechanism_state=mechanism.init())

    def draw(key: Key, round_index: Int[Array, ""], num_users: int) -> Int[Array, "clients"]:
        if cohort_size is None:
            return jnp.arange(num_users)
        if cohort_size > num_users:
            raise ValueError(
                f"expected a cohort_size of at most {num_users} (users), got {cohort_size}; lower cohort_size"
            )
        sizes = {"num_users": num_users, "cohort_size": cohort_size}
        return draw_cohort(key, round_index, sampling=sampling, **sizes)

    def collect(state: ServerState, clients: PackedClients) -> tuple[Any, Array]:
        clip = None if mechanism is None else partial(mechanism.clip, state.mechanism_state)
        clipping = {"clip": clip, "item_weights": item_weights}
        weights = {"regularization": regularization, "unobserved_weight": unobserved_weight}
        options = {"mesh": mesh, **clipping, **weights}
        return accumulate(state.item_factors, clients, weighting, accumulation, **options)

    def read(state: ServerState, total: Any) -> CohortSum:
        return accumulation.read(state.item_factors, total, unobserved_weight)

    def step(
        key: Key, state: ServerState, sums: CohortSum, *, num_users: int
    ) -> tuple[ServerState, ServerInfo]:
        if mechanism is not None:
            key_noise = noise_key(key, state.round_index)
            sums, mechanism_state = mechanism.release(key_noise, state.mechanism_state, sums)
            state = state._replace(mechanism_state=mechanism_state)
            if num_padded:  # rows that fill up the last device are no items, and get no noise
                sums = sums._replace(upload=sums.upload.at[num_items:].set(0.0))
        return server_update(state, sums, optimizer, num_users=num_users, regularization=regularization)

    num_shares = 1 if mesh is None else mesh.shape["clients"]

    def run_round(
        key: Key, state: ServerState, clients: PackedClients, *, row_capacity: int | None = None
    ) -> tuple[ServerState, RoundInfo]:
        num_users = clients.row_counts.shape[0]
        client_ids = draw(key, state.round_index, num_users)
        if cohort_size is not None:
            capacity = _capacity(row_capacity, clients, client_ids, num_shares)
            clients = gather_cohort(clients, client_ids, row_capacity=capacity, num_shares=num_shares)
        total, solve_error = collect(state, clients)
        state, server_info = step(key, state, read(state, total), num_users=num_users)
        return state, describe_round(solve_error, server_info, client_ids)

    return Federation(init, run_round, draw, collect, read, step, cohort_size is None, num_shares)


def describe_round(
    solve_error: Array, server_info: ServerInfo, client_ids: Int[Array, "clients"]
) -> RoundInfo:
    """Put together what one would like to see of a round."""
    return RoundInfo(solve_error=solve_error, client_ids=client_ids, **server_info._asdict())


def run_rounds(
    federation: Federation,
    key: Key,
    state: ServerState,
    clients: PackedClients,
    *,
    num_rounds: int,
    row_capacity: int | None = None,
) -> tuple[ServerState, RoundInfo]:
    """Run rounds in one compiled program.

    Args:
        key: one key for all rounds; each round derives its own from its index.
        num_rounds: how many rounds to add to `state`.
        row_capacity: rows that a chunk of a cohort may need. Found from the key when not given,
            which a caller of cohorts that traces the key itself (a `vmap` over seeds) must do
            beforehand with `cohort_rows`.

    Returns:
        The state after the last round, and the info of all rounds, stacked.
    """
    if row_capacity is None:
        row_capacity = cohort_rows(federation, key, state, clients, num_rounds=num_rounds)
    return _scan_rounds(federation.round, num_rounds, row_capacity, key, state, clients)


def cohort_rows(
    federation: Federation, key: Key, state: ServerState, clients: PackedClients, *, num_rounds: int
) -> int:
    """Compute, on the host, a `row_capacity` that the cohorts of these rounds need."""
    if federation.takes_everybody or num_rounds == 0:
        return 1  # nothing is gathered
    num_users = clients.row_counts.shape[0]
    cohorts = _draw_rounds(federation.draw, num_rounds, num_users, key, state.round_index)
    return rows_needed(clients, cohorts, num_shares=federation.num_shares)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scan_rounds(run_round: Callable, num_rounds: int, row_capacity: int, key: Key, state, clients):
    def step(state: ServerState, _: None) -> tuple[ServerState, RoundInfo]:
        return run_round(key, state, clients, row_capacity=row_capacity)

    return jax.lax.scan(step, state, length=num_rounds)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _draw_rounds(draw: Callable, num_rounds: int, num_users: int, key: Key, first_round: Array) -> Array:
    rounds = first_round + jnp.arange(num_rounds)
    return jax.lax.map(lambda round_index: draw(key, round_index, num_users), rounds)


def _capacity(row_capacity: int | None, clients: PackedClients, client_ids: Array, num_shares: int) -> int:
    """Fall back on what is known: the cohort itself, or under tracing all the rows there are."""
    if row_capacity is not None:
        return row_capacity
    if isinstance(client_ids, jax.core.Tracer) or isinstance(clients.row_counts, jax.core.Tracer):
        return clients.owners.size
    return rows_needed(clients, client_ids, num_shares=num_shares)
