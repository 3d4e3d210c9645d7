r"""The federation: rounds of client updates, their sum and a server step, compiled as one program.

    model = Model(implicit_feedback(alpha=4.0), regularization=1.0)
    federation = federated_cf(model, optax.adam(0.05), num_items=..., num_factors=25)
    state = federation.init(key)
    state, info = federation.round(key, state, clients)

One round of Algorithm 1: draw a cohort, `collect` what it sends (`core.cohort_sum`), `step` the server with

    dJ/dY = -2 (N / Theta) F + 2 lambda Y
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import optax
from jax import numpy as jnp
from jax.sharding import Mesh
from jax.tree_util import Partial, register_dataclass
from jaxtyping import Array, Float

from fcf_jax.core.cohort_sum import accumulate, accumulation_of
from fcf_jax.core.packing import gather_cohort, rows_needed
from fcf_jax.core.records import (
    CohortSum,
    Key,
    Link,
    Model,
    PackedClients,
    RoundInfo,
    Scalar,
    ServerState,
    as_pytree,
)
from fcf_jax.core.sampling import Sampling, draw_cohort, draw_cohorts, round_keys


class Federation(NamedTuple):
    """A federated optimization of shared item factors, as two pure functions.

    Both are pytrees: the model's and the channel's numbers are leaves, so a federation that is set up again
    with other numbers, the same sizes and the same optimizer object compiles nothing.

    Attributes:
        init: key -> the first state.
        round: (key, state, clients, *, row_capacity=None) -> (state, info). The same key may be given to
            every round: each derives its own from the state's round index.
    """

    init: Callable[[Key], ServerState]
    round: Callable[..., tuple[ServerState, RoundInfo]]


@partial(
    register_dataclass,
    data_fields=["model", "channel", "init_scale"],
    meta_fields=["optimizer", "num_items", "num_factors", "cohort_size", "sampling", "mesh"],
)
@dataclass(frozen=True)
class Setup:
    """What a federation is made of; numbers may be traced, sizes and the optimizer are static."""

    model: Model
    channel: Link | None
    init_scale: Scalar
    optimizer: optax.GradientTransformation
    num_items: int
    num_factors: int
    cohort_size: int | None
    sampling: Sampling
    mesh: Mesh | None

    @property
    def num_shares(self) -> int:
        """Devices that share the clients of a round."""
        return 1 if self.mesh is None else self.mesh.shape["clients"]

    @property
    def num_rows(self) -> int:
        """Rows of the item factors: items, and padding that makes them divide among devices."""
        return self.num_items + (0 if self.mesh is None else -self.num_items % self.mesh.shape["items"])


def federated_cf(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    num_items: int,
    num_factors: int,
    cohort_size: int | None = None,
    sampling: Sampling = "shuffled",
    init_scale: Scalar = 0.1,
    channel: Link | None = None,
    mesh: Mesh | None = None,
) -> Federation:
    """Set up Federated Collaborative Filtering.

    Args:
        model: weighting, lambda and w0.
        optimizer: the server's step: the paper's Adam (`optax.adam`, `fcf_jax.optimizers.paper_adam`), one of
            ours (`guarded_gram`, `running_sums`, ...) or any other optax transformation.
        num_items: M, the size of the catalogue.
        num_factors: K.
        cohort_size: Theta, the different clients of each round; None: everybody.
        sampling: how cohorts are drawn, "shuffled", "independent" or "poisson": see `draw_cohort`;
            under the last, Theta is the expected number.
        init_scale: standard deviation of the first item factors.
        channel: what lies between clients and server, such as clipping and noise (`fcf_jax.channel`); the
            server steps on, and the info reports, what the channel lets through. None: nothing.
        mesh: devices that share a round's work, from `fcf_jax.parallel.client_mesh`; place state and
            clients there too. The outcome is that of one device, but for the order of sums. Where
            the items are split as well, rows of zeros fill up the item factors of the last device.

    Raises:
        ValueError: for a size below 1.

    References:
        arXiv:1901.09888, Algorithm 1.
    """
    for name, size in (("num_items", num_items), ("num_factors", num_factors), ("cohort_size", cohort_size)):
        if size is not None and size < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}")
    setup = Setup(
        model=as_pytree(model),
        channel=as_pytree(channel),
        init_scale=init_scale,
        optimizer=optimizer,
        num_items=num_items,
        num_factors=num_factors,
        cohort_size=cohort_size,
        sampling=sampling,
        mesh=mesh,
    )
    return Federation(init=Partial(_init, setup), round=Partial(_round, setup))


def setup_of(federation: Federation) -> Setup:
    """Return what a federation was made of, for those who move the data themselves.

    Raises:
        ValueError: for a federation that `federated_cf` did not make.
    """
    parts = getattr(federation.round, "args", ())
    if not parts or not isinstance(parts[0], Setup):
        raise ValueError("expected a federation made by federated_cf, got another")
    return parts[0]


def server_init(
    item_factors: Float[Array, "items factors"], optimizer: optax.GradientTransformation
) -> ServerState:
    """Begin with these item factors and a fresh optimizer."""
    return ServerState(item_factors, optimizer.init(item_factors), jnp.zeros((), jnp.int32))


def server_update(
    model: Model,
    state: ServerState,
    sums: CohortSum,
    optimizer: optax.GradientTransformation,
    *,
    num_users: int,
) -> tuple[ServerState, RoundInfo]:
    """Step on the item factors with the gradient that the cohort's sums estimate.

    The sums of Theta clients are scaled by N / Theta to stand for all N users; lambda is added once, here,
    and is not scaled. A round in which no client took part changes only the round index.

    Args:
        model: whose lambda counts.
        state: before the round.
        sums: of the cohort.
        optimizer: any optax transformation; one that takes extra arguments is given `model`, `num_users`,
            `user_gram`, `confidence_sum` and `value` (the loss), the last three scaled as the gradient.
        num_users: N, at least the number of clients in the sums.

    Returns:
        The next state, and the info of the round without `solve_error` and `client_ids`.

    References:
        arXiv:1901.09888, Algorithm 1, the server's update.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    item_factors, optimizer_state = state.item_factors, state.optimizer_state
    scale = num_users / jnp.maximum(sums.num_clients, 1).astype(item_factors.dtype)
    gradient = -2.0 * scale * sums.upload + 2.0 * model.regularization * item_factors
    loss = scale * sums.loss + model.regularization * jnp.sum(item_factors**2)
    updates, next_optimizer_state = optimizer.update(
        gradient,
        optimizer_state,
        item_factors,
        model=model,
        num_users=num_users,
        user_gram=scale * sums.user_gram,
        confidence_sum=scale * sums.confidence_sum,
        value=loss,
    )
    has_clients = sums.num_clients > 0
    stepped = (optax.apply_updates(item_factors, updates), next_optimizer_state)
    item_factors, optimizer_state = optax.tree.where(has_clients, stepped, (item_factors, optimizer_state))
    info = RoundInfo(
        loss=loss,
        gradient_norm=jnp.linalg.norm(gradient),
        solve_error=jnp.zeros((), item_factors.dtype),
        num_clients=sums.num_clients,
        num_clipped=sums.num_clipped,
        num_clipped_entries=jnp.asarray(sums.num_clipped_entries),
        client_ids=jnp.zeros(0, jnp.int32),
    )
    next_round = state.round_index + 1
    return state._replace(
        item_factors=item_factors, optimizer_state=optimizer_state, round_index=next_round
    ), info


