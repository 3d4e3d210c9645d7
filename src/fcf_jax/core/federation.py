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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
import optax
from jax import numpy as jnp
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float

from fcf_jax.core.checks import require, require_no_channel
from fcf_jax.core.cohorts import rows_needed, sum_over_cohort
from fcf_jax.core.features import checked_features
from fcf_jax.core.kernels.choice import suited
from fcf_jax.core.placement import kept_in_place
from fcf_jax.core.records import (
    Key,
    Link,
    Model,
    PackedClients,
    RoundInfo,
    Sampler,
    Scalar,
    ServerState,
    as_pytree,
)
from fcf_jax.core.round_parts import check_round, collect, draw, step, weights_of_users
from fcf_jax.core.sampling import Drawing, Sampling, draw_cohorts, drawing
from fcf_jax.core.server import draw_item_factors, server_init
from fcf_jax.core.setup import Setup


class Federation(NamedTuple):
    """Federated optimization of the item factors, as two pure functions.

    Both are pytrees whose leaves are the numbers of the model and the channel. Setting a federation up again
    with other numbers, but the same sizes and the same optimizer object, does not recompile.

    Attributes:
        init: key -> the first state, on the devices of the mesh; (key, item_factors) starts from these
            instead of drawn ones.
        round: (key, state, clients, *, row_capacity=None) -> (next state, info). Use the same key for all
            rounds: a round derives its keys from it and the state's round index. `row_capacity` is that of
            `run_rounds`.
    """

    init: Callable[..., ServerState]
    round: Callable[..., tuple[ServerState, RoundInfo]]


def federated_cf(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    num_items: int,
    num_factors: int,
    cohort_size: int | None = None,
    sampling: Sampling | Sampler | Drawing = "shuffled",
    init_scale: Scalar = 0.1,
    channel: Link | None = None,
    mesh: Mesh | None = None,
    item_features: Float[Array | np.ndarray, "items features"] | None = None,
    num_user_features: int = 0,
) -> Federation:
    """Set up Federated Collaborative Filtering.

    Args:
        model: weighting, lambda and w0.
        optimizer: the server's step: Adam as in the paper (`optax.adam`, `fcf_jax.optimizers.paper_adam`),
            another step of `fcf_jax.optimizers`, or any other optax transformation.
        num_items: M, the size of the catalogue.
        num_factors: K.
        cohort_size: Theta, the number of clients in a round, from 1 to N; None: all clients.
        sampling: "shuffled", "independent", "poisson" with Theta expected clients, a function of your own, as
            for `core.sampling.draw_cohort`, or `fcf_jax.channel.first_to_arrive`.
        init_scale: standard deviation of the first item factors.
        channel: links between clients and server, such as clipping and noise (`fcf_jax.channel`); the server
            step and the info use their output. None: no channel.
        mesh: devices that share a round's work, from `fcf_jax.parallel.client_mesh`; place state and
            clients on it too. The result is that of one device, up to the order of sums. If it splits the
            items, the item factors are padded with rows of zeros. None: one device.
        item_features: g_i of each item, from which the server learns B (`fcf_jax.features`); None: items have
            no features.
        num_user_features: length of f_u, for clients packed with features, from which the clients' sums give
            A; 0: users have no features.

    Raises:
        ValueError: for a size below 1, a negative number, an unknown sampling, no optax transformation,
            item features of another number of items, or user features with a channel.

    References:
        arXiv:1901.09888, Algorithm 1.
    """
    require(num_items=num_items, num_factors=num_factors, cohort_size=cohort_size)
    require(model=model, init_scale=init_scale, optimizer=optimizer, num_user_features=num_user_features)
    require_no_channel(channel, num_user_features=num_user_features)
    if item_features is not None:
        item_features = jnp.asarray(checked_features(item_features, num_items, name="item_features"))
    setup = Setup(
        model=as_pytree(model),
        channel=as_pytree(channel),
        init_scale=init_scale,
        optimizer=optimizer,
        num_items=num_items,
        num_factors=num_factors,
        cohort_size=cohort_size,
        sampling=drawing(sampling),
        mesh=mesh,
        item_features=item_features,
        num_user_features=num_user_features,
    )
    return federation_of(setup)


def federation_of(setup: Setup) -> Federation:
    """Return the federation of a setup, such as one whose numbers were replaced; inverse of `setup_of`."""
    return Federation(init=Partial(_init, setup), round=Partial(_round, setup))


def setup_of(federation: Federation) -> Setup:
    """Return the setup of a federation, for functions that move its clients themselves.

    Raises:
        ValueError: for a federation that `federated_cf` did not make.
    """
    run_round = federation.round
    if not isinstance(run_round, Partial) or run_round.func is not _round:
        raise ValueError("expected a federation made by federated_cf, got another; use federation.round")
    return run_round.args[0]


