"""The parts of a round: its cohort, the sum of its uploads, and the server's step."""

from typing import Any

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from fcf_jax.core.accumulation import accumulation_of, received
from fcf_jax.core.checks import require, require_catalogue, require_num_features
from fcf_jax.core.cohort_sum import accumulate
from fcf_jax.core.objective import for_items
from fcf_jax.core.placement import kept_in_place, sharing_of
from fcf_jax.core.precision import cast, cast_like, precision_of
from fcf_jax.core.records import Cohort, Key, PackedClients, RoundInfo, ServerState
from fcf_jax.core.sampling import draw_cohort, round_keys
from fcf_jax.core.server import server_update
from fcf_jax.core.setup import Setup


def draw(setup: Setup, key: Key, round_index: Array, *, num_users: int) -> Cohort:
    """Draw the cohort of a round."""
    return draw_cohort(
        key, round_index, num_users=num_users, cohort_size=setup.cohort_size, sampling=setup.sampling
    )


def collect(
    setup: Setup,
    key: Key,
    state: ServerState,
    user_weights: Float[Array, "users"] | None,
    clients: PackedClients,
) -> tuple[Any, Array]:
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
        sharing=sharing_of(state, setup.mesh),
        user_weights=user_weights,
        user_map=None if state.features is None else state.features.user_map,
    )


def weights_of_users(cohort: Cohort, *, num_users: int) -> Float[Array, "users"] | None:
    """Return the cohort's weights by user id, 0 for all others; None if all are 1."""
    if cohort.weights is None:
        return None
    weights = jnp.zeros(num_users, cohort.weights.dtype)
    return weights.at[cohort.client_ids].set(cohort.weights, mode="drop")


def step(
    setup: Setup,
    key: Key,
    state: ServerState,
    total: Any,
    *,
    num_users: int,
    item_counts: Int[Array | np.ndarray, "items"],
) -> tuple[ServerState, RoundInfo]:
    """Read the total of `collect`, apply the channel's server ends, and update the server's state."""
    precision = precision_of(state.item_factors)
    model, channel, item_factors = cast((setup.model, setup.channel, state.item_factors), precision)
    keys, channel_state = round_keys(key, state.round_index), cast(state.channel_state, precision)
    sums = accumulation_of(channel).read(
        model, received(channel, keys.client, channel_state, item_factors), total
    )
    if channel is not None:
        sums, channel_state = channel.server(keys.server, channel_state, sums)
        state = state._replace(channel_state=cast_like(channel_state, state.channel_state))
        if setup.num_rows > setup.num_items:  # take the noise off padding rows
            sums = sums._replace(upload=sums.upload.at[setup.num_items :].set(0.0))
    model = for_items(model, jnp.pad(item_counts, (0, setup.num_rows - setup.num_items)), num_users)
    sharing = sharing_of(state, setup.mesh)
    item_features = setup.item_features
    if item_features is not None:
        item_features = jnp.pad(item_features, ((0, setup.num_rows - setup.num_items), (0, 0)))
    state, info = server_update(
        model,
        state,
        sums,
        setup.optimizer,
        num_users=num_users,
        sharing=sharing,
        item_features=item_features,
    )
    return kept_in_place(state, setup.mesh), info


def check_round(
    setup: Setup, state: ServerState, clients: PackedClients, *, row_capacity: int | None = None
) -> None:
    """Check that state and clients are of the sizes of the federation.

    Raises:
        ValueError: if they are not.
    """
    require(clients=clients, row_capacity=row_capacity)
    require_catalogue(setup.num_items, name="num_items", clients=clients)
    require_num_features(setup.num_user_features, clients)
    found, expected = state.item_factors.shape, (setup.num_rows, setup.num_columns)
    if found != expected:
        raise ValueError(
            f"expected a state with item factors {expected}, as num_items and num_factors say, got {found}; "
            "begin with federation.init, or with server_init and item factors of these sizes"
        )