def draw_item_factors(
    key: Key, *, num_items: int, num_factors: int, init_scale: Scalar = 0.1
) -> Float[Array, "items factors"]:
    """Draw the first item factors, normal with this standard deviation.

    `fit_als` and `federation.init` draw the same start from the same key.
    """
    return init_scale * jax.random.normal(key, (num_items, num_factors))


def collect(setup: Setup, key: Key, state: ServerState, clients: PackedClients) -> tuple[Any, Array]:
    """Add up what these clients send in one round: the total, not yet read, and the worst solve error."""
    return accumulate(
        setup.model,
        state.item_factors,
        clients,
        channel=setup.channel,
        channel_state=state.channel_state,
        key=round_keys(key, state.round_index).client,
        mesh=setup.mesh,
    )


def step(
    setup: Setup, key: Key, state: ServerState, total: Any, *, num_users: int
) -> tuple[ServerState, RoundInfo]:
    """Read the total, pass it through the channel's server ends, and step."""
    channel, model = setup.channel, setup.model
    sums = accumulation_of(channel).read(model, state.item_factors, total)
    if channel is not None:
        key_server = round_keys(key, state.round_index).server
        sums, channel_state = channel.server(key_server, state.channel_state, sums)
        state = state._replace(channel_state=channel_state)
        if setup.num_rows > setup.num_items:  # rows that fill up the last device are no items: no noise
            sums = sums._replace(upload=sums.upload.at[setup.num_items :].set(0.0))
    return server_update(model, state, sums, setup.optimizer, num_users=num_users)