def _init(setup: Setup, key: Key, item_factors: Float[Array, "items factors"] | None = None) -> ServerState:
    require(key=key)
    num_padded, channel = setup.num_rows - setup.num_items, setup.channel
    if item_factors is None:
        item_factors = draw_item_factors(
            key,
            num_items=setup.num_items,
            num_factors=setup.num_factors,
            init_scale=setup.init_scale,
            biases=setup.model.biases,
        )
    elif item_factors.shape != (expected := (setup.num_items, setup.num_columns)):
        raise ValueError(f"expected item factors of shape {expected}, got {item_factors.shape}")
    if channel is not None and channel.item_weights is not None:  # items that are never sent stay 0
        item_factors = jnp.where(channel.item_weights[:, None] > 0, item_factors, 0.0)
    if num_padded:
        item_factors = jnp.pad(item_factors, ((0, num_padded), (0, 0)))
    state = server_init(
        item_factors, setup.optimizer, mesh=setup.mesh, num_user_features=setup.num_user_features
    )
    return state if channel is None else state._replace(channel_state=channel.init())


def _round(
    setup: Setup, key: Key, state: ServerState, clients: PackedClients, *, row_capacity: int | None = None
) -> tuple[ServerState, RoundInfo]:
    check_round(setup, state, clients, row_capacity=row_capacity)
    state, clients = as_pytree((kept_in_place(state, setup.mesh), clients))
    num_users = clients.row_counts.shape[0]
    cohort = draw(setup, key, state.round_index, num_users=num_users)
    collect_from = partial(collect, setup, key, state, weights_of_users(cohort, num_users=num_users))
    if setup.cohort_size is None:
        (total, solve_error), num_left_out = collect_from(clients), jnp.zeros((), jnp.int32)
    else:
        if row_capacity is None and not _is_traced(clients.row_counts, cohort.client_ids):
            row_capacity = rows_needed(clients, cohort.client_ids, num_shares=setup.num_shares)
        total, solve_error, num_left_out = sum_over_cohort(
            collect_from, clients, cohort.client_ids, row_capacity=row_capacity, num_shares=setup.num_shares
        )
    state, info = step(setup, key, state, total, num_users=num_users, item_counts=clients.item_counts)
    is_whole = num_left_out == 0
    return state, info._replace(
        loss=jnp.where(is_whole, info.loss, jnp.nan),
        solve_error=jnp.where(is_whole, solve_error, jnp.inf),
        client_ids=cohort.client_ids,
        num_left_out=num_left_out,
    )


def run_rounds(
    federation: Federation,
    key: Key,
    state: ServerState,
    clients: PackedClients,
    *,
    num_rounds: int,
    row_capacity: int | None = None,
    donate: bool = False,
) -> tuple[ServerState, RoundInfo]:
    """Run rounds in one compiled program.

    Args:
        federation: result of `federated_cf`.
        key: the key of all rounds; each round derives its own from it and the round index.
        state: state to begin with.
        clients: the histories of all clients, from which cohorts are gathered.
        num_rounds: number of rounds to run.
        row_capacity: rows of each device for a cohort, from `cohort_rows`: programs of several calls are then
            one, and more rows give the same bits. Clients that do not fit are left out, as
            `RoundInfo.num_left_out` tells. None: computed from the key; if that is traced, a number that
            suits most cohorts, and further turns for the others.
        donate: whether the memory of `state` is used for the next state, so that a large one is not held
            twice; the caller must not use `state` again. Without effect while tracing.

    Returns:
        The state after the last round, and the stacked infos of all rounds.

    Raises:
        ValueError: for arguments that do not fit together, such as clients of another catalogue.
    """
    require(key=key, num_rounds=num_rounds, clients=clients, row_capacity=row_capacity)
    if isinstance(federation.round, Partial) and federation.round.func is _round:
        check_round(setup_of(federation), state, clients)
        if row_capacity is None and not _is_traced(key, state.round_index, clients.row_counts):
            row_capacity = cohort_rows(federation, key, state, clients, num_rounds=num_rounds)
        clients = suited(setup_of(federation).model, clients)
    arguments = as_pytree(federation.round), key, state, clients
    # in another program, `jit` would keep what the optimizer closes over: tracers would leak
    is_traced = _is_traced(*jax.tree.leaves(arguments))
    scan = _scan_rounds if is_traced else _scan_rounds_in_place if donate else _scan_rounds_compiled
    return scan(num_rounds, row_capacity, *arguments)


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
    return rows_needed(clients, cohorts.client_ids, num_shares=setup.num_shares)


def _scan_rounds(num_rounds: int, row_capacity: int | None, run_round: Callable, key: Key, state, clients):
    options = {} if row_capacity is None else {"row_capacity": row_capacity}

    def next_round(state: ServerState, _: None) -> tuple[ServerState, RoundInfo]:
        return run_round(key, state, clients, **options)

    return jax.lax.scan(next_round, state, length=num_rounds)


_scan_rounds_compiled = jax.jit(_scan_rounds, static_argnums=(0, 1))
_scan_rounds_in_place = jax.jit(_scan_rounds, static_argnums=(0, 1), donate_argnums=4)


def _is_traced(*arrays: Any) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)
