r"""The federation: rounds of client updates, their sum and a server step, compiled as one program.

    model = Model(implicit_feedback(alpha=4.0), regularization=1.0)
    federation = federated_cf(model, optax.adam(0.05), num_items=..., num_factors=25)
    state = federation.init(key)
    state, info = federation.round(key, state, clients)

A round of Algorithm 1 draws a cohort, adds up its uploads (`collect`), and takes a server step (`step`) along

    dJ/dY = -2 (N / Theta) F + 2 lambda Y

where F is the sum of the uploads of Theta out of N clients.
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
    """Federated optimization of the item factors, as two pure functions.

    Both are pytrees whose leaves are the numbers of the model and the channel. Setting a federation up again
    with other numbers, but the same sizes and the same optimizer object, does not recompile.

    Attributes:
        init: key -> the first state; (key, item_factors) starts from these instead of drawn ones.
        round: (key, state, clients, *, row_capacity=None) -> (next state, info). Use the same key for all
            rounds: a round derives its keys from it and the state's round index.
    """

    init: Callable[..., ServerState]
    round: Callable[..., tuple[ServerState, RoundInfo]]


@partial(
    register_dataclass,
    data_fields=["model", "channel", "init_scale"],
    meta_fields=["optimizer", "num_items", "num_factors", "cohort_size", "sampling", "mesh"],
)
@dataclass(frozen=True)
class Setup:
    """The arguments of `federated_cf`: numbers of the first three may be traced, all else is static."""

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
        """Number of devices that share the clients of a round."""
        return 1 if self.mesh is None else self.mesh.shape["clients"]

    @property
    def num_rows(self) -> int:
        """Rows of the item factors: the items, padded to a multiple of the devices that split them."""
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
        optimizer: the server's step: Adam as in the paper (`optax.adam`, `fcf_jax.optimizers.paper_adam`),
            another step of `fcf_jax.optimizers`, or any other optax transformation.
        num_items: M, the size of the catalogue.
        num_factors: K.
        cohort_size: Theta, the number of clients in a round, from 1 to N; None: all clients.
        sampling: "shuffled", "independent", or "poisson" with Theta expected clients; see `core.sampling`.
        init_scale: standard deviation of the first item factors.
        channel: links between clients and server, such as clipping and noise (`fcf_jax.channel`); the server
            step and the info use their output. None: no channel.
        mesh: devices that share a round's work, from `fcf_jax.parallel.client_mesh`; place state and
            clients on it too. The result is that of one device, up to the order of sums. If it splits the
            items, the item factors are padded with rows of zeros. None: one device.

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
    """Return the setup of a federation, for functions that move its clients themselves.

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
    """Return the first state, with these item factors and a new optimizer state."""
    return ServerState(item_factors, optimizer.init(item_factors), jnp.zeros((), jnp.int32))


def server_update(
    model: Model,
    state: ServerState,
    sums: CohortSum,
    optimizer: optax.GradientTransformation,
    *,
    num_users: int,
) -> tuple[ServerState, RoundInfo]:
    """Update the item factors with the gradient that the cohort's sums estimate.

    The sums over Theta clients are scaled by N / Theta to estimate those over all N users; the lambda term is
    added once and not scaled. A round without clients changes only the round index.

    Args:
        model: gives lambda.
        state: state before the round.
        sums: sums over the cohort.
        optimizer: any optax transformation; as extra arguments it gets `model`, `num_users`, and, scaled by
            N / Theta, `user_gram`, `confidence_sum` and `value` (the loss).
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
    """Draw the first item factors from N(0, init_scale^2).

    `fit_als` and `federation.init` draw the same factors from the same key.
    """
    return init_scale * jax.random.normal(key, (num_items, num_factors))


def collect(setup: Setup, key: Key, state: ServerState, clients: PackedClients) -> tuple[Any, Array]:
    """Add up the uploads of the cohort `clients`, from the state before the round and the key of all rounds.

    Returns the total, not yet read, and the largest solve error.
    """
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
    """Read the total of `collect`, apply the channel's server ends, and update the server's state."""
    channel, model = setup.channel, setup.model
    sums = accumulation_of(channel).read(model, state.item_factors, total)
    if channel is not None:
        key_server = round_keys(key, state.round_index).server
        sums, channel_state = channel.server(key_server, state.channel_state, sums)
        state = state._replace(channel_state=channel_state)
        if setup.num_rows > setup.num_items:  # take the noise off padding rows
            sums = sums._replace(upload=sums.upload.at[setup.num_items :].set(0.0))
    return server_update(model, state, sums, setup.optimizer, num_users=num_users)


def _init(setup: Setup, key: Key, item_factors: Float[Array, "items factors"] | None = None) -> ServerState:
    num_padded, channel = setup.num_rows - setup.num_items, setup.channel
    if item_factors is None:
        item_factors = draw_item_factors(
            key, num_items=setup.num_items, num_factors=setup.num_factors, init_scale=setup.init_scale
        )
    elif item_factors.shape != (setup.num_items, setup.num_factors):
        expected = (setup.num_items, setup.num_factors)
        raise ValueError(f"expected item factors of shape {expected}, got {item_factors.shape}")
    if channel is not None and channel.item_weights is not None:  # items that are never sent stay 0
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
        federation: result of `federated_cf`.
        key: the key of all rounds; each round derives its own from it and the round index.
        state: state to begin with.
        clients: the histories of all clients, from which cohorts are gathered.
        num_rounds: number of rounds to run.
        row_capacity: rows per chunk of a cohort; None: computed from the key. If cohorts are sampled and the
            key is traced (a `vmap` over seeds), compute it beforehand with `cohort_rows`.

    Returns:
        The state after the last round, and the stacked infos of all rounds.
    """
    if row_capacity is None:
        row_capacity = cohort_rows(federation, key, state, clients, num_rounds=num_rounds)
    return _scan_rounds(num_rounds, row_capacity, as_pytree(federation.round), key, state, clients)


def cohort_rows(
    federation: Federation, key: Key, state: ServerState, clients: PackedClients, *, num_rounds: int
) -> int:
    """Compute, on the host, the `row_capacity` of these rounds; arguments as for `run_rounds`."""
    setup = setup_of(federation)
    if setup.cohort_size is None or num_rounds == 0:
        return 1  # unused: nothing is gathered
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
    """Return `row_capacity`; if None, the rows that this cohort needs, or all rows under tracing."""
    if row_capacity is not None:
        return row_capacity
    if isinstance(client_ids, jax.core.Tracer) or isinstance(clients.row_counts, jax.core.Tracer):
        return clients.owners.size
    return rows_needed(clients, client_ids, num_shares=num_shares)