def _init(setup: Setup, key: Key) -> ServerState:
    num_padded, channel = setup.num_rows - setup.num_items, setup.channel
    item_factors = draw_item_factors(
        key, num_items=setup.num_items, num_factors=setup.num_factors, init_scale=setup.init_scale
    )
    if channel is not None and channel.item_weights is not None:  # an item that is never sent stays 0
        item_factors = jnp.where(channel.item_weights[:, None] > 0, item_factors, 0.0)
    state = server_init(jnp.pad(item_factors, ((0, num_padded), (0, 0))), setup.optimizer)
    return state if channel is None else state._replace(channel_state=channel.init())


def _round(
    setup: Setup, key: Key, state: ServerState, clients: PackedClients, *, row_capacity: int | None = None
) -> tuple[ServerState, RoundInfo]:
    num_users = clients.row_counts.shape[0]
    client_ids = draw_cohort(
        key,
        state.round_index,
        num_users=num_users,
        cohort_size=setup.cohort_size,
        sampling=setup.sampling,
    )
    if setup.cohort_size is not None:
        capacity = _capacity(row_capacity, clients, client_ids, setup.num_shares)
        clients = gather_cohort(clients, client_ids, row_capacity=capacity, num_shares=setup.num_shares)
    total, solve_error = collect(setup, key, state, clients)
    state, info = step(setup, key, state, total, num_users=num_users)
    return state, info._replace(solve_error=solve_error, client_ids=client_ids)


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
        federation: from `federated_cf`.
        key: one key for all rounds; each round derives its own from its index.
        state: where to begin.
        clients: everybody's histories; cohorts are gathered from them.
        num_rounds: how many rounds to add to `state`.
        row_capacity: rows that a chunk of a cohort may need; None: found from the key. A caller of cohorts
            that traces the key itself (a `vmap` over seeds) must compute it beforehand with `cohort_rows`.

    Returns:
        The state after the last round, and the info of all rounds, stacked.
    """
    if row_capacity is None:
        row_capacity = cohort_rows(federation, key, state, clients, num_rounds=num_rounds)
    return _scan_rounds(num_rounds, row_capacity, as_pytree(federation.round), key, state, clients)


def cohort_rows(
    federation: Federation, key: Key, state: ServerState, clients: PackedClients, *, num_rounds: int
) -> int:
    """Compute, on the host, a `row_capacity` that the cohorts of these rounds need."""
    setup = setup_of(federation)
    if setup.cohort_size is None or num_rounds == 0:
        return 1  # nothing is gathered
    cohorts = draw_cohorts(
        key,
        state.round_index,
        num_rounds=num_rounds,
        num_users=clients.row_counts.shape[0],
        cohort_size=setup.cohort_size,
        sampling=setup.sampling,
    )
    return rows_needed(clients, cohorts, num_shares=setup.num_shares)


@partial(jax.jit, static_argnums=(0, 1))
def _scan_rounds(num_rounds: int, row_capacity: int, run_round: Callable, key: Key, state, clients):
    def next_round(state: ServerState, _: None) -> tuple[ServerState, RoundInfo]:
        return run_round(key, state, clients, row_capacity=row_capacity)

    return jax.lax.scan(next_round, state, length=num_rounds)


def _capacity(row_capacity: int | None, clients: PackedClients, client_ids: Array, num_shares: int) -> int:
    """Fall back on the cohort itself, or under tracing on all the rows there are."""
    if row_capacity is not None:
        return row_capacity
    if isinstance(client_ids, jax.core.Tracer) or isinstance(clients.row_counts, jax.core.Tracer):
        return clients.owners.size
    return rows_needed(clients, client_ids, num_shares=num_shares)
